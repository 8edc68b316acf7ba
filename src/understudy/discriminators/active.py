"""Active collection: spend what is left of a budget on the prompts whose rollouts the discriminator likes least.

A caution: the paired loss fixes differences between clips of one prompt, so scores of different prompts share a scale only
as far as the discriminator generalises over prompts. `benchmarks/active.py` measures whether that is enough.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from understudy.errors import ConfigError
from understudy.prompts import prompt_id


def rank_prompts(scores: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the prompts, that whose rollouts the discriminator finds furthest from the teacher first.

    Args:
        scores: for every prompt without a clip the discriminator's scores of the student's rollouts, at least one each;
            a high score means like the teacher. Equal means are ordered by the prompts' identities.

    Raises:
        ConfigError: a prompt has no score, or one that is no number.
    """
    for prompt, values in scores.items():
        if not values or any(value != value for value in values):
            raise ConfigError(
                f"prompt {prompt!r} cannot be ranked by the scores {list(values)}; score its rollouts again"
            )
    return sorted(scores, key=lambda prompt: (fmean(scores[prompt]), prompt_id(prompt)))


def choose_prompts(scores: Mapping[str, Sequence[float]], budget: int) -> list[str]:
    """Return the ``budget`` prompts to ask the teacher next, furthest first; all of them when there are fewer.

    Raises:
        ConfigError: the budget is negative, or as `rank_prompts`.
    """
    if budget < 0:
        raise ConfigError(f"a budget cannot be {budget} clips; give 0 or more")
    return rank_prompts(scores)[:budget]
