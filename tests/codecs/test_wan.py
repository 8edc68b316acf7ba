"""The Wan codec against diffusers itself, on a tiny random autoencoder of the same class."""

from pathlib import Path

import pytest
import torch

from understudy.codecs.base import latent_frames
from understudy.codecs.wan import WanCodec, load_wan_codec
from understudy.errors import CheckpointError, ClipError, ConfigError
from understudy.students.bundle import Bundle, ClipForm, load_bundle, save_bundle

diffusers = pytest.importorskip("diffusers")


def make_vae(residual: bool = False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        extra = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12} if residual else {}
        vae = diffusers.AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, -0.4],
            latents_std=[1.5, 0.5, 2.0, 1.0],
            scale_factor_spatial=16 if residual else 8,
            **extra,
        )
    return vae.eval()


@pytest.fixture(scope="module")
def codec() -> WanCodec:
    return WanCodec(make_vae())


def latents(frames: int = 4, side: tuple[int, int] = (4, 6), batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, frames, 4, *side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def reference(vae, z: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    return (vae.decode(z.movedim(2, 1) * std + mean).sample.movedim(1, 2) + 1) / 2


@pytest.mark.parametrize("residual", [False, True], ids=["2.1", "2.2"])
def test_decode_is_diffusers_own_after_its_pipeline_s_scaling(residual: bool) -> None:
    vae = make_vae(residual)
    z = latents(batch=2)
    found = WanCodec(vae).decode(z)
    assert found.shape == ((2, 13, 3, 64, 96) if residual else (2, 13, 3, 32, 48))
    for i in range(2):  # one by one: convolutions of a batch sum in another order
        torch.testing.assert_close(found[i : i + 1], reference(vae, z[i : i + 1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("residual", [False, True], ids=["2.1", "2.2"])
def test_encode_takes_the_mean_and_standardises_it(residual: bool) -> None:
    vae = make_vae(residual)
    frames = torch.rand(2, 9, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mean = vae.encode((frames * 2 - 1).movedim(2, 1)).latent_dist.mean.movedim(1, 2)
    expected = (mean - torch.tensor([0.1, -0.2, 0.3, -0.4])[:, None, None]) / torch.tensor(vae.config.latents_std)[
        :, None, None
    ]
    found = WanCodec(vae).encode(frames)
    assert found.shape[:3] == (2, 3, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("blocks", [(4,), (1, 1, 1, 1), (3, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("tile", [None, 32])
def test_streamed_decode_equals_the_whole_clip_bit_for_bit(blocks: tuple[int, ...], tile: int | None) -> None:
    codec = WanCodec(make_vae(), tile=tile)
    z = latents(side=(6, 8))
    stream = codec.stream()
    parts = [stream.push(part) for part in z.split(blocks, dim=1)]
    assert [part.shape[1] for part in parts] == [4 * n - 3 * (i == 0) for i, n in enumerate(blocks)]
    assert torch.equal(torch.cat(parts, dim=1), codec.decode(z))


def test_the_cache_is_a_value(codec: WanCodec) -> None:
    z = latents()
    _, cache = codec.decode_block(z[:, :2], ())
    first, _ = codec.decode_block(z[:, 2:], cache)
    codec.decode_block(torch.randn_like(z), cache)  # another continuation changes nothing
    again, _ = codec.decode_block(z[:, 2:], cache)
    assert torch.equal(first, again)


def test_streams_do_not_share_state(codec: WanCodec) -> None:
    one, two = latents(2), latents(2) + 1
    a, b = codec.stream(), codec.stream()
    parts = [(a.push(one[:, i : i + 1]), b.push(two[:, i : i + 1])) for i in range(2)]
    assert torch.equal(torch.cat([x for x, _ in parts], 1), codec.decode(one))
    assert torch.equal(torch.cat([y for _, y in parts], 1), codec.decode(two))


@pytest.mark.parametrize("residual", [False, True], ids=["2.1", "2.2"])
def test_tiles_are_blended_as_diffusers_does(residual: bool) -> None:
    vae = make_vae(residual)
    tile = 64 if residual else 32
    codec = WanCodec(vae, tile=tile)
    z = latents(2, (7, 6))
    torch.testing.assert_close(codec.decode(z), reference(vae, z), rtol=0, atol=1e-6)
    assert not torch.allclose(codec.decode(z), WanCodec(make_vae(residual)).decode(z), atol=1e-4)
    small = latents(2, (4, 4))  # no larger than a tile: exact
    assert torch.equal(codec.decode(small), WanCodec(make_vae(residual)).decode(small))


def test_samples_of_a_batch_do_not_meet(codec: WanCodec) -> None:
    z = latents(batch=3)
    assert torch.equal(codec.decode(z)[1:2], codec.decode(z[1:2]))


def test_counts_of_frames(codec: WanCodec) -> None:
    assert (codec.first_frames, codec.frames_per_latent) == (1, 4)
    frames = torch.rand(1, 5, 3, 16, 16)
    assert codec.decode(codec.encode(frames)).shape == frames.shape


@pytest.mark.parametrize("shape", [(1, 4, 3, 16, 16), (1, 5, 3, 16, 12), (1, 8, 3, 16, 16)])
def test_wrong_shapes_are_named(codec: WanCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ClipError, match=f"4 k \\+ 1 frames.*got {shape[1]} frames of {shape[3]}x{shape[4]}"):
        codec.encode(torch.zeros(shape))


def test_a_tile_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 32 pixels, got 40"):
        WanCodec(make_vae(), tile=40)


def test_loads_a_diffusers_folder_or_pipeline(tmp_path: Path) -> None:
    vae = make_vae()
    vae.save_pretrained(tmp_path / "vae")
    for path in (tmp_path, tmp_path / "vae"):
        loaded = load_wan_codec(path, tile=64)
        assert loaded.config() == {"path": str(path), "dtype": "float32", "tile": 64}
        assert torch.equal(loaded.decode(latents(2)), WanCodec(vae).decode(latents(2)))
    assert load_wan_codec(tmp_path, "bfloat16").decode(latents(1)).dtype == torch.float32


def test_a_bundle_names_its_folder_and_holds_none_of_its_weights(tmp_path: Path, make_student) -> None:
    vae = make_vae()
    vae.save_pretrained(tmp_path / "vae")
    student = make_student()
    form = ClipForm(32, 32, 16.0, 21)
    save_bundle(Bundle(student, load_wan_codec(tmp_path), (1.0, 0.5), form, "test"), tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "codec.safetensors").exists()
    codec = load_bundle(tmp_path / "bundle").codec
    assert latent_frames(codec, form.frames) == 6
    assert torch.equal(codec.decode(latents(2)), WanCodec(vae).decode(latents(2)))


def test_wrong_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no Wan autoencoder"):
        load_wan_codec(tmp_path)
    make_vae().save_pretrained(tmp_path / "vae")
    weights = next((tmp_path / "vae").glob("*.safetensors"))
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    del tensors["post_quant_conv.bias"]
    save_file(tensors, weights)
    with pytest.raises(
        CheckpointError, match=r"1 missing and 0 unexpected tensors, first missing 'post_quant_conv.bias'"
    ):
        load_wan_codec(tmp_path)
    weights.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        load_wan_codec(tmp_path)
    assert "\n" not in str(caught.value)
