"""Names, shapes and sizes of the two public layouts."""

import math

import pytest

from understudy.errors import CheckpointError
from understudy.students.checkpoints.layout import (
    WanSizes,
    diffusers_config,
    layout_of,
    renamed,
    shapes,
    sizes_of,
)

SMALL = WanSizes(dim=1536, ffn_dim=8960, heads=12, layers=30)


def test_the_public_1_3b_has_its_known_size() -> None:
    expected = shapes(SMALL)
    assert len(expected) == 825
    assert sum(math.prod(shape) for shape in expected.values()) == 1_418_996_800


def test_the_recorded_names_and_shapes_are_the_tables(recorded) -> None:
    assert shapes(recorded.sizes, "diffusers") == {k: tuple(t.shape) for k, t in recorded.diffusers.items()}
    assert shapes(recorded.sizes) == {k: tuple(t.shape) for k, t in recorded.original.items()}


def test_layouts_are_told_apart(recorded) -> None:
    assert layout_of(recorded.original) == "original"
    assert layout_of(recorded.diffusers) == "diffusers"
    assert layout_of({"layers.0.qkv.weight": 0}) is None


def test_renaming_there_and_back_changes_nothing(recorded, assert_same) -> None:
    assert_same(renamed(recorded.original, recorded.sizes, "diffusers"), recorded.diffusers)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_sizes_come_from_shapes(recorded, layout) -> None:
    tensors = getattr(recorded, layout)
    assert sizes_of(tensors, layout, {}, 2, "file") == recorded.sizes


def test_sizes_come_from_a_diffusers_config(recorded) -> None:
    config = diffusers_config(recorded.sizes)
    assert sizes_of(recorded.diffusers, "diffusers", config, None, "file") == recorded.sizes


def test_a_config_of_another_model_is_refused(recorded) -> None:
    with pytest.raises(CheckpointError, match=r"config.json says ffn_dim 256, the weights say 128"):
        sizes_of(recorded.original, "original", {"ffn_dim": 256, "num_heads": 2}, None, "file")


def test_image_models_have_their_own_tensors() -> None:
    image = shapes(WanSizes(dim=64, ffn_dim=128, heads=2, layers=1, in_channels=36, image_dim=32), "diffusers")
    assert image["condition_embedder.image_embedder.ff.net.2.weight"] == (64, 32)
    assert image["blocks.0.attn2.add_k_proj.weight"] == (64, 64)
    assert image["patch_embedding.weight"] == (64, 36, 1, 2, 2)
