"""A whole run, or what is left of it: collect, measure the start, train every arm, measure, report."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from understudy.errors import CheckpointError
from understudy.evaluation.report import write_report
from understudy.files import ensure_folder
from understudy.objectives.gauges import shortcut_warning
from understudy.plugins import named
from understudy.reading import read_json
from understudy.recipes.config import RunConfig
from understudy.recipes.files import load_recipe
from understudy.recipes.own import own_parts
from understudy.run.arm import save_arm, train_arm
from understudy.run.checks import check
from understudy.run.clips import even_step, remarks, training_clips
from understudy.run.folder import arm_folder, check_claim, claim, main_arm, summarise
from understudy.run.identity import config_hash
from understudy.run.lock import while_holding
from understudy.run.log import RunLog, verdicts
from understudy.run.measure import evaluator
from understudy.run.preflight import refuse
from understudy.run.process import prepare_process
from understudy.run.prompts import held_out_prompts, training_prompts
from understudy.run.remarks import notes
from understudy.run.start import check_settings, load_start
from understudy.students.base import StudentModule
from understudy.students.bundle import Bundle, load_bundle
from understudy.tracking.base import Tracker
from understudy.tracking.build import open_tracking
from understudy.training.data import TeacherClips, teacher_clips
from understudy.training.loop import Arm


@while_holding(lambda config, watchers=None: config.out)
def run(config: RunConfig, watchers: Mapping[str, Tracker] | None = None) -> Path:
    """Do the whole run, or what is left of it; return its folder. ``watchers`` are trackers beside the recipe's.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; what is done is kept and the same command goes on.
        ConfigError: the folder holds a run of another configuration.
        CheckpointError: a file that the recipe names is missing or does not fit; all of them are named.
    """
    prepare_process(config.threads)
    check_claim(config)
    check_settings(config)
    found = refuse(config)
    training_prompts(config), held_out_prompts(config)
    bundle = load_start(config)
    said = check(config, bundle)
    out = ensure_folder(config.out)  # a start that was refused has claimed no folder
    claim(config)
    log = RunLog(out)
    values = config.model_dump(mode="json")
    tracking = open_tracking(config.track, out, config.name, values, log.say)
    with named(own_parts(config)), closing(tracking) as log.tracking:
        for name, watcher in (watchers or {}).items():
            log.tracking.add(name, watcher)
        for line in (*map(str, found), *said, *notes(config, bundle)):
            log.note(line)
        return _stages(config, bundle, log)


def _stages(config: RunConfig, bundle: Bundle, log: RunLog) -> Path:
    """Do what is left of a run, stage by stage; return its folder."""
    out = config.out
    with log.timed("collecting teacher clips", "collect"):
        pairs = training_clips(config, bundle.form, log.note)
        for remark in remarks(config):
            log.note(f"{remark.what}: {remark.text}")
        measuring = evaluator(config, bundle)
        data = teacher_clips(pairs, bundle.form, bundle.codec, even_step(config, bundle.form))
        log.keep("clips", len(pairs))
    with log.timed("measuring the start student and the teacher", "evaluate"):
        log.once("start", lambda: measuring.student("start", bundle.student))
        log.once("teacher", measuring.teacher_floor)
    for name in [*config.compare, main_arm(config)]:
        if name in log.results:
            continue
        with log.timed(f"training {name}", name):
            trained = train_and_judge(config, name, data, bundle, log)
        source = f"{name} of {config.name}, seed {config.seed}"
        student = save_arm(config, bundle, trained, source, arm_folder(config, name)).student
        with log.timed(f"measuring {name}", "evaluate"):
            log.once(name, lambda name=name, student=student: measuring.student(name, student))  # type: ignore[misc]
    summarise(config, log)
    write_report(out)
    log.say(f"report: {out / 'report.html'}")
    return out


def train_and_judge(config: RunConfig, name: str, data: TeacherClips, bundle: Bundle, log: RunLog) -> StudentModule:
    """Train one arm of the run to its end; note what the probe and the gauges say of it. Return its averaged student."""
    arm = Arm(
        name=name,
        folder=config.out / "checkpoints" / name,
        metrics=log.metrics,
        config_hash=config_hash(config),
        checkpoint_every=config.train.checkpoint_every,
        resume="the same command",
    )
    with log.steps(name) as on_step:
        trained, probe = train_arm(config, arm, data, bundle, on_step)
    if probe:
        log.keep("probe", probe)
        if warning := shortcut_warning(probe):
            log.note(warning)
            log.keep("warnings", [warning])
    for line in verdicts(log.rows(name), config.discriminator.loss == "paired"):
        log.note(f"{name}: {line}")
    return trained


@while_holding(lambda run_folder, config=None: run_folder, make=False)
def evaluate(run_folder: Path, config: RunConfig | None = None) -> dict[str, Any]:
    """Measure a finished run's student again, rewrite summary.json, and return it.

    ``config`` is the run's, where it holds objects that its file cannot.

    Raises:
        CheckpointError: the folder holds no finished run.
    """
    if not (run_folder / "config.yaml").is_file() or not (run_folder / "student" / "config.json").is_file():
        raise CheckpointError(f"{run_folder} holds no finished run: run `understudy train` with its recipe first")
    config = (config or load_recipe(run_folder / "config.yaml")).model_copy(update={"out": run_folder})
    with named(own_parts(config)):
        return _measured_again(config, RunLog(run_folder))


def _measured_again(config: RunConfig, log: RunLog) -> dict[str, Any]:
    """Measure every arm of a run, and return its summary."""
    bundle = load_start(config)
    measuring = evaluator(config, bundle)
    for name in ("start", *config.compare, main_arm(config)):
        student = bundle.student
        if name != "start":
            student = load_bundle(arm_folder(config, name), bundle.codec).student.to(config.device)
        log.results.pop(name, None)
        log.once(name, lambda name=name, student=student: measuring.student(name, student))  # type: ignore[misc]
    log.results.pop("teacher", None)
    log.once("teacher", measuring.teacher_floor)
    summarise(config, log)
    summary: dict[str, Any] = read_json(config.out / "summary.json")
    return summary
