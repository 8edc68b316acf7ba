"""What a run says of its own gauges."""

import pytest

from understudy.run.log import verdicts


def rows(accuracy: float, loss: float = 0.6, sharpness: float = 0.0) -> list[dict]:
    warm_up = [{"phase": "warm-up", "pair_accuracy": 0.75, "d_loss": loss}] * 30
    update = {"phase": "update", "pair_accuracy": accuracy, "corr_sharpness": sharpness}
    return warm_up + [update] * 12


@pytest.mark.parametrize(
    ("accuracy", "said"), [(0.2, "hacked: "), (0.5, "saturated: "), (0.8, "informative: "), (1.0, "too strong: ")]
)
def test_the_regime_is_said_with_what_to_change(accuracy: float, said: str) -> None:
    first, second = verdicts(rows(accuracy))
    assert first == "after warm-up the discriminator ranks 75% of pairs rightly"
    assert second.startswith(said)
    assert f"pair accuracy {accuracy:.2f} over the last 4 updates; " in second


def test_guessing_is_judged_by_the_kind_of_loss() -> None:
    assert verdicts(rows(0.8, loss=1.35))[1].startswith("unstable: ")
    assert verdicts(rows(0.8, loss=1.35), paired=False)[1].startswith("informative: ")


def test_rewards_that_follow_the_picture_are_said() -> None:
    assert "rewards follow sharpness (correlation -0.70)" in verdicts(rows(0.8, sharpness=-0.7))[-1]


def test_nothing_is_said_without_a_discriminator() -> None:
    assert verdicts([{"phase": "update", "loss": 1.0}]) == []
