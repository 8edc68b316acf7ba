"""A run folder's beginning: from a few answers to a recipe, its prompt files, and the steps to a trained student."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from understudy.errors import ConfigError
from understudy.files import new_path, write_text_atomic
from understudy.objectives.afd.config import AFDConfig
from understudy.prompts import read_prompts
from understudy.recipes.config import RunConfig
from understudy.recipes.files import load_recipe
from understudy.recipes.shipped import FOLDER
from understudy.run.cost import WanCost, cost_lines
from understudy.students.checkpoints.start import chosen_preset, clip_form, sizes_of_spec, spec_of
from understudy.students.wan.spec import wan_1_3b
from understudy.teachers.folder.teacher import FolderTeacher
from understudy.teachers.terms import known_terms

Student = Literal["frame", "block", "selfforcing", "causalforcing_chunk", "causalforcing_frame", "longlive"]
TeacherKind = Literal["world", "clips", "api", "comfyui", "diffusers"]

STUDENTS: Final[dict[Student, tuple[str, str]]] = {
    "frame": ("quickstart", "small, frame-wise, comes with the package; knows falling balls; minutes on a CPU"),
    "block": ("block", "small, block-wise, comes with the package; knows falling balls; minutes on a CPU"),
    "selfforcing": (
        "selfforcing_1.3b",
        "Wan2.1 1.3B, Self-Forcing, 832x480; one GPU of 80 GB; weights not for commerce",
    ),
    "causalforcing_chunk": ("causalforcing_1.3b_chunk", "Wan2.1 1.3B, Causal-Forcing, chunk-wise; one GPU of 80 GB"),
    "causalforcing_frame": ("causalforcing_1.3b_frame", "Wan2.1 1.3B, Causal-Forcing, frame-wise; one GPU of 80 GB"),
    "longlive": ("longlive_1.3b", "Wan2.1 1.3B, LongLive, rolls for minutes; one GPU of 80 GB"),
}
"""(recipe that it builds on, one line about it) of every student that can be chosen."""

TEACHERS: Final[dict[TeacherKind, str]] = {
    "clips": "a folder of clips that you have",
    "api": "a service or server over HTTP: fal, openrouter, ark, minimax, replicate, or your own /v1/videos",
    "comfyui": "a workflow of your own ComfyUI",
    "diffusers": "a text-to-video pipeline of diffusers on this machine",
    "world": "the embedded physics world, for the small students",
}
"""One line about every kind of teacher."""

_FLOPS_A_SECOND: Final = 350e12  # about a third of an H100's peak in bfloat16; an assumption, not a measurement
_HELD_OUT: Final = 0.1
_STRIDE: Final = 8


@dataclass(frozen=True)
class Answers:
    """What `understudy init` asks.

    Attributes:
        student, teacher: one of `STUDENTS`, one of `TEACHERS`.
        source: the clips, the workflow's file or the pipeline, as the teacher needs it.
        prompts: a file of prompts; a folder of clips brings its own.
        shape, model, url: of a service; price: of one of its clips, in its currency.
        gpus: on this machine.
        downloads: folder for weights.
    """

    student: Student
    teacher: TeacherKind
    source: Path | None = None
    prompts: Path | None = None
    shape: str = "openai-videos"
    model: str = ""
    url: str | None = None
    price: float | None = None
    gpus: int = 0
    downloads: Path = Path("checkpoints")

    @property
    def small(self) -> bool:
        """Whether the student comes with the package."""
        return self.student in ("frame", "block")


def scaffold(folder: Path, answers: Answers) -> list[str]:
    """Write ``folder`` (recipe.yaml, prompts, STEPS.md) and return the steps, a line or more each.

    Raises:
        ConfigError: the answers do not go together, or what they name cannot be read.
        UnderstudyError: the folder holds something already, or cannot be written.
    """
    _check(answers)
    training, held_out, takes = _prompts(answers)
    with new_path(folder) as draft:
        draft.mkdir()
        for name, prompts in (("train.txt", training), ("held_out.txt", held_out)):
            if prompts:
                write_text_atomic(draft / name, "".join(f"{prompt}\n" for prompt in prompts))
        recipe = _recipe(folder, answers, takes, len(held_out))
        base, about = STUDENTS[answers.student]
        head = (
            f"# Written by `understudy init`: {about}.\n# `understudy train {folder} --print-config` shows all of it.\n"
        )
        text = yaml.safe_dump({"base": base, **recipe}, sort_keys=False, allow_unicode=True, width=110)
        write_text_atomic(draft / "recipe.yaml", head + text)
        lines = _steps(folder, answers, load_recipe(draft / "recipe.yaml"), len(training), len(held_out))
        write_text_atomic(draft / "STEPS.md", "\n".join(["# Steps", "", *lines]) + "\n")
    return lines


def _check(answers: Answers) -> None:
    needs = {"clips": "the folder of clips", "comfyui": "the workflow's file", "diffusers": "the pipeline's folder"}
    if answers.teacher in needs and answers.source is None:
        raise ConfigError(f"teacher {answers.teacher} needs {needs[answers.teacher]}: give --source PATH")
    if answers.teacher == "api" and not answers.model:
        raise ConfigError("teacher api needs the model's name there: give --model NAME")
    if answers.teacher == "world" and not answers.small:
        raise ConfigError(
            f"the embedded world teaches the small students, not {answers.student}: choose another teacher"
        )
    if answers.teacher not in ("world", "clips") and answers.prompts is None:
        raise ConfigError(f"teacher {answers.teacher} has to be asked something: give --prompts FILE")
    if not answers.small and answers.gpus < 1:
        raise ConfigError(f"student {answers.student} needs a GPU of 80 GB: give --gpus 1, or choose frame or block")


def _prompts(answers: Answers) -> tuple[list[str], list[str], int]:
    """Return the prompts to train on, those held out, and how many clips each has at least (0: as many as are asked for)."""
    if answers.teacher == "world":
        return [], [], 0
    folder = FolderTeacher(answers.source) if answers.teacher == "clips" and answers.source is not None else None
    prompts = read_prompts(answers.prompts) if answers.prompts is not None else folder.prompts() if folder else []
    if folder is not None:
        prompts = [prompt for prompt in prompts if folder.takes(prompt)]
    where = answers.prompts or answers.source
    if len(prompts) < 2:
        raise ConfigError(
            f"{where} has {len(prompts)} prompt(s) with clips; at least two are needed, one to measure with"
        )
    count = max(1, min(36, round(_HELD_OUT * len(prompts))))
    step = len(prompts) / count
    out = {int((i + 0.5) * step) for i in range(count)}  # spread over the list: neighbours are often alike
    training = [prompt for i, prompt in enumerate(prompts) if i not in out]
    takes = min(folder.takes(prompt) for prompt in prompts) if folder is not None else 0
    return training, [prompts[i] for i in sorted(out)], takes


def _recipe(folder: Path, answers: Answers, takes: int, held_out: int) -> dict[str, Any]:
    """Return what the recipe says on top of its base."""
    name = folder.resolve().name
    own: dict[str, Any] = {"name": name, "out": f"runs/{name}"}
    if answers.teacher == "world":
        return {**own, "clips": {"store": f"runs/store-{name}"}}
    own["teacher"] = _teacher(answers)
    own["prompts"] = {"kind": "file", "train": str(folder / "train.txt"), "held_out": str(folder / "held_out.txt")}
    own["clips"] = {"store": f"runs/store-{name}", "per_prompt": takes or 1, "limit": None}
    few = min(8, max(2, takes // 2)) if takes else 2
    own["evaluation"] = {"prompts": held_out, "rollouts": 2, "reference": few, "floor": 2}
    if answers.small:
        return {**own, "compare": {}}
    downloads, known = answers.downloads, _downloads()
    start = known[answers.student]
    own["student"] = {
        "start": str(downloads / start["path"]),
        **({"adapter": str(downloads / start["beside"])} if "beside" in start else {}),
        "codec": {"kind": "wan", "path": str(downloads / known["wan"]["path"])},
        "text": {"kind": "umt5", "path": str(downloads / known["wan"]["path"])},
    }
    own["discriminator"] = {
        "path": str(downloads / known["qwen"]["path"]),
        "reward": str(downloads / known["videoreward"]["path"]),
    }
    return own


def _teacher(answers: Answers) -> dict[str, Any]:
    source = str(answers.source)
    if answers.teacher == "clips":
        return {"kind": "folder", "path": source}
    if answers.teacher == "diffusers":
        return {
            "kind": "diffusers",
            "path": source,
            "model": answers.model,
            "device": "cuda" if answers.gpus else "cpu",
        }
    price = {} if answers.price is None else {"price_per_clip": answers.price}
    if answers.teacher == "comfyui":
        nodes = {"PROMPT NODE.text": "{prompt}", "SAMPLER NODE.seed": "{seed}"}
        return {"kind": "comfyui", "workflow": source, "nodes": nodes, "model": answers.model, **price}
    url = {} if answers.url is None else {"url": answers.url}
    return {"kind": "api", "shape": answers.shape, "model": answers.model, **url, **price}


def _downloads() -> dict[str, dict[str, Any]]:
    return tomllib.loads((FOLDER / "downloads.toml").read_text(encoding="utf-8"))


# --- the steps --------------------------------------------------------------------------------------------------


def _steps(folder: Path, answers: Answers, config: RunConfig, training: int, held_out: int) -> list[str]:
    """Return the numbered steps, with what each of them costs."""
    steps: list[list[str]] = []
    extras = [] if answers.small else ["wan"]
    extras += {"api": ["api"], "comfyui": ["api"], "diffusers": ["wan"]}.get(answers.teacher, [])
    if extras:
        steps.append([f"install: pip install 'understudy[{','.join(dict.fromkeys(extras))}]'"])
    if not answers.small:
        steps.append(_fetch(answers))
    if answers.teacher == "comfyui":
        steps.append([f"open {folder / 'recipe.yaml'} and name the nodes of your workflow (docs/teachers.md says how)"])
    if answers.teacher not in ("world", "clips"):
        kind = answers.shape if answers.teacher == "api" else answers.teacher
        terms = known_terms(kind, answers.model)
        steps.append([f"read the teacher's terms; known here: {terms}"])
    if answers.teacher == "api":
        steps.append(
            ["put the key of the service into its environment variable (docs/teachers.md), never into the recipe"]
        )
    steps.append([f"check everything: understudy doctor {folder}"])
    steps.append(_collect(folder, answers, config, training, held_out))
    steps.append([f"train, measure, report: understudy train {folder}", *_hours(answers, config)])
    steps.append([f"look: {config.out / 'report.html'}; use it: understudy generate {config.out} PROMPT"])
    return [
        line
        for number, (first, *more) in enumerate(steps, start=1)
        for line in (f"{number}. {first}", *(f"   - {text}" for text in more))
    ]


def _fetch(answers: Answers) -> list[str]:
    """Return what to download, with sizes, licences and commands."""
    lines, total = [], 0.0
    for name in (answers.student, "wan", "qwen", "videoreward"):
        item = _downloads()[name]
        there = (answers.downloads / item["path"]).exists()
        total += 0 if there else item["gigabytes"]
        what = f"{item['what']}: {item['size']}, {item['licence']}"
        lines.append(f"{what}; {'there already' if there else item['command'].format(folder=answers.downloads)}")
    return [f"fetch the weights, {total:.0f} GB in all:", *lines]


def _collect(folder: Path, answers: Answers, config: RunConfig, training: int, held_out: int) -> list[str]:
    """Return the step that collects the clips, with its fees."""
    first = f"collect the clips: understudy collect {folder}"
    if answers.teacher == "world":
        return [first, "free: the world draws them here"]
    measured = held_out * (config.evaluation.reference + config.evaluation.floor)
    count = training * config.clips.per_prompt
    lines = [f"{count} clips of {training} prompts to train on, up to {measured} of {held_out} others to measure with"]
    if answers.teacher == "api" and answers.price is None:
        lines.append("fees: unknown; give --price, or set teacher.price_per_clip, and collection.budget")
    elif answers.price:
        lines.append(
            f"fees: {(count + measured) * answers.price:.2f} at {answers.price:g} a clip; collection.budget caps them"
        )
    else:
        lines.append("fees: none")
    return [first, *lines]


def _hours(answers: Answers, config: RunConfig) -> list[str]:
    """Return what training takes."""
    if answers.small:
        return ["about a quarter of an hour on two cores and 2 GB of memory for the recipe's own clips"]
    student = config.student.model_copy(
        update={"start": "none"}
    )  # sizes are known: gigabytes need not be read for them
    lines = [line for line in cost_lines(config.model_copy(update={"student": student})) if "memory" in line]
    if isinstance(config.objective, AFDConfig):
        hours = _update_flops(config) * config.train.steps / _FLOPS_A_SECOND / 3600
        lines.append(
            f"estimated time: {hours:.0f} h for {config.train.steps} updates at {_FLOPS_A_SECOND / 1e12:.0f} TFLOP/s (an "
            "assumption, a third of an H100's peak), discriminator, autoencoder and measuring apart"
        )
    if answers.gpus > 1:
        lines.append(f"one of your {answers.gpus} GPUs is used")
    return lines


def _update_flops(config: RunConfig) -> int:
    """Return the FLOPs of one AFD update, its rollouts included."""
    chosen, objective = chosen_preset(config.student), config.objective
    form = clip_form(config.student, chosen)
    spec = spec_of(sizes_of_spec(wan_1_3b()), chosen, form, _STRIDE)
    cost = WanCost(spec, 1 + -(-(form.frames - 1) // 4), config.student.lora.rank if config.student.lora else 0)
    levels = chosen.levels if config.student.levels is None else config.student.levels
    by_block = isinstance(objective, AFDConfig) and objective.by_block
    clips = config.train.prompts * objective.group
    return clips * (cost.rollout(levels) + cost.update(config.student.recompute, by_block))
