from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from understudy.discriminators.base import Discriminator
from understudy.discriminators.clip_cnn.network import ClipCnn, ClipCnnSpec

MakeCritic = Callable[..., ClipCnn]
VOCABULARY = ("red", "blue", "ball", "falls")


@pytest.fixture
def make_critic() -> MakeCritic:
    def make(**spec: int | float) -> ClipCnn:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            sizes = {"size": 16, "width": 16, **spec}
            return ClipCnn(ClipCnnSpec(**sizes, vocabulary=VOCABULARY)).eval()  # type: ignore[arg-type]

    return make


def clips(batch: int = 3, frames: int = 8, height: int = 16, width: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def scores(critic: Discriminator, video: Tensor, prompt: str = "red ball") -> Tensor:
    return critic.score(video, [prompt] * len(video))


@pytest.mark.parametrize("frames", [4, 5, 8, 13])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 32), (9, 7)])
def test_any_clip_gets_one_score(make_critic: MakeCritic, frames: int, height: int, width: int) -> None:
    found = scores(make_critic(), clips(3, frames, height, width))
    assert found.shape == (3,)
    assert bool(found.isfinite().all())
    assert found.std() > 0


@pytest.mark.parametrize("size", [8, 12, 20, 24])
def test_any_size_from_eight_works(make_critic: MakeCritic, size: int) -> None:
    assert scores(make_critic(size=size), clips()).shape == (3,)


def test_score_depends_on_the_prompt(make_critic: MakeCritic) -> None:
    critic = make_critic()
    red, blue = (scores(critic, clips(), prompt) for prompt in ("red ball falls", "blue ball falls"))
    assert (red - blue).abs().min() > 1e-5
    # One clip's prompt does not touch another clip's score.
    with torch.no_grad():
        mixed = critic.score(clips(), ["red ball falls", "blue ball falls", "red ball falls"])
    torch.testing.assert_close(mixed, torch.stack([red[0], blue[1], red[2]]), rtol=0, atol=1e-6)


def test_score_does_not_depend_on_the_batch(make_critic: MakeCritic) -> None:
    critic, video = make_critic(), clips()
    whole = scores(critic, video)
    alone = torch.cat([scores(critic, video[b : b + 1]) for b in range(3)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-6)


def test_scoring_is_deterministic_even_in_training(make_critic: MakeCritic) -> None:
    critic = make_critic(noise=1.0).train()
    assert torch.equal(scores(critic, clips()), scores(critic, clips()))


def test_every_frame_matters(make_critic: MakeCritic) -> None:
    critic, video = make_critic(), clips()
    before = scores(critic, video)
    for frame in range(8):
        other = video.clone()
        other[:, frame] = 1 - other[:, frame]
        assert (scores(critic, other) - before).abs().min() > 1e-6


def test_early_features_see_late_frames(make_critic: MakeCritic) -> None:
    critic = make_critic()
    prepared = critic.prepare(clips(1, 16)).requires_grad_()
    seen = []
    hook = critic.time.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with hook:
        critic.logits(prepared, critic.encode_text(["red ball"]))
    first, last = seen[0][..., 0].sum(), seen[0][..., -1].sum()
    ahead = torch.autograd.grad(first, prepared, retain_graph=True)[0].abs().amax((0, 2, 3, 4)).nonzero().max()
    behind = torch.autograd.grad(last, prepared)[0].abs().amax((0, 2, 3, 4)).nonzero().min()
    assert ahead >= 5  # well past the first frame's own
    assert behind <= 10


def test_order_of_frames_matters(make_critic: MakeCritic) -> None:
    critic, video = make_critic(), clips()
    assert (scores(critic, video.flip(1)) - scores(critic, video)).abs().min() > 1e-6


@pytest.mark.parametrize("skip", [1, 3])
def test_skipped_frames_are_hidden_and_no_others(make_critic: MakeCritic, skip: int) -> None:
    critic, video = make_critic(skip_frames=skip), clips()
    before = scores(critic, video)
    for frame in range(8):
        other = video.clone()
        other[:, frame] = 1 - other[:, frame]
        after = scores(critic, other)
        assert torch.equal(after, before) if frame < skip else bool(((after - before).abs() > 1e-6).all())


def test_prepared_clips_are_scaled_and_resized_by_area(make_critic: MakeCritic) -> None:
    critic, video = make_critic(), clips(2, 4, 32, 48)
    prepared = critic.prepare(video)
    assert prepared.shape == (2, 4, 3, 16, 16)
    by_hand = video.reshape(2, 4, 3, 16, 2, 16, 3).mean((4, 6)) * 2 - 1
    torch.testing.assert_close(prepared, by_hand, rtol=0, atol=1e-6)


def test_score_is_the_logits_of_the_prepared_clip(make_critic: MakeCritic) -> None:
    critic = make_critic(skip_frames=2)
    with torch.no_grad():
        direct = critic.logits(critic.prepare(clips()), critic.encode_text(["red ball"] * 3))
    assert torch.equal(direct, scores(critic, clips()))


def test_learns_to_tell_two_motions_apart(make_critic: MakeCritic) -> None:
    # A square that moves right against one that moves left: the same pictures, in another order.
    right = torch.zeros(1, 8, 3, 16, 16)
    for t in range(8):
        right[:, t, :, 6:10, t + 2 : t + 6] = 1
    both = torch.cat([right, right.flip(1)])
    critic = make_critic().train()
    optimiser = torch.optim.AdamW(critic.parameters(), 2e-3)
    for _ in range(40):
        real, fake = critic.score(both, ["red ball"] * 2)
        loss = torch.nn.functional.softplus(fake - real)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1


def test_config_rebuilds_the_discriminator(make_critic: MakeCritic) -> None:
    critic = make_critic(skip_frames=1)
    twin = ClipCnn(ClipCnnSpec(**critic.config()))
    twin.load_state_dict(critic.state_dict())
    assert torch.equal(scores(twin.eval(), clips()), scores(critic, clips()))


def test_each_frame_is_looked_at_beside_its_difference_to_the_next(make_critic: MakeCritic) -> None:
    critic, seen = make_critic(), []
    critic.frame.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    prepared = torch.rand(2, 5, 3, critic.spec.size, critic.spec.size, generator=torch.Generator().manual_seed(0))
    critic.logits(prepared, critic.encode_text(["ball"] * 2))
    frames, steps = seen[0].unflatten(0, (2, 5)).split(3, dim=2)
    assert torch.equal(frames, prepared)
    torch.testing.assert_close(steps[:, :-1], 2 * prepared.diff(dim=1))
    assert (steps[:, -1] == 0).all()
