"""Every file that a recipe names, looked at before anything is collected or computed: is it there, and does it fit?

Configs and the names and shapes of tensors are held to what will be made of them; no weights [D, D_in] are read. All that
is missing is said in one list, with where it comes from, how large it is and under which licence.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from understudy.codecs.wan import check_vae
from understudy.discriminators.build import check_discriminator
from understudy.discriminators.videoreward.config import VideoRewardConfig
from understudy.errors import CheckpointError, MissingExtra, UnderstudyError
from understudy.recipes.config import FilePromptsConfig, RunConfig
from understudy.run.arm import settings_of
from understudy.run.cost import latent_form
from understudy.run.folder import main_arm
from understudy.students.checkpoints.read import names_public_checkpoint
from understudy.students.checkpoints.start import check_parts, checked_spec, start_checkpoint
from understudy.students.umt5 import check_umt5
from understudy.teachers.folder.config import FolderTeacherConfig

_WAN: Final = "Wan-AI/Wan2.1-T2V-1.3B on huggingface.co"
_PUBLIC: Final = "CC BY-NC-SA 4.0 as its page says"
SOURCES: Final = {
    "selfforcing": ("gdhe17/Self-Forcing on huggingface.co, checkpoints/self_forcing_dmd.pt", "5.7 GB", _PUBLIC),
    "causalforcing": ("the download links of thu-ml/Causal-Forcing on github.com", "5.7 GB", "see its page"),
    "longlive": (
        "Efficient-Large-Model/LongLive-1.3B on huggingface.co, models/longlive_base.pt",
        "5.7 GB",
        "see its page",
    ),
    "causvid": ("tianweiy/CausVid on huggingface.co", "5.7 GB", "CC BY-NC-SA 4.0"),
    "adapter": ("beside its base, as models/lora.pt of Efficient-Large-Model/LongLive-1.3B", "1.4 GB", "see its page"),
    "codec": (f"{_WAN}, Wan2.1_VAE.pth", "0.5 GB", "Apache-2.0"),
    "text": (f"{_WAN}, models_t5_umt5-xxl-enc-bf16.pth and google/umt5-xxl", "11.4 GB", "Apache-2.0"),
    "judge": ("Qwen/Qwen2-VL-2B-Instruct on huggingface.co", "4.4 GB", "Apache-2.0"),
    "reward": ("KwaiVGI/VideoReward on huggingface.co", "4.4 GB or more", "see its page"),
}
"""Where public files come from, about how large they are, and under which licence, by what they are."""

OWN_FILES: Final = ("teacher.", "prompts.")
"""Beginnings of the keys of files that are the user's own to make."""


@dataclass(frozen=True)
class Look:
    """What was found of one thing that a recipe names.

    Attributes:
        key: of the recipe, or a package.
        ok: True: fine; None: to be known before training; False: training cannot start.
        said: what was found.
        missing: whether it is not there at all, as opposed to not fitting.
    """

    key: str
    ok: bool | None
    said: str
    missing: bool = False

    def __str__(self) -> str:
        """Return it on one line."""
        return f"{self.key}: {' '.join(self.said.split())}"


def look(config: RunConfig) -> list[Look]:
    """Look at every path of the recipe, and at the packages that it needs; nothing is raised, read whole or written."""
    return [*_packages(config), *_student(config), *_discriminator(config), *_prompts(config)]


def refuse(config: RunConfig) -> list[Look]:
    """Return what ``look`` finds worth knowing; all that keeps training from starting is one error, a line for each.

    Raises:
        CheckpointError: something is missing or does not fit.
    """
    found = look(config)
    wrong = [item for item in found if item.ok is False]
    if any(
        not item.key.startswith(OWN_FILES) for item in wrong
    ):  # what is wrong with those alone, their readers say best
        raise CheckpointError("\n".join(map(str, wrong)))
    return [item for item in found if item.ok is None]


