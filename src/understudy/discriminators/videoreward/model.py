"""VideoReward as discriminator: Qwen2-VL with LoRA and a scalar head (2501.13918), read at three rating tokens.

The clip is sampled at a few frames a second and brought under a pixel budget, followed by a text that asks for three
ratings; a bias-free linear head turns the last hidden state at each rating token into a number. Frames become patches
by tensor operations, so scores can be differentiated by pixels and no image processor is needed. The vision tower and
the language model stay frozen, LoRA and head are trained; checkpoints hold only these. Home of the transformers and peft
extras for discriminators. Reading weights is in ``files``.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.discriminators.base import Discriminator
from understudy.errors import ConfigError, MissingExtra

RATINGS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
"""Tokens whose hidden states are rated: visual quality, motion quality, text alignment."""

TEMPLATE = """
Watch the video and rate it from 0 to 10 on three points, each on its own.

Visual quality: are the frames clear, detailed, pleasant and free of impossible things?
Rating: <|VQ_reward|>

Motion quality: does it move enough, smoothly, steadily and as physics would have it?
Rating: <|MQ_reward|>

Text alignment: are the subject, what it does, the place and the camera as described here: {prompt}
Rating: <|TA_reward|>
"""
"""Default request. Public VideoReward weights were trained with a longer one of their own: give that as a file."""

# Mean and deviation of each rating, from the public model's configuration; they put the three on one scale.
_CALIBRATION = ((3.6757, 2.2476), (1.1646, 1.3811), (2.8105, 2.5121))
_DIMENSIONS = {"visual": 0, "motion": 1, "text": 2}
_CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>{request}<|im_end|>\n<|im_start|>assistant\n"
)
_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
_NO_TOKEN = -1


@dataclass(frozen=True)
class VideoRewardSpec:
    """How clips are shown and what is trained.

    Attributes:
        clip_fps: frames per second of the clips that will be scored.
        fps: frames per second looked at.
        min_pixels, max_pixels: bounds of a frame's area after resizing; sides are multiples of 28.
        template: the request, with ``{prompt}`` and the three ``RATINGS`` in their order.
        dimension: the rating used as score; "overall" is the sum of all three, each standardised.
        rank, alpha: of LoRA on every linear layer of the language model.
        clips_at_once: clips that run through the network together.
        checkpointing: recompute each layer in the backward pass instead of keeping its activations.
    """

    clip_fps: float
    fps: float = 2.0
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 256 * 28 * 28
    template: str = TEMPLATE
    dimension: Literal["overall", "visual", "motion", "text"] = "overall"
    rank: int = 64
    alpha: int = 128
    clips_at_once: int = 2
    checkpointing: bool = True


class VideoReward(Discriminator):
    """See ``Discriminator`` for the contract and ``VideoRewardSpec`` for settings.

    Args:
        model: a transformers ``Qwen2VLModel`` (no language head); LoRA layers are put into it.
        tokenizer: its tokenizer; rating tokens it does not know are added.
        spec: settings.
    """

    model: Any

    def __init__(self, model: Any, tokenizer: Any, spec: VideoRewardSpec) -> None:
        super().__init__()
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise MissingExtra("the VideoReward discriminator", "wan") from error
        places = [spec.template.find(token) for token in RATINGS]
        if "{prompt}" not in spec.template or -1 in places or places != sorted(places):
            raise ConfigError(
                f"the VideoReward template needs {{prompt}} and, in this order, {', '.join(RATINGS)}: add what is missing"
            )
        self.spec, self.tokenizer = spec, tokenizer
        tokenizer.add_tokens(list(RATINGS), special_tokens=True)
        embedding = model.language_model.embed_tokens
        if len(tokenizer) > embedding.num_embeddings:
            model.resize_token_embeddings(len(tokenizer))
        self._rating_ids = [int(i) for i in tokenizer.convert_tokens_to_ids(list(RATINGS))]
        self._video_id = int(tokenizer.convert_tokens_to_ids("<|video_pad|>"))
        model.requires_grad_(False)
        linear = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.startswith("language_model.")
        ]
        lora = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, lora_dropout=0.0, target_modules=linear)
        self.model = inject_adapter_in_model(lora, model)
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:  # small steps on small numbers are lost in half precision
                parameter.data = parameter.data.float()
        self.rm_head = nn.Linear(model.config.text_config.hidden_size, 1, bias=False)
        self.rm_head.weight.data.normal_(0, model.config.text_config.hidden_size**-0.5)
        vision = model.config.vision_config
        self._patch, self._merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self._pair = int(vision.temporal_patch_size)
        if spec.checkpointing:
            newer = getattr(self.model, "activation_checkpointing_enable", None)  # the name that version 6 keeps
            (newer or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        self.train()  # checkpointing asks for it; there is no dropout
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_post_hook(_forgive_frozen)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.rm_head.weight.device

    def prepare(self, clips: Tensor) -> Tensor:
        """Return clips [B, T, 3, H, W] in [0, 1] sampled in time and resized: [B, T', 3, H', W'] in [-1, 1]."""
        b, t, _, height, width = clips.shape
        rows = sampled_frames(t, self.spec.clip_fps, self.spec.fps, self._pair)
        size = fitted_size(height, width, self._patch * self._merge, self.spec.min_pixels, self.spec.max_pixels)
        frames = clips[:, rows].flatten(0, 1)
        if size != (height, width):
            frames = F.interpolate(frames, size, mode="bicubic", antialias=True).clamp(0, 1)
        return frames.unflatten(0, (b, -1)) * 2 - 1

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Return tokens [B, L] (int64) of the whole conversation, -1 past its end; one token stands for the clip."""
        # A prompt must not be able to write a rating token or a second clip.
        requests = [self.spec.template.replace("{prompt}", prompt.replace("<|", "< |")) for prompt in prompts]
        rows = [self.tokenizer(_CHAT.replace("{request}", r), add_special_tokens=False)["input_ids"] for r in requests]
        tokens = torch.full((len(rows), max(map(len, rows), default=0)), _NO_TOKEN, dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        return tokens.to(self.device)

    def logits(self, prepared: Tensor, text: Tensor) -> Tensor:
        """Return scores [B] of prepared clips [B, T', 3, H', W'] in [-1, 1] for tokens [B, L] of ``encode_text``."""
        size = self.spec.clips_at_once
        parts = [self._logits(p, t) for p, t in zip(prepared.split(size), text.split(size), strict=True)]
        return torch.cat(parts)

    def ratings(self, prepared: Tensor, text: Tensor) -> Tensor:
        """Return the three raw ratings [B, 3] (visual, motion, text) of prepared clips [B, T', 3, H', W']."""
        patches, grid = patchify(self._normalised(prepared.to(self.device)), self._patch, self._merge, self._pair)
        t, h, w = grid[0], grid[1] // self._merge, grid[2] // self._merge
        place = int((text[0] == self._video_id).nonzero()[0])
        video = text.new_full((len(text), t * h * w), self._video_id)
        tokens = torch.cat([text[:, :place], video, text[:, place + 1 :]], dim=1)
        hidden = self.model(
            input_ids=tokens.clamp(min=0),
            attention_mask=(tokens != _NO_TOKEN).long(),
            position_ids=positions(place, (t, h, w), tokens.shape[1], tokens.device)[:, None].expand(-1, len(text), -1),
            pixel_values_videos=patches.flatten(0, 1),
            video_grid_thw=torch.tensor([grid] * len(text), device=self.device),
            use_cache=False,
        ).last_hidden_state
        at = torch.stack([(tokens == token).long().argmax(1) for token in self._rating_ids], dim=1)  # [B, 3]
        read = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))
        rated = self.rm_head(
            read.float()
        )  # [B, 3, 1], or [B, 3, 3]: a row of the head for each rating, read at its token
        return rated.squeeze(-1) if rated.shape[-1] == 1 else rated.diagonal(dim1=1, dim2=2)

    def set_outputs(self, count: int) -> None:
        """Give the head ``count`` rows [count, D]: 1 for all ratings, or 3, one for each, as VideoReward's trainer can."""
        old = self.rm_head.weight
        with torch.device(old.device):
            self.rm_head = nn.Linear(old.shape[1], count, bias=False, dtype=old.dtype)

    def _logits(self, prepared: Tensor, text: Tensor) -> Tensor:
        ratings = self.ratings(prepared, text)
        mean, std = ratings.new_tensor(_CALIBRATION).unbind(1)
        standard = (ratings - mean) / std
        return standard.sum(1) if self.spec.dimension == "overall" else standard[:, _DIMENSIONS[self.spec.dimension]]

    def _normalised(self, prepared: Tensor) -> Tensor:
        """Return frames [B, T', 3, H', W'] with the mean and deviation Qwen2-VL was trained with."""
        mean, std = (prepared.new_tensor(values)[:, None, None] for values in (_PIXEL_MEAN, _PIXEL_STD))
        return ((prepared + 1) / 2 - mean) / std


