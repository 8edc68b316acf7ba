"""The Wan 2.1 / 2.2 video autoencoder of diffusers behind the codec contract: home of that extra.

The first pixel frame becomes a latent frame of its own, every further latent frame stands for four pixel frames, so a
clip has 4 k + 1 frames. Decoding is causal: what a latent frame needs of those before it is a tuple of features, which
is handed from block to block as a value. A whole clip is decoded by the very same steps, so both are equal bit for bit.
Latents are standardised per channel with the mean and deviation of the model's config, which diffusers leaves to its
pipelines. The encoder's mean is taken, nothing is sampled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from understudy.codecs.base import CodecModule
from understudy.codecs.wan_files import VaeFiles, find_vae, read_original
from understudy.errors import CheckpointError, ClipError, ConfigError, MissingExtra
from understudy.files import load_tensors

Features = tuple[Tensor | str | None, ...]
"""Features [B, C, 1 or 2, h, w] of the past that each causal convolution sees; None before the first latent frame."""

Cache = tuple[Features, ...]
"""One ``Features`` for every spatial tile; () before the first latent frame."""


class WanCodec(CodecModule):
    """Frames [B, T, 3, H, W] in [0, 1] <-> latents [B, F, C, h, w] with T = 4 F - 3, H = 8 h, W = 8 w (16 for Wan 2.2).

    Samples of a batch are coded one after the other, and frames larger than ``tile`` in overlapping tiles, for memory.

    Args:
        vae: a diffusers ``AutoencoderKLWan``.
        path: where it was loaded from, kept in saved bundles.
        tile: side in pixels of the square tiles, a multiple of 4 times the spatial stride; None codes frames whole.
            Tiles overlap by a quarter and are blended; they approximate the whole frame.
    """

    kind: ClassVar[str] = "wan"
    ships_weights: ClassVar[bool] = False
    mean: Tensor
    std: Tensor

    def __init__(self, vae: Any, path: str = "", tile: int | None = None) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.path, self.tile = path, tile
        self.stride = int(vae.spatial_compression_ratio)
        self._convolutions = int(vae._cached_conv_counts["decoder"])
        if tile is not None:
            if tile <= 0 or tile % (4 * self.stride):
                raise ConfigError(f"codec.tile must be a multiple of {4 * self.stride} pixels, got {tile}")
            vae.enable_tiling(tile, tile, tile * 3 // 4, tile * 3 // 4)
        shape = (1, -1, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(vae.config.latents_mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(vae.config.latents_std).reshape(shape), persistent=False)

    @property
    def channels(self) -> int:
        """C of its latents."""
        return int(self.vae.config.z_dim)

    @property
    def frames_per_latent(self) -> int:
        """Pixel frames that every latent frame after the first stands for."""
        return int(self.vae.config.scale_factor_temporal)

    @property
    def first_frames(self) -> int:
        """Pixel frames that the first latent frame stands for."""
        return 1

    def config(self) -> Mapping[str, Any]:
        """Return where it was loaded from and how, as JSON-ready values."""
        return {"path": self.path, "dtype": str(self.vae.dtype).removeprefix("torch."), "tile": self.tile}

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Return latents [B, F, C, h, w] (float32) of frames [B, T, 3, H, W] in [0, 1], T = 4 F - 3.

        Raises:
            ClipError: T is not 4 k + 1, or H, W are no multiples of the stride.
        """
        _, t, _, height, width = frames.shape
        step, stride = self.frames_per_latent, self.stride
        if t % step != 1 % step or height % stride or width % stride:
            raise ClipError(
                f"the Wan codec needs {step} k + 1 frames and sides that are multiples of {stride}, "
                f"got {t} frames of {height}x{width}: resample the clip first"
            )
        video = (frames * 2 - 1).movedim(2, 1).to(self.vae.dtype)
        parts = [self.vae.encode(sample).latent_dist.mode().float() for sample in video.split(1)]
        return ((torch.cat(parts) - self.mean) / self.std).movedim(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Return frames [B, T, 3, H, W] in [0, 1] (float32) of latents [B, F, C, h, w], T = 4 F - 3."""
        return torch.cat([self.decode_block(sample, ())[0] for sample in latents.split(1)])

    def decode_block(self, latents: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Decode the next latents [B, F, C, h, w] of a clip; () is the cache before its first one.

        Returns frames [B, 4 F, 3, H, W] in [0, 1] (4 F - 3 of them at the start) and the cache after them.
        """
        z = (latents.movedim(2, 1).float() * self.std + self.mean).to(self.vae.dtype)
        parts = []
        for frame in z.split(1, dim=2):
            part, cache = self._decode_frame(frame, cache)
            parts.append(part)
        return ((torch.cat(parts, dim=2).float() + 1) / 2).movedim(1, 2), cache

    def stream(self) -> "WanCodecStream":
        """Return a decoder for a new clip."""
        return WanCodecStream(self)

    def _decode_frame(self, z: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Decode one latent frame [B, C, 1, h, w] into frames [B, 3, 4 (or 1), H, W] in [-1, 1]."""
        tile = min(z.shape[-2:]) if self.tile is None else self.tile // self.stride
        whole = self.tile is None or max(z.shape[-2:]) <= tile
        step = tile * 3 // 4
        tops = [0] if whole else list(range(0, z.shape[-2], step))
        lefts = [0] if whole else list(range(0, z.shape[-1], step))
        past = iter(cache or ((None,) * self._convolutions,) * (len(tops) * len(lefts)))
        rows: list[list[Tensor]] = []
        features: list[Features] = []
        for top in tops:
            row = []
            for left in lefts:
                cut = z if whole else z[..., top : top + tile, left : left + tile]
                memory = list(next(past))  # the decoder replaces entries of this list, never the tensors in it
                cut = self.vae.post_quant_conv(cut)
                row.append(self.vae.decoder(cut, feat_cache=memory, feat_idx=[0], first_chunk=not cache))
                features.append(tuple(memory))
            rows.append(row)
        patch = self.vae.config.patch_size
        video = rows[0][0] if whole else self._blend(rows, z.shape[-2:])
        return (video if patch is None else _unpatch(video, patch)).clamp(-1, 1), tuple(features)

    def _blend(self, rows: list[list[Tensor]], size: torch.Size) -> Tensor:
        """Join overlapping tiles [B, C, T, h, w] to frames of the latent ``size`` (h, w), as diffusers blends them."""
        scale = self.stride // (self.vae.config.patch_size or 1)
        side = int(self.tile or 0) * scale // self.stride
        step, overlap = side * 3 // 4, side - side * 3 // 4
        joined = []
        for i, row in enumerate(rows):
            for j, tile in enumerate(row):
                if i:
                    self.vae.blend_v(rows[i - 1][j], tile, overlap)
                if j:
                    self.vae.blend_h(row[j - 1], tile, overlap)
            joined.append(torch.cat([tile[..., :step, :step] for tile in row], dim=-1))
        return torch.cat(joined, dim=-2)[..., : size[0] * scale, : size[1] * scale]


class WanCodecStream:
    """Streamed decoding of one clip (or a batch of clips): the cache is all its state."""

    def __init__(self, codec: WanCodec) -> None:
        self._codec = codec
        self._cache: Cache = ()

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """Decode the next latents [B, F, C, h, w] into frames [B, T, 3, H, W] in [0, 1]."""
        frames, self._cache = self._codec.decode_block(latents, self._cache)
        return frames


def load_wan_codec(path: str | Path, dtype: str = "float32", tile: int | None = None) -> WanCodec:
    """Load the Wan autoencoder: of diffusers, the ``vae`` folder or a pipeline's; or Wan's own file or folder.

    Args:
        path: the folder or file; nothing is downloaded. See ``wan_files``.
        dtype: "float32" (what Wan is run with) or "bfloat16" of the weights and the arithmetic.
        tile: see ``WanCodec``.

    Raises:
        MissingExtra: diffusers is not installed.
        CheckpointError: there is no such autoencoder, or its weights do not fit, first wrong key named.
    """
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise MissingExtra("the Wan codec", "wan") from error
    files = find_vae(path)
    if files.place.is_file():
        vae = build_vae(files, read_original(files.place)).to(getattr(torch, dtype))
        return WanCodec(vae, str(path), tile)
    try:
        vae, info = AutoencoderKLWan.from_pretrained(
            files.place,
            torch_dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{files.place} cannot be loaded as a Wan autoencoder: {' '.join(str(error).split())}"
        ) from None
    if info["missing_keys"] or info["unexpected_keys"]:
        raise CheckpointError.misfit(files.place, info["missing_keys"], info["unexpected_keys"])
    return WanCodec(vae, str(path), tile)


def build_vae(files: VaeFiles, tensors: Mapping[str, Tensor]) -> Any:
    """Return diffusers' autoencoder with ``tensors``, by their names there, as weights [C, C_in, t, h, w].

    Raises:
        MissingExtra: diffusers is not installed.
        CheckpointError: they do not fit, the first wrong one named.
    """
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise MissingExtra("the Wan codec", "wan") from error
    try:
        with torch.device("meta"):
            vae: Any = AutoencoderKLWan(**files.config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{files.place}: no such autoencoder can be made ({' '.join(str(error).split())})"
        ) from None
    expected = vae.state_dict()
    if expected.keys() != tensors.keys():
        raise CheckpointError.misfit(files.place, expected.keys() - tensors.keys(), tensors.keys() - expected.keys())
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{files.place} does not fit this model: {name!r} has shape {list(tensor.shape)}, expected "
                f"{list(expected[name].shape)}"
            )
        if tensor.device.type != "meta" and not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(f"{files.place} holds values that are not finite in {name!r}: fetch it again")
    vae.load_state_dict(dict(tensors), assign=True)
    return vae


def check_vae(path: str | Path) -> VaeFiles:
    """Return what ``find_vae`` does, after holding names and shapes [C, C_in, t, h, w] to diffusers' own; headers only.

    Raises:
        MissingExtra, CheckpointError: see ``find_vae`` and ``build_vae``.
    """
    files = find_vae(path)
    if files.place.is_file():
        tensors = read_original(files.place, headers=True)
    else:
        shards = sorted(files.place.glob("*.safetensors"))
        if not shards:
            raise CheckpointError(f"{files.place} holds no .safetensors file: fetch the autoencoder's weights")
        tensors = {name: value for shard in shards for name, value in load_tensors(shard, headers=True)[0].items()}
    build_vae(files, tensors)
    return files


def _unpatch(video: Tensor, patch: int) -> Tensor:
    """Turn [B, 3 p p, T, h, w] into [B, 3, T, p h, p w] (Wan 2.2); the patch's column is the slower index."""
    b, c, t, h, w = video.shape
    parts = video.reshape(b, c // patch**2, patch, patch, t, h, w)
    return parts.permute(0, 1, 4, 5, 3, 6, 2).reshape(b, c // patch**2, t, h * patch, w * patch)