def _packages(config: RunConfig) -> Iterator[Look]:
    """Yield the packages that are not installed."""
    needed: dict[str, str] = {}
    if config.student.codec is not None:
        needed["diffusers"] = "student.codec"
    if config.student.text is not None:
        needed["transformers"] = "student.text"
    if config.student.lora is not None:
        needed["peft"] = "student.lora"
    if _judged(config) and isinstance(config.discriminator, VideoRewardConfig):
        needed |= {"transformers": "discriminator", "peft": "discriminator"}
    for package, key in needed.items():
        if find_spec(package) is None:
            yield Look(f"package {package}", False, f"{key} needs it: pip install 'understudy[wan]'", missing=True)


def _student(config: RunConfig) -> Iterator[Look]:
    """Yield what is found of the start student and its parts."""
    own = config.student
    if own.kind == "python":
        return
    public = own.preset is not None or names_public_checkpoint(own.start)
    if own.codec is not None:
        path = own.codec.path
        yield _part("student.codec.path", path, "codec", lambda: f"{check_vae(path).place}")
    if own.text is not None:
        place = own.text.path
        yield _part("student.text.path", place, "text", lambda: f"{check_umt5(place).encoder}")
    if not public:
        return
    family = (own.preset or "").partition("_")[0]
    adapter = own.adapter is not None and Path(own.adapter).exists()
    notes: list[str] = []

    def fits() -> str:
        check_parts(own)
        found = start_checkpoint(own, headers=True, adapter=adapter)
        checked_spec(own, found.sizes, own.start, latent_form(own, found.sizes))
        notes.append(found.bidirectional)
        return found.origin

    yield _part("student.start", Path(own.start), family, fits)
    if own.adapter is not None and not adapter:
        yield _part("student.adapter", Path(own.adapter), "adapter", lambda: "")
    if notes and notes[0]:
        yield Look(
            "student.start",
            None,
            f"looks like a bidirectional Wan ({notes[0]}): its weights fit, but it was never made causal or few-step, and "
            "will draw poorly block by block; start from a causal checkpoint, such as Self-Forcing's",
        )


def _discriminator(config: RunConfig) -> Iterator[Look]:
    """Yield what is found of a discriminator's files, where the run has one."""
    judge = config.discriminator
    if not _judged(config):
        return
    if not isinstance(judge, VideoRewardConfig):
        return
    paths = (("path", judge.path, "judge"), ("reward", judge.reward, "reward"), ("weights", judge.weights, ""))
    gone = [(key, path, what) for key, path, what in paths if path is not None and not path.exists()]
    for key, path, what in gone:
        yield _part(f"discriminator.{key}", path, what, lambda: "")
    if gone:
        return

    def fits() -> str:
        check_discriminator(judge, 16.0)
        return f"{judge.path}{f' with {judge.reward}' if judge.reward else ''}"

    yield _part("discriminator.path", judge.path, "judge", fits)


def _prompts(config: RunConfig) -> Iterator[Look]:
    """Yield files of prompts and a folder of clips that are not there; what is in them is another's business."""
    places: dict[str, Path] = {}
    if isinstance(config.teacher, FolderTeacherConfig):
        places["teacher.path"] = config.teacher.path
    if isinstance(config.prompts, FilePromptsConfig):
        places |= {"prompts.train": config.prompts.train, "prompts.held_out": config.prompts.held_out}
    for key, path in places.items():
        if not path.exists():
            yield Look(key, False, f"{path} does not exist: it is yours to make", missing=True)


def _judged(config: RunConfig) -> bool:
    """Return whether any arm of the run has a discriminator."""
    return any(settings_of(config, name)[0].judged for name in (*config.compare, main_arm(config)))


def _part(key: str, path: Path, what: str, fits: Callable[[], str]) -> Look:
    """Return what is found of ``path``: missing, with its source; not fitting, with the reason; or fine."""
    if not path.exists():
        source = SOURCES.get(what)
        said = f"; {source[0]}, {source[1]}, {source[2]}" if source else ""
        return Look(key, False, f"{path} is missing{said}", missing=True)
    try:
        return Look(key, True, fits())
    except MissingExtra as error:
        return Look(key, None, f"{path} is there and was not looked at ({error})")
    except UnderstudyError as error:
        return Look(key, False, str(error))
