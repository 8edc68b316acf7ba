"""The Wan autoencoder's files: a diffusers folder, or the one file that Wan, Self-Forcing and ComfyUI use.

The original file (``Wan2.1_VAE.pth``, ``Wan2.2_VAE.pth``, or the same names in safetensors, alone or inside an all-in-one
checkpoint) has no settings: sizes follow from the shapes of its convolutions [C, C_in, t, h, w], mean and deviation of
the latents from their channels, 16 (Wan 2.1) or 48 (Wan 2.2).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from understudy.errors import CheckpointError
from understudy.files import load_tensors
from understudy.reading import read_json

_CLASS: Final = "AutoencoderKLWan"
_INSIDE: Final = ("vae.", "first_stage_model.")
_FILES: Final = re.compile(r"vae.*\.(?:pth|pt|safetensors)$", re.IGNORECASE)
_SUFFIXES: Final = (".pth", ".pt", ".safetensors", ".bin", ".ckpt", ".gguf")
_ADVICE: Final = "give a diffusers folder with vae/config.json in it, or Wan2.1_VAE.pth, or the folder that holds it"
# Of the public Wan 2.2 autoencoder; those of 2.1 are diffusers' defaults.
_WAN22: Final[dict[str, Any]] = {
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 16,
    "latents_mean": [
        *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891),
        *(0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
        *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723),
        *(-0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
    ],
    "latents_std": [
        *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901),
        *(0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
        *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944),
        *(0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
    ],
}
_PARTS: Final = {"0.gamma": "norm1.gamma", "2.": "conv1.", "3.gamma": "norm2.gamma", "6.": "conv2."}


@dataclass(frozen=True)
class VaeFiles:
    """Where an autoencoder is and what is known of it without its weights.

    Attributes:
        place: a folder of diffusers', or an original file.
        config: arguments of ``AutoencoderKLWan``; what is not there is as diffusers has it.
    """

    place: Path
    config: Mapping[str, Any]

    @property
    def channels(self) -> int:
        """C of its latents."""
        return int(self.config.get("z_dim", 16))

    @property
    def stride(self) -> int:
        """Pixels along a side that one latent pixel stands for."""
        return int(self.config.get("scale_factor_spatial") or 8)

    @property
    def frames_per_latent(self) -> int:
        """Pixel frames that every latent frame after the first stands for."""
        return int(self.config.get("scale_factor_temporal") or 4)


def find_vae(path: str | Path) -> VaeFiles:
    """Return where the Wan autoencoder in ``path`` is: in a folder of diffusers', a pipeline's, Wan's own, or a file.

    Raises:
        CheckpointError: there is none, there are several, or it is damaged; nothing but headers is read.
    """
    place = Path(path)
    for folder in (place / "vae", place):
        if (folder / "config.json").is_file() and (config := _config(folder / "config.json")) is not None:
            return VaeFiles(folder, config)
    if place.is_dir():
        files = [file for file in sorted(place.iterdir()) if _FILES.search(file.name)]
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise CheckpointError(f"{path} holds several autoencoders ({names}): give the file you mean")
        if not files:
            raise CheckpointError(f"{path} holds no Wan autoencoder: {_ADVICE}")
        place = files[0]
    if not place.is_file():
        raise CheckpointError(f"{path} is missing: {_ADVICE}")
    if place.suffix not in _SUFFIXES:
        raise CheckpointError(f"{path} holds no Wan autoencoder: {_ADVICE}")
    return VaeFiles(place, _config_of(read_original(place, headers=True), place))


def read_original(path: Path, headers: bool = False) -> dict[str, Tensor]:
    """Return the tensors of an original file under diffusers' names, convolutions [C, C_in, t, h, w].

    Raises:
        CheckpointError: it is damaged, or holds no Wan autoencoder.
    """
    content, _ = load_tensors(path, headers)
    while isinstance(content, Mapping) and isinstance(
        inner := content.get("state_dict", content.get("model")), Mapping
    ):
        content = inner
    tensors = {str(name): tensor for name, tensor in content.items()} if isinstance(content, Mapping) else {}
    if prefix := next((prefix for prefix in _INSIDE if any(name.startswith(prefix) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    renamed = {diffusers_name(name): value.detach() for name, value in tensors.items()}
    wanted = ("encoder.conv_in.weight", "decoder.conv_in.weight", "post_quant_conv.weight")
    for name in wanted:
        if name not in renamed or renamed[name].ndim != 5:
            first = next(iter(sorted(tensors)), "none")
            raise CheckpointError(
                f"{path} holds no Wan autoencoder: {len(tensors)} tensors, {name!r} is not among them, first {first!r}; "
                f"{_ADVICE}"
            )
    return renamed


def diffusers_name(name: str) -> str:
    """Return diffusers' name of a weight of Wan's own autoencoder; a name that is diffusers' already stays as it is.

    diffusers has such a table for Wan 2.1 only; the tests hold this one to it.
    """
    if match := re.fullmatch(r"conv(?P<which>[12])\.(?P<end>.+)", name):
        return f"{'quant_conv' if match['which'] == '1' else 'post_quant_conv'}.{match['end']}"
    for part, block in (("encoder", "down"), ("decoder", "up")):
        name = name.replace(f"{part}.conv1.", f"{part}.conv_in.")
        name = name.replace(f"{part}.head.0.", f"{part}.norm_out.").replace(f"{part}.head.2.", f"{part}.conv_out.")
        name = name.replace(f"{part}.middle.0.", f"{part}.mid_block.resnets.0.")
        name = name.replace(f"{part}.middle.1.", f"{part}.mid_block.attentions.0.")
        name = name.replace(f"{part}.middle.2.", f"{part}.mid_block.resnets.1.")
        if match := re.fullmatch(rf"{part}\.{block}samples\.(\d+)\.{block}samples\.(\d+)\.(.+)", name):  # Wan 2.2
            stage, index, end = match.groups()
            inside = f"{block}sampler" if end.startswith(("resample.", "time_conv.")) else f"resnets.{index}"
            name = f"{part}.{block}_blocks.{stage}.{inside}.{end}"
        elif match := re.fullmatch(rf"{part}\.{block}samples\.(\d+)\.(.+)", name):
            index, end = int(match[1]), match[2]
            stage = f"{index}." if block == "down" else f"{index // 4}.{_decoder_part(index % 4)}."
            name = f"{part}.{block}_blocks.{stage}{end}"
    if ".residual." in name:
        head, _, end = name.partition(".residual.")
        end = next(
            (new + end.removeprefix(old) for old, new in _PARTS.items() if end.startswith(old)), f"residual.{end}"
        )
        name = f"{head}.{end}"
    return name.replace(".shortcut.", ".conv_shortcut.")


def _decoder_part(index: int) -> str:
    """Return the part of a stage of Wan 2.1's decoder, three residual blocks and what enlarges."""
    return f"resnets.{index}" if index < 3 else "upsamplers.0"


def _config(path: Path) -> dict[str, Any] | None:
    """Return the arguments in an autoencoder's config.json; None when it is another model's."""
    try:
        told = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): fetch it again") from None
    if not isinstance(told, dict) or told.get("_class_name", _CLASS) != _CLASS:
        return None
    return {name: value for name, value in told.items() if not name.startswith("_")}


def _config_of(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Return the arguments of ``AutoencoderKLWan`` that tensors under diffusers' names show."""
    channels = tensors["post_quant_conv.weight"].shape[0]
    sizes = {"z_dim": channels, "base_dim": tensors["encoder.conv_in.weight"].shape[0]}
    if channels == 16:
        return sizes
    if channels == 48:
        return {**sizes, "decoder_base_dim": tensors["decoder.conv_in.weight"].shape[0] // 4, **_WAN22}
    raise CheckpointError(
        f"{path} makes latents of {channels} channels: mean and deviation are known for 16 (Wan 2.1) and 48 (Wan 2.2); "
        "give a diffusers folder, whose config.json says them"
    )
