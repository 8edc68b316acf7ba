"""The verb generate: clips of one's prompts as mp4 files."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from understudy.commands.base import UsageError, Verb, say
from understudy.errors import shown


@dataclass(frozen=True)
class Generate(Verb):
    """Write clips of your prompts as mp4 files."""

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """The student: a run folder, a bundle folder, or a built-in one: builtin:frame, block or base."""
    prompt: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT...", help_behavior_hint="")] = ()
    """What to show; quote each prompt and keep them together."""
    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """More prompts from a file: .txt (one a line), .jsonl, .json, .csv or .tsv (field prompt, text or caption)."""
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
    switch: Annotated[tuple[str, ...], arg(metavar='TIME:"PROMPT"...', help_behavior_hint="")] = ()
    """Turn to another prompt on the way, as in 8s:"a large blue ball bounces"; several may follow one another."""
    given: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """An image (PNG, JPEG, WebP) or an mp4 to go on from."""
    stream: Annotated[Literal["-"] | None, arg(metavar="-", help_behavior_hint="")] = None
    """Write one clip as fragmented mp4 to standard output while it is drawn; without --seconds it never ends."""
    threads: Annotated[int, arg(metavar="N")] = 1
    """Torch threads; 0 leaves the choice to torch."""

    examples: ClassVar[tuple[str, ...]] = (
        'understudy generate builtin:frame "a small red ball is dropped"',
        'understudy generate runs/quickstart "a large blue ball is thrown to the left" --per-prompt 4 --out clips',
        "understudy generate runs/quickstart --prompts prompts.txt --seconds 10 --window 8 --sink 1",
        'understudy generate builtin:frame "a small red ball is dropped" --stream - --window 8 --switch 8s:"a large blue '
        'ball bounces" | ffplay -',
    )

    def do(self) -> int:
        """Check the options, draw the clips, print their paths."""
        from understudy.prompts import clean, read_prompt_file

        limits = {"seed": (self.seed, 0), "per-prompt": (self.per_prompt, 1), "threads": (self.threads, 0)}
        optional = {"window": (self.window, 0), "sink": (self.sink, 0)}
        for name, (value, least) in {**limits, **optional}.items():
            if value is not None and not least <= value < 2**31:
                raise UsageError(f"--{name} is {value}; give a whole number of at least {least} and below 2^31")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise UsageError(f"--seconds is {self.seconds}; give a number above 0")
        prompts = [clean(text, "a prompt") for text in self.prompt]
        if "" in prompts:
            raise UsageError("a prompt is empty; say what to show, in quotes")
        if self.prompts is not None:
            found = read_prompt_file(self.prompts)
            prompts += found.prompts
            for line in found.notes:
                _say(line)
        if not prompts:
            raise UsageError('there are no prompts; give them after the bundle, in quotes, or with "--prompts FILE"')
        switches = tuple(_switch(text) for text in self.switch)
        if self.stream is not None:
            return self._stream(prompts, switches)
        from understudy.run.draw import generate

        paths = generate(
            bundle=self.bundle,
            prompts=list(dict.fromkeys(prompts)),
            out=self.out,
            seconds=self.seconds,
            seed=self.seed,
            per_prompt=self.per_prompt,
            window=self.window,
            sink=self.sink,
            threads=self.threads,
            switches=switches,
            given=self.given,
            say=_say,
        )
        for path in paths:
            say(path)
        return 0

    def _stream(self, prompts: Sequence[str], switches: Sequence[tuple[float, str]]) -> int:
        """Write the one clip to standard output as it is drawn."""
        if len(prompts) != 1 or self.per_prompt != 1:
            raise UsageError(f"--stream writes one clip, not {len(prompts) * self.per_prompt}; give one prompt")
        if sys.stdout.isatty():
            raise UsageError("--stream writes video to standard output: pipe it into a player, as in `| ffplay -`")
        from understudy.run.draw import stream

        for piece in stream(
            bundle=self.bundle,
            prompt=prompts[0],
            seconds=self.seconds,
            seed=self.seed,
            window=self.window,
            sink=self.sink,
            threads=self.threads,
            switches=switches,
            given=self.given,
            say=_say,
        ):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return 0


def _say(line: str) -> None:
    print(f"note: {shown(line)}", file=sys.stderr, flush=True)


def _switch(text: str) -> tuple[float, str]:
    """Read ``8s:PROMPT`` as (seconds, prompt)."""
    from understudy.prompts import normalise

    time, colon, prompt = text.partition(":")
    try:
        seconds = float(time.strip().removesuffix("s"))
    except ValueError:
        seconds = -1.0
    if not colon or not 0 <= seconds < float("inf") or not normalise(prompt):
        raise UsageError(
            f'--switch {text!r} is not a time and a prompt; write it as in --switch 8s:"a blue ball bounces"'
        )
    return seconds, normalise(prompt)
