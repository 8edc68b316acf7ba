"""How requests are written as data: templates whose {fields} are filled for each clip.

Fields: {prompt} {seed} {frames} {fps} {width} {height} {size} (832x480) {ratio} (16:9) {resolution} (480p) {seconds}
{duration} (whole seconds, rounded up) {key} (of the submission). A field that is a whole value keeps its type;
``{frames!s}`` makes it text, ``{resolution!u}`` upper case. What was left to the teacher is left out.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from understudy.teachers.base import ClipParams, ClipRequest

FIELD = re.compile(r"\{(\w+)(!s|!u)?\}")
_NEEDS = {
    "frames": ("frames",),
    "fps": ("fps",),
    "width": ("width",),
    "height": ("height",),
    "size": ("width", "height"),
    "ratio": ("width", "height"),
    "resolution": ("width", "height"),
    "seconds": ("frames", "fps"),
    "duration": ("frames", "fps"),
}


def request_fields(request: ClipRequest) -> dict[str, Any]:
    """Return the value of every field for this request."""
    asked = asdict(request.params)
    width, height, frames, fps = asked["width"], asked["height"], asked["frames"], asked["fps"]
    values: dict[str, Any] = {**asked, "prompt": request.prompt, "seed": request.seed, "key": request.key}
    if isinstance(fps, float) and fps.is_integer():
        values["fps"] = int(fps)
    if width and height:
        across = math.gcd(width, height)
        values |= {"size": f"{width}x{height}", "resolution": f"{min(width, height)}p"}
        values["ratio"] = _nearest_ratio(width / height) or f"{width // across}:{height // across}"
    if frames and fps:
        seconds = frames / fps
        values |= {"seconds": round(seconds, 3), "duration": math.ceil(seconds - 0.1)}
    return values


def asked_by(templates: Any, params: ClipParams) -> ClipParams:
    """Return what of ``params`` the templates send: a record says of the rest that it was left to the teacher."""
    fields = {found[1] for found in FIELD.finditer(str(templates))}
    sent = {name for field in fields for name in _NEEDS.get(field, ())}
    return ClipParams(**{name: value if name in sent else None for name, value in asdict(params).items()})


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """Return ``template`` with its {fields} filled; one that is a whole value keeps its type, and None drops it."""
    if isinstance(template, Mapping):
        filled = {name: fill(value, values) for name, value in template.items()}
        return {name: value for name, value in filled.items() if value is not None}
    if isinstance(template, list | tuple):
        return [value for item in template if (value := fill(item, values)) is not None]
    if not isinstance(template, str):
        return template
    if whole := FIELD.fullmatch(template):
        value = values.get(whole[1])
        if value is None or whole[2] is None:
            return value
        return str(value).upper() if whole[2] == "!u" else str(value)
    return FIELD.sub(lambda found: str(values.get(found[1], "")), template)


def _nearest_ratio(ratio: float) -> str:
    """Return the usual name of an aspect ratio within three per cent."""
    names = {"16:9": 16 / 9, "9:16": 9 / 16, "4:3": 4 / 3, "3:4": 3 / 4, "1:1": 1.0, "21:9": 21 / 9}
    return next((name for name, value in names.items() if abs(ratio / value - 1) < 0.03), "")
