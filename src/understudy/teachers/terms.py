"""What is known about teachers' terms of use; the notes themselves are data (terms.toml)."""

import re
import tomllib
from importlib.resources import files

from understudy.teachers.base import Terms


def known_terms(service: str, model: str = "") -> Terms:
    """Return the note on ``model``, or else on ``service``; ``unknown`` where there is none."""
    notes = tomllib.loads(files("understudy.teachers").joinpath("terms.toml").read_text(encoding="utf-8"))
    for pattern, note in notes["models"].items():
        own_server = service in ("openai-videos", "comfyui", "diffusers")  # elsewhere the host's terms apply as well
        if re.search(pattern, model) and (own_server or note["training"] != "yes"):
            return Terms(**note)
    if service in notes and service != "models":
        return Terms(**notes[service])
    return Terms("unknown", "nobody has noted what the terms of this teacher say")
