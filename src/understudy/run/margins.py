"""Active collection: spend what is left of a budget on the prompts where the student is furthest from the teacher.

The paired loss fixes differences between clips of one prompt and leaves each prompt's offset free, so the scores of two
prompts' rollouts cannot be compared. Their *margins* can: how much better than the student's rollouts of a prompt the
discriminator finds the teacher's clips of the same prompt. So a prompt needs a clip of the teacher before it can be ranked.
`benchmarks/active.py` measures what that is worth.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from understudy.errors import ConfigError
from understudy.prompts import prompt_id


def margins(teacher: Mapping[str, Sequence[float]], own: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean score of the teacher's clips less that of the student's rollouts, for every prompt that has both.

    Raises:
        ConfigError: a score is no finite number.
    """
    found = {
        prompt: fmean(teacher[prompt]) - fmean(own[prompt]) for prompt in teacher if teacher[prompt] and own.get(prompt)
    }
    for prompt, margin in found.items():
        if not math.isfinite(margin):
            raise ConfigError(f"prompt {prompt!r} cannot be ranked: the discriminator's scores are no finite numbers")
    return found


def furthest_first(found: Mapping[str, float]) -> list[str]:
    """Return the prompts by falling margin; equal ones are ordered by their identities."""
    return sorted(found, key=lambda prompt: (-found[prompt], prompt_id(prompt)))
