"""One block that covers the whole clip is the bidirectional model of diffusers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from understudy.students.checkpoints.layout import WanSizes, diffusers_config, renamed
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import WanSpec

DATA = Path(__file__).resolve().parents[2] / "data"
SIZES = WanSizes(48, 80, 4, 3, freq_dim=16, text_dim=12, text_length=7, in_channels=4, out_channels=4)


def student_of(sizes: WanSizes, weights: dict[str, Tensor], frames: int) -> WanStudent:
    """Return a student of weights under their diffusers names that draws ``frames`` latent frames as one block."""
    names = ("dim", "ffn_dim", "heads", "layers", "freq_dim", "text_dim", "in_channels", "out_channels")
    same = {name: getattr(sizes, name) for name in names}
    student = WanStudent(WanSpec(**same, text_len=sizes.text_length, height=4, width=6, blocks=(frames,), text="words"))
    student.load_state_dict(renamed(weights, sizes, "original"), strict=True)
    return student.eval()


@torch.no_grad()
def bidirectional(student: WanStudent, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """Return the flow [B, C, F, h, w] of latents in diffusers' order at timesteps [B]."""
    levels = (t / 1000)[:, None].expand(-1, x.shape[2])
    return student.block_causal(x.transpose(1, 2), levels, student.text(context)).transpose(1, 2)


def test_one_block_equals_the_recording(gap) -> None:
    with safe_open(DATA / "diffusers_bidir.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        data = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    sizes = WanSizes(
        config["dim"],
        config["ffn_dim"],
        config["heads"],
        config["layers"],
        config["freq_dim"],
        config["text_dim"],
        config["text_len"],
    )
    weights = {key[2:]: value for key, value in data.items() if key.startswith("w.")}
    student = student_of(sizes, weights, data["in.x"].shape[2])
    found = bidirectional(student, data["in.x"], data["in.t"], data["in.context"])
    assert gap(found, data["out.flow"]) < 2e-5


@pytest.mark.parametrize("shape", [(1, 4, 3, 4, 6), (2, 4, 5, 8, 4)], ids=str)
def test_one_block_equals_installed_diffusers(shape: tuple[int, ...], gap) -> None:
    diffusers = pytest.importorskip("diffusers")
    config = {key: value for key, value in diffusers_config(SIZES).items() if key != "_class_name"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        theirs = diffusers.WanTransformer3DModel(**config).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        x, context = torch.randn(shape), torch.randn(shape[0], SIZES.text_length, SIZES.text_dim)
    t = torch.tensor([937.5, 250.0])[: shape[0]]
    with torch.no_grad():
        wanted = theirs(hidden_states=x, timestep=t, encoder_hidden_states=context, return_dict=False)[0]
    student = student_of(SIZES, theirs.state_dict(), shape[2])
    assert gap(bidirectional(student, x, t, context), wanted) < 2e-5
    student.spec = WanSpec(**{**student.config(), "patch": (1, 2, 2), "blocks": (1,)})  # causal: another function
    assert gap(bidirectional(student, x, t, context), wanted) > 1e-3
