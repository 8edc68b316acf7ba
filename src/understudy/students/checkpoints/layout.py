"""What a Wan2.1 checkpoint holds: every tensor's name in both public layouts, and its shape.

*Original* names are those of Wan, Self-Forcing, Causal-Forcing, CausVid and LongLive; *diffusers* names those of
``WanTransformer3DModel``. Weights of linear layers are [D, D_in]; everything else follows from ``WanSizes``.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from understudy.codecs.spec_fields import MOST
from understudy.errors import CheckpointError

Layout = Literal["original", "diffusers"]

PUBLIC_HEAD_DIM: Final = 128
"""Width of a head in every public Wan; files of weights alone do not say how many heads there are."""
PUBLIC_LAYERS: Final = {1536: 30, 3072: 30, 5120: 40}
"""Layers of the public sizes by width D: a file of fewer is a part of one."""


@dataclass(frozen=True)
class WanSizes:
    """Everything about a Wan transformer that its weights and its config.json say.

    Attributes:
        dim, ffn_dim, heads, layers: width D, width of the MLPs, attention heads, layers.
        freq_dim: width of the sinusoid of a noise level. text_dim: width of the text encoder's output.
        text_length: tokens of a prompt. in_channels, out_channels: latent C.
        patch: patch size (frames, rows, columns). image_dim: width of image features, of image-to-video models only.
        eps: of the norms.
    """

    dim: int
    ffn_dim: int
    heads: int
    layers: int
    freq_dim: int = 256
    text_dim: int = 4096
    text_length: int = 512
    in_channels: int = 16
    out_channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    image_dim: int | None = None
    eps: float = 1e-6


@dataclass(frozen=True)
class _Entry:
    """One module, or bare parameter, in both layouts; sizes are names that ``_sizes`` knows."""

    original: str
    diffusers: str
    kind: Literal["linear", "norm", "rms", "patch", "table"]
    out: str
    inner: str = ""


_CONDITION = "condition_embedder"
_ONCE: Final = (
    _Entry("patch_embedding", "patch_embedding", "patch", "dim", "in"),
    _Entry("text_embedding.0", f"{_CONDITION}.text_embedder.linear_1", "linear", "dim", "text"),
    _Entry("text_embedding.2", f"{_CONDITION}.text_embedder.linear_2", "linear", "dim", "dim"),
    _Entry("time_embedding.0", f"{_CONDITION}.time_embedder.linear_1", "linear", "dim", "freq"),
    _Entry("time_embedding.2", f"{_CONDITION}.time_embedder.linear_2", "linear", "dim", "dim"),
    _Entry("time_projection.1", f"{_CONDITION}.time_proj", "linear", "6 dim", "dim"),
    _Entry("head.head", "proj_out", "linear", "out", "dim"),
    _Entry("head.modulation", "scale_shift_table", "table", "2"),
)
_ONCE_IMAGE: Final = (
    _Entry("img_emb.proj.0", f"{_CONDITION}.image_embedder.norm1", "norm", "image"),
    _Entry("img_emb.proj.1", f"{_CONDITION}.image_embedder.ff.net.0.proj", "linear", "image", "image"),
    _Entry("img_emb.proj.3", f"{_CONDITION}.image_embedder.ff.net.2", "linear", "dim", "image"),
    _Entry("img_emb.proj.4", f"{_CONDITION}.image_embedder.norm2", "norm", "dim"),
)
_LAYER: Final = (
    _Entry("modulation", "scale_shift_table", "table", "6"),
    *(
        _Entry(f"{own}.{a}", f"{theirs}.{b}", "linear", "dim", "dim")
        for own, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for a, b in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
    ),
    *(
        _Entry(f"{own}.{norm}", f"{theirs}.{norm}", "rms", "dim")
        for own, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for norm in ("norm_q", "norm_k")
    ),
    _Entry("norm3", "norm2", "norm", "dim"),  # the only affine one; the two layouts number the norms differently
    _Entry("ffn.0", "ffn.net.0.proj", "linear", "ffn", "dim"),
    _Entry("ffn.2", "ffn.net.2", "linear", "dim", "ffn"),
)
_LAYER_IMAGE: Final = (
    _Entry("cross_attn.k_img", "attn2.add_k_proj", "linear", "dim", "dim"),
    _Entry("cross_attn.v_img", "attn2.add_v_proj", "linear", "dim", "dim"),
    _Entry("cross_attn.norm_k_img", "attn2.norm_added_k", "rms", "dim"),
)


def _entries(layers: int, image: bool) -> Iterator[_Entry]:
    yield from (*_ONCE, *(_ONCE_IMAGE if image else ()))
    for index in range(layers):
        for entry in (*_LAYER, *(_LAYER_IMAGE if image else ())):
            place = f"blocks.{index}."
            yield _Entry(place + entry.original, place + entry.diffusers, entry.kind, entry.out, entry.inner)


def module_names(layers: int, image: bool = False) -> dict[str, str]:
    """Return original name -> diffusers name of every module and bare parameter of a model of ``layers`` layers."""
    return {entry.original: entry.diffusers for entry in _entries(layers, image)}


def shapes(sizes: WanSizes, layout: Layout = "original") -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a model by its name in ``layout``."""
    length = {
        "dim": sizes.dim,
        "6 dim": 6 * sizes.dim,
        "ffn": sizes.ffn_dim,
        "freq": sizes.freq_dim,
        "text": sizes.text_dim,
        "in": sizes.in_channels,
        "out": sizes.out_channels * math.prod(sizes.patch),
        "image": sizes.image_dim or 0,
    }
    found: dict[str, tuple[int, ...]] = {}
    for entry in _entries(sizes.layers, sizes.image_dim is not None):
        name = entry.original if layout == "original" else entry.diffusers
        if entry.kind == "table":
            found[name] = (1, int(entry.out), sizes.dim)
            continue
        out = length[entry.out]
        tail = (length[entry.inner],) if entry.inner else ()
        found[f"{name}.weight"] = (out, *tail, *(sizes.patch if entry.kind == "patch" else ()))
        if entry.kind != "rms":
            found[f"{name}.bias"] = (out,)
    return found


