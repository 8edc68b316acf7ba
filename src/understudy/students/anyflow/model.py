"""AnyFlow-FAR of diffusers as a student: a causal flow map whose distant past is compressed (2605.13724, 2503.19325).

It is the second family because diffusers maintains it, its weights are public in two sizes, and it differs from the
causal Wan students in all that a contract could have taken for granted: blocks of different sizes, a second noise level
(where the step ends), Euler steps in mean velocity without re-noising, and a cache that is not appended to: after each
block the whole past is encoded anew, all but the latest blocks at a quarter of the tokens.

Attention is done here, with gradients on any device; the processor of diffusers needs flex attention, which has none on
a CPU. In reading the cache, diffusers lets zero keys that fill a block up to 128 queries join the softmax, and the
public checkpoints were served with that: it is kept, and ``AnyFlowSpec.zero_keys`` turns it off.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.codecs.spec_fields import check_fields
from understudy.errors import CheckpointError, ConfigError, MissingExtra
from understudy.students.base import StudentModule
from understudy.students.umt5 import UMT5Text

TextSource = Callable[[Sequence[str]], Tensor]
"""Prompts -> embeddings [B, L, D]."""


@dataclass(frozen=True)
class AnyFlowSpec:
    """Everything that fixes the student.

    Attributes:
        height, width: latent h, w; multiples of the compressed patch (4).
        model: arguments of diffusers' ``AnyFlowFARTransformer3DModel`` that differ from its defaults.
        partition: latent frames of each block; their sum is all the student can draw.
        text: arguments of ``UMT5Text``; empty when the text source is given in code.
        zero_keys: keep the zero keys of diffusers' cached read.
        window, sink: fixed by the architecture: 0, all of the past is seen.
    """

    height: int = 60
    width: int = 104
    model: dict[str, Any] = field(default_factory=dict)
    partition: tuple[int, ...] = (1, 3, 3, 3, 3, 3, 3, 2)
    text: dict[str, Any] = field(default_factory=dict)
    zero_keys: bool = True
    window: int = 0
    sink: int = 0

    def __post_init__(self) -> None:
        check_fields(self, zero=("window", "sink"))
        if not self.partition or not isinstance(self.model, dict) or not isinstance(self.text, dict):
            raise ConfigError("an AnyFlow student needs a partition, and model and text as names with values")
        if self.window or self.sink:
            raise ConfigError(
                "an AnyFlow student compresses its past instead of dropping it: it takes no window or sink"
            )

    @property
    def block_frames(self) -> int:
        """Latent frames of the largest block."""
        return max(self.partition)

    @property
    def max_frames(self) -> int:
        """Latent frames of a whole clip."""
        return sum(self.partition)


@dataclass(frozen=True)
class Cache:
    """Clean past [B, F, C, h, w], and what each layer keeps of it: unrotated keys and values [B, H, L, d]."""

    past: Tensor | None = None
    blocks: int = 0
    layers: tuple[Mapping[str, Tensor], ...] = ()


class AnyFlowStudent(StudentModule):
    """See ``Student`` for the contract and ``AnyFlowSpec`` for sizes.

    Its velocity is the flow map's at a step of no length, u(x_t, t, t); ``step`` is the flow map's u(x_t, t, r).
    """

    kind: ClassVar[str] = "anyflow-far"
    rolls: ClassVar[bool] = False
    renoises: ClassVar[bool] = False
    spec: AnyFlowSpec
    net: Any

    def __init__(self, spec: AnyFlowSpec, text: TextSource | None = None) -> None:
        super().__init__()
        try:
            from diffusers import AnyFlowFARTransformer3DModel
        except ImportError as error:
            raise MissingExtra("an AnyFlow student", "wan") from error
        self.spec = spec
        self.net = AnyFlowFARTransformer3DModel(**{**spec.model, "chunk_partition": list(spec.partition)})
        for block in self.net.blocks:
            block.attn1.set_processor(_Attention(spec.zero_keys))
        self._text = text if text is not None or not spec.text else UMT5Text(**spec.text)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return an untrained student of the spec that ``config()`` gave."""
        return cls(AnyFlowSpec(**{**config, "partition": tuple(config["partition"])}))

    @classmethod
    def from_diffusers(cls, folder: str | Path, height: int, width: int, text: TextSource | None = None) -> Self:
        """Load a diffusers transformer folder (``transformer`` of the public pipelines) for latents [B, F, C, h, w].

        Raises:
            CheckpointError: there is no such model, or its weights do not fit, first wrong name given.
        """
        path = Path(folder)
        path = path / "transformer" if (path / "transformer" / "config.json").is_file() else path
        try:
            from diffusers import AnyFlowFARTransformer3DModel

            loaded: Any = AnyFlowFARTransformer3DModel.from_pretrained(
                path, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except ImportError as error:
            raise MissingExtra("an AnyFlow student", "wan") from error
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{folder} cannot be loaded as AnyFlow-FAR: {' '.join(str(error).split())}") from None
        net, info = loaded
        if info["missing_keys"] or info["unexpected_keys"]:
            raise CheckpointError.misfit(path, info["missing_keys"], info["unexpected_keys"])
        model = {name: value for name, value in net.config.items() if not name.startswith("_")}
        partition = tuple(model.pop("chunk_partition"))
        student = cls(AnyFlowSpec(height, width, json.loads(json.dumps(model)), partition), text)
        student.net.load_state_dict(net.state_dict())
        return student.eval()

    def config(self) -> dict[str, Any]:
        """Return the spec as JSON-ready values."""
        return {**asdict(self.spec), "partition": list(self.spec.partition)}

    def with_settings(self, block: int | None = None, **changes: Any) -> Self:
        """See ``StudentModule``; its blocks are fixed."""
        if block is not None:
            raise ConfigError("the blocks of an AnyFlow student are fixed: leave block out")
        return self.with_spec(**changes)

    @property
    def block_list(self) -> tuple[int, ...]:
        """Latent frames of each block."""
        return self.spec.partition

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent frame."""
        return int(self.net.config.in_channels), self.spec.height, self.spec.width

    @property
    def frame_tokens(self) -> int:
        """Tokens of one latent frame that is not compressed."""
        _, p, q = self.net.config.patch_size
        return (self.spec.height // p) * (self.spec.width // q)

    def use_text(self, encoder: TextSource) -> None:
        """Take ``encoder``, prompts -> embeddings [B, L, D], as text encoder from now on."""
        self._text = encoder

    @property
    def text_encoder(self) -> object:
        """What reads prompts; None when there is none yet."""
        return self._text

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Return embeddings [B, L, D] of B prompts."""
        if self._text is None:
            raise ConfigError("this AnyFlow student has no text encoder: give student.text a UMT5 path and cache")
        return self._text(prompts).to(self.device)

    def empty_cache(self) -> Cache:
        """Return the cache before the first block."""
        return Cache(layers=({},) * len(self.net.blocks))

    def velocity(self, noisy: Tensor, levels: Tensor, text: Tensor, cache: Cache) -> Tensor:
        """Return the velocity [B, b, C, h, w] of one noisy block at ``levels`` [B, b], given its clean past."""
        return self._mean_velocity(noisy, levels, levels, text, cache)

    def step(self, noisy: Tensor, levels: Tensor, after: Tensor, text: Tensor, cache: Cache) -> Tensor:
        """Return the block [B, b, C, h, w] moved from ``levels`` to ``after`` [B, b]: one Euler step of the flow map."""
        u = self._mean_velocity(noisy, levels, after, text, cache)
        return noisy + (after - levels)[..., None, None, None] * u

    @torch.no_grad()
    def commit(self, clean: Tensor, text: Tensor, cache: Cache) -> Cache:
        """Return the cache with the clean block [B, b, C, h, w] in it: the whole past encoded anew, without gradient."""
        past = clean if cache.past is None else torch.cat([cache.past, clean], dim=1)
        blocks = cache.blocks + 1
        partition = self._partition(blocks, clean)
        layers: list[dict[str, Tensor]] = [{} for _ in self.net.blocks]
        mask = self.net.build_attention_mask(
            chunk_partition=partition, height=self.spec.height, width=self.spec.width, device=past.device, mode="cache"
        )
        zero = past.new_zeros(past.shape[:2])
        flag = {"is_cache_step": True, "num_cached_chunks": cache.blocks}
        self._forward(past, zero, zero, text, partition, layers, flag, mask)
        return Cache(past, blocks, tuple(layers))

    def teacher_forced(self, clean: Tensor, noisy: Tensor, levels: Tensor, text: Tensor) -> Tensor:
        """Return the velocity [B, F, C, h, w] of all noisy blocks, one after the other through the cache.

        A block sees the past compressed as it was when the block was drawn, which no single pass has for all blocks.
        """
        sizes = self.spec.partition
        if clean.shape != noisy.shape or clean.shape[1] != sum(sizes):
            raise ConfigError(
                f"clips for this student have {sum(sizes)} latent frames, got {list(clean.shape)} clean and "
                f"{list(noisy.shape)} noisy"
            )
        cache, parts = self.empty_cache(), []
        for x0, x, t in zip(clean.split(sizes, 1), noisy.split(sizes, 1), levels.split(sizes, 1), strict=True):
            parts.append(self.velocity(x, t, text, cache))
            if len(parts) < len(sizes):
                cache = self.commit(x0, text, cache)
        return torch.cat(parts, dim=1)

    def _mean_velocity(self, noisy: Tensor, t: Tensor, r: Tensor, text: Tensor, cache: Cache) -> Tensor:
        partition = self._partition(cache.blocks + 1, noisy)
        flag = {"is_cache_step": False, "num_cached_chunks": cache.blocks}
        velocity: Tensor = self._forward(
            noisy, t, r, text, partition, [dict(kept) for kept in cache.layers], flag, None
        )
        return velocity

    def _forward(
        self,
        latents: Tensor,
        t: Tensor,
        r: Tensor,
        text: Tensor,
        partition: list[int],
        layers: Sequence[dict[str, Tensor]],
        flag: dict[str, Any],
        mask: Any,
    ) -> Any:
        return self.net(
            hidden_states=latents,
            timestep=t * 1000,
            r_timestep=r * 1000,
            encoder_hidden_states=text,
            chunk_partition=partition,
            kv_cache=layers,
            kv_cache_flag=flag,
            attention_mask=mask,
            return_dict=False,
        )[0]

    def _partition(self, blocks: int, block: Tensor) -> list[int]:
        """Return the sizes of the first ``blocks`` blocks, having checked the last one, [B, b, C, h, w]."""
        if blocks > len(self.spec.partition):
            raise ConfigError(
                f"block {blocks} is past the {len(self.spec.partition)} blocks ({self.spec.max_frames} latent frames) this "
                "student was made for: draw a shorter clip"
            )
        wanted = (self.spec.partition[blocks - 1], *self.latent_shape)
        if tuple(block.shape[1:]) != wanted:
            raise ConfigError(
                f"block {blocks} of this student is [B, {', '.join(map(str, wanted))}], got {list(block.shape)}"
            )
        return list(self.spec.partition[:blocks])


class _Attention:
    """Causal self-attention over past and own tokens [B, L, D], in place of the processor of diffusers."""

    def __init__(self, zero_keys: bool) -> None:
        self.zero_keys = zero_keys

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Any = None,
        rotary_emb: Mapping[str, Tensor] | None = None,
        kv_cache: dict[str, Tensor] | None = None,
        kv_cache_flag: Mapping[str, Any] | None = None,
    ) -> Tensor:
        assert rotary_emb is not None
        assert kv_cache is not None
        assert kv_cache_flag is not None
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        parts = (q.type_as(hidden_states), k.type_as(hidden_states), attn.to_v(hidden_states))
        q, k, v = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in parts)
        dense = None
        if kv_cache_flag["is_cache_step"]:
            kv_cache.update(key=k, value=v)
            own = torch.arange(q.shape[2], device=q.device)
            dense = attention_mask.mask_mod(0, 0, own[:, None], own)
        elif kv_cache:
            k, v = torch.cat([kv_cache["key"], k], dim=2), torch.cat([kv_cache["value"], v], dim=2)
        q, k = _rotate(q, rotary_emb["query"]), _rotate(k, rotary_emb["key"])
        if self.zero_keys and dense is None:
            filling = (0, 0, 0, -q.shape[2] % 128)
            k, v = F.pad(k, filling), F.pad(v, filling)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=dense).transpose(1, 2).flatten(2)
        mixed: Tensor = attn.to_out[1](attn.to_out[0](out))
        return mixed


def _rotate(x: Tensor, phases: Tensor) -> Tensor:
    """Turn neighbouring pairs of [B, H, L, d] by complex ``phases`` [1, 1, L, d / 2], in their precision."""
    pairs = torch.view_as_complex(x.to(phases.real.dtype).unflatten(3, (-1, 2)))
    return torch.view_as_real(pairs * phases).flatten(3).type_as(x)
