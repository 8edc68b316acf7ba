"""What training sees of the teacher: prompts and canonical latents of finished clips, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from understudy.codecs.base import Codec
from understudy.errors import ConfigError
from understudy.students.bundle import ClipForm
from understudy.training.canonical import encode_clips
from understudy.video.clips import Clip


@dataclass(frozen=True)
class TeacherClips:
    """Teacher clips in canonical form.

    Attributes:
        prompts: the different prompts, P of them.
        latents: [N, F, C, h, w].
        rows: for every prompt the rows of its clips in ``latents``.
        even_step: every how many frames they move evenly; more than 1 where their own rate is no multiple of the student's.
    """

    prompts: tuple[str, ...]
    latents: Tensor
    rows: tuple[tuple[int, ...], ...]
    even_step: int = 1

    @property
    def row_prompts(self) -> list[str]:
        """The prompt of every clip [N]."""
        by_row = {row: prompt for prompt, rows in zip(self.prompts, self.rows, strict=True) for row in rows}
        return [by_row[row] for row in range(len(self.latents))]

    def split(self, share: float, seed: int) -> tuple["TeacherClips", "TeacherClips"]:
        """Return the same clips twice: without ``share`` of them, drawn by ``seed``, and those alone.

        Both keep all prompts; a prompt may have no row on one side.
        """
        order = torch.randperm(len(self.latents), generator=torch.Generator().manual_seed(seed)).tolist()
        out = set(order[: round(share * len(order))])
        seen = tuple(tuple(row for row in rows if row not in out) for rows in self.rows)
        unseen = tuple(tuple(row for row in rows if row in out) for rows in self.rows)
        return replace(self, rows=seen), replace(self, rows=unseen)

    def pick_prompts(self, count: int, generator: torch.Generator) -> list[int]:
        """Draw ``count`` prompt indices, without repeats while there are enough."""
        order: list[int] = []
        while len(order) < count:
            order += torch.randperm(len(self.prompts), generator=generator).tolist()
        return order[:count]

    def pick_rows(self, prompts: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw one clip row [B] (int64) for every prompt index."""
        draw = torch.rand(len(prompts), generator=generator).tolist()
        rows = [self.rows[p][int(u * len(self.rows[p]))] for p, u in zip(prompts, draw, strict=True)]
        return torch.tensor(rows, dtype=torch.long)

    def pick_drawings(self, prompts: Sequence[int], drawings: int, generator: torch.Generator) -> Tensor:
        """Draw one clip row [B] (int64) for every prompt index where the N clips are there ``drawings`` times."""
        rows = self.pick_rows(prompts, generator)
        if drawings > 1:
            rows = rows + len(self.latents) * torch.randint(drawings, rows.shape, generator=generator)
        return rows


def teacher_clips(pairs: Sequence[tuple[str, Clip]], form: ClipForm, codec: Codec, even_step: int = 1) -> TeacherClips:
    """Bring (prompt, clip) pairs to canonical form and encode them; see `TeacherClips` for ``even_step``.

    Raises:
        ConfigError: there is no clip at all.
        ClipError: a clip is too short for the form.
    """
    if not pairs:
        raise ConfigError("no teacher clips to train on: run `understudy collect` first, or check clips.store")
    rows: dict[str, list[int]] = {}
    for row, (prompt, _) in enumerate(pairs):
        rows.setdefault(prompt, []).append(row)
    latents = encode_clips([clip for _, clip in pairs], form, codec)
    return TeacherClips(tuple(rows), latents, tuple(tuple(r) for r in rows.values()), even_step)