def sampled_frames(frames: int, clip_fps: float, fps: float, multiple: int = 2) -> list[int]:
    """Return which of ``frames`` frames are looked at: ``fps`` a second spread over the clip, first and last included.

    At least four (all, if there are fewer), in number a multiple of ``multiple`` where the clip is long enough.
    """
    wanted = min(max(frames / clip_fps * fps, 4), frames // multiple * multiple)
    count = min(max(round(wanted / multiple) * multiple, 1), frames)
    return [round(i) for i in torch.linspace(0, frames - 1, count).tolist()]


def fitted_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return the size nearest to ``height`` x ``width`` whose sides are multiples of ``factor`` and area within bounds."""
    h, w = (max(factor, round(side / factor) * factor) for side in (height, width))
    if h * w > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        h, w = (max(factor, math.floor(side / scale / factor) * factor) for side in (height, width))
    elif h * w < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        h, w = (math.ceil(side * scale / factor) * factor for side in (height, width))
    return h, w


def patchify(frames: Tensor, patch: int, merge: int, pair: int) -> tuple[Tensor, tuple[int, int, int]]:
    """Cut frames [B, T, 3, H, W] into the patches of Qwen2-VL, the ``merge`` x ``merge`` ones that fuse side by side.

    Returns patches [B, t h w, 3 pair patch patch] and the grid (t, h, w); an odd last frame is doubled.
    """
    if odd := -frames.shape[1] % pair:
        frames = torch.cat([frames, frames[:, -1:].expand(-1, odd, -1, -1, -1)], dim=1)
    grid = (frames.shape[1] // pair, frames.shape[3] // patch, frames.shape[4] // patch)
    cut = frames.unflatten(4, (-1, merge, patch)).unflatten(3, (-1, merge, patch)).unflatten(1, (-1, pair))
    # [B, t, pair, 3, h', my, py, w', mx, px] -> [B, t, h', w', my, mx, 3, pair, py, px]
    ordered = cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return ordered.flatten(6).flatten(1, 5), grid


def positions(place: int, grid: tuple[int, int, int], length: int, device: torch.device) -> Tensor:
    """Return the rotary positions (time, row, column) [3, L] of a text of ``length`` with a clip of ``grid`` at ``place``.

    Words count on alike in all three; the clip's tokens count each axis from where the words stopped (2409.12191).
    """
    axes = torch.meshgrid(*(torch.arange(n, device=device) for n in grid), indexing="ij")
    video = torch.stack([axis.flatten() for axis in axes]) + place
    after = torch.arange(length - place - video.shape[1], device=device) + place + max(grid)
    before = torch.arange(place, device=device)
    return torch.cat([before.expand(3, -1), video, after.expand(3, -1)], dim=1)


def canonical_name(name: str) -> str | None:
    """Return the name of a weight in no one's layout in particular; None for one that is not used (the language head).

    Known are peft's and FSDP's prefixes, and both layouts of Qwen2-VL that transformers has had.
    """
    name = re.sub(
        r"(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod|base_layer|modules_to_save|default)\.", "", name
    )
    if "rm_head" in name:
        return "rm_head.weight"
    if "lm_head" in name:
        return None
    name = name.rpartition("base_model.model.")[2].removeprefix("module.")
    while name.startswith("model."):
        name = name.removeprefix("model.")
    name = name.removeprefix("language_model.").removeprefix("model.")
    return name if name.startswith("visual.") else f"language_model.{name}"


def _drop_frozen(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            state.pop(prefix + name, None)


def _forgive_frozen(module: nn.Module, incompatible: Any) -> None:
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if key not in frozen]