def layout_of(names: Collection[str]) -> Layout | None:
    """Return the layout that tensor ``names`` are in; None when they are no Wan transformer's."""
    if any(name.startswith((f"{_CONDITION}.", "proj_out.")) or ".attn1." in name for name in names):
        return "diffusers"
    if any(name.startswith(("time_projection.", "head.")) or ".self_attn." in name for name in names):
        return "original"
    return None


def renamed(tensors: Mapping[str, Tensor], sizes: WanSizes, to: Layout) -> dict[str, Tensor]:
    """Return ``tensors`` of one layout under their names in the other; every name of the model must be there."""
    old = shapes(sizes, "diffusers" if to == "original" else "original")
    return {new: tensors[name] for name, new in zip(old, shapes(sizes, to), strict=True)}


def sizes_of(
    tensors: Mapping[str, Tensor], layout: Layout, config: Mapping[str, object], heads: int | None, origin: str
) -> WanSizes:
    """Return the sizes that shapes and ``config`` (a config.json, or nothing) tell.

    Args:
        tensors: by their names in ``layout``.
        layout: of ``tensors`` and of ``config``, whose key names differ between the two.
        config: of the folder; what it says has to fit the shapes.
        heads: attention heads, where neither tells; None: heads of the public width.
        origin: the file, for messages.

    Raises:
        CheckpointError: a tensor that tells a size is missing, or config and shapes disagree.
    """
    whole = {entry.original: getattr(entry, layout) for entry in _entries(1, True)}

    def shape(name: str, rank: int) -> torch.Size:
        key = f"{whole[name]}.weight"
        if key not in tensors or tensors[key].ndim != rank:
            what = f"shape {list(tensors[key].shape)}" if key in tensors else "no such tensor"
            count = len(tensors)
            raise CheckpointError(
                f"{origin} is no whole Wan transformer: {count} tensors, first missing {key!r} ({what}); "
                "give the whole file, or the folder of all its shards"
            )
        return tensors[key].shape

    dim, channels, *patch = shape("patch_embedding", 5)
    layers = 1 + max((int(m[1]) for name in tensors if (m := re.match(r"blocks\.(\d+)\.", name))), default=0)
    image = shape("img_emb.proj.0", 1)[0] if f"{whole['img_emb.proj.0']}.weight" in tensors else None
    told = _told(config, layout, origin)
    found = WanSizes(
        dim=dim,
        ffn_dim=shape("blocks.0.ffn.0", 2)[0],
        heads=heads or int(told.get("heads", max(1, dim // PUBLIC_HEAD_DIM))),
        layers=int(told.get("layers", max(layers, PUBLIC_LAYERS.get(dim, 0)))),
        freq_dim=shape("time_embedding.0", 2)[1],
        text_dim=shape("text_embedding.0", 2)[1],
        text_length=int(told.get("text_length", WanSizes.text_length)),
        in_channels=channels,
        out_channels=shape("head.head", 2)[0] // math.prod(patch),
        patch=(patch[0], patch[1], patch[2]),
        image_dim=image,
        eps=float(told.get("eps", WanSizes.eps)),
    )
    for name, value in told.items():
        if value != getattr(found, name):
            raise CheckpointError(f"{origin}: config.json says {name} {value}, the weights say {getattr(found, name)}")
    if found.layers > len(tensors):
        raise CheckpointError(f"{origin}: config.json says {found.layers} layers, and there are {len(tensors)} tensors")
    if dim % (2 * found.heads):
        raise CheckpointError(f"{origin}: width {dim} does not divide into {found.heads} heads: say how many it has")
    return found


_CONFIG_NAMES: Final[dict[Layout, dict[str, str]]] = {
    "original": {
        "dim": "dim",
        "ffn_dim": "ffn_dim",
        "num_heads": "heads",
        "num_layers": "layers",
        "freq_dim": "freq_dim",
        "text_dim": "text_dim",
        "text_len": "text_length",
        "in_dim": "in_channels",
        "out_dim": "out_channels",
        "eps": "eps",
    },
    "diffusers": {
        "ffn_dim": "ffn_dim",
        "num_attention_heads": "heads",
        "num_layers": "layers",
        "freq_dim": "freq_dim",
        "text_dim": "text_dim",
        "in_channels": "in_channels",
        "out_channels": "out_channels",
        "image_dim": "image_dim",
        "eps": "eps",
    },
}


def _told(config: Mapping[str, object], layout: Layout, origin: str) -> dict[str, int | float]:
    """Return what a config.json of ``layout`` says, under the names of ``WanSizes``."""
    told: dict[str, int | float] = {}
    for theirs, own in _CONFIG_NAMES[layout].items():
        value = config.get(theirs)
        if value is None:
            continue
        whole = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST
        if not (whole or (own == "eps" and isinstance(value, float) and 0 < value < 1)):
            raise CheckpointError(f"{origin}: config.json says {theirs} {str(value)[:40]}, which is no size of a Wan")
        told[own] = value  # type: ignore[assignment]
    return told


def diffusers_config(sizes: WanSizes) -> dict[str, object]:
    """Return the config.json of a ``WanTransformer3DModel`` of these sizes."""
    return {
        "_class_name": "WanTransformer3DModel",
        "patch_size": list(sizes.patch),
        "num_attention_heads": sizes.heads,
        "attention_head_dim": sizes.dim // sizes.heads,
        "in_channels": sizes.in_channels,
        "out_channels": sizes.out_channels,
        "text_dim": sizes.text_dim,
        "freq_dim": sizes.freq_dim,
        "ffn_dim": sizes.ffn_dim,
        "num_layers": sizes.layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": sizes.eps,
        "image_dim": sizes.image_dim,
        "added_kv_proj_dim": None if sizes.image_dim is None else sizes.dim,
        "rope_max_seq_len": 1024,
    }
