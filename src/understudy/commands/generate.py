"""The verb generate: clips of one's prompts as mp4 files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from understudy.commands.base import UsageError, Verb


@dataclass(frozen=True)
class Generate(Verb):
    """Write clips of your prompts as mp4 files."""

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """The student: a run folder, a bundle folder, or builtin:frame or builtin:block."""
    prompt: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT...", help_behavior_hint="")] = ()
    """What to show; quote each prompt and keep them together."""
    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """More prompts from a file: .txt (one a line), .jsonl or .csv (field prompt)."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("generated")
    """Folder for the clips; made when missing."""
    seconds: Annotated[float | None, arg(metavar="S", help_behavior_hint="(default: as in training)")] = None
    """Length of each clip; longer than in training needs a window."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the first clip of each prompt; the same seed gives the same clip."""
    per_prompt: Annotated[int, arg(metavar="N")] = 1
    """Clips per prompt, with consecutive seeds."""
    window: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the student's own)")] = None
    """Latent frames that are attended to, own block and sink included; 0: all."""
    sink: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the student's own)")] = None
    """First latent frames that stay visible when the window rolls."""
    threads: Annotated[int, arg(metavar="N")] = 1
    """Torch threads; 0 leaves the choice to torch."""

    examples: ClassVar[tuple[str, ...]] = (
        'understudy generate builtin:frame "a small red ball is dropped"',
        'understudy generate runs/quickstart "a large blue ball is thrown to the left" --per-prompt 4 --out clips',
        "understudy generate runs/quickstart --prompts prompts.txt --seconds 10 --window 8 --sink 1",
    )

    def do(self) -> int:
        """Check the options, draw the clips, print their paths."""
        from understudy.prompts import normalise, read_prompts

        limits = {"seed": (self.seed, 0), "per-prompt": (self.per_prompt, 1), "threads": (self.threads, 0)}
        optional = {"window": (self.window, 0), "sink": (self.sink, 0)}
        for name, (value, least) in {**limits, **optional}.items():
            if value is not None and not least <= value < 2**31:
                raise UsageError(f"--{name} is {value}; give a whole number of at least {least} and below 2^31")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise UsageError(f"--seconds is {self.seconds}; give a number above 0")
        prompts = [normalise(text) for text in self.prompt]
        if "" in prompts:
            raise UsageError("a prompt is empty; say what to show, in quotes")
        prompts += read_prompts(self.prompts) if self.prompts is not None else []
        if not prompts:
            raise UsageError('there are no prompts; give them after the bundle, in quotes, or with "--prompts FILE"')
        from understudy import experiment

        paths = experiment.generate(
            bundle=self.bundle,
            prompts=list(dict.fromkeys(prompts)),
            out=self.out,
            seconds=self.seconds,
            seed=self.seed,
            per_prompt=self.per_prompt,
            window=self.window,
            sink=self.sink,
            threads=self.threads,
        )
        for path in paths:
            print(path)
        return 0
