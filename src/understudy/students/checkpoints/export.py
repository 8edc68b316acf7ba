"""One student, several formats: what ``understudy export`` does."""

from pathlib import Path
from typing import Final

from understudy.errors import CheckpointError
from understudy.files import new_path
from understudy.students.bundle import Bundle, bundle_folder, load_bundle, save_bundle
from understudy.students.checkpoints.adapter import with_adapter
from understudy.students.checkpoints.card import beside, card, settings_of
from understudy.students.checkpoints.lora_export import FORMATS as ADAPTERS
from understudy.students.checkpoints.lora_export import export_adapter
from understudy.students.checkpoints.read import Checkpoint, names_public_checkpoint, read_checkpoint
from understudy.students.checkpoints.start import sizes_of_spec
from understudy.students.checkpoints.write import write_comfyui, write_diffusers, write_self_forcing
from understudy.students.wan.spec import WanSpec

FORMATS: Final = ("diffusers", "selfforcing", "comfyui", *ADAPTERS, "bundle")
_HOW: Final = {
    "diffusers": 'diffusers.WanTransformer3DModel.from_pretrained("{name}"), in a loop of your own: its pipelines are '
    "bidirectional",
    "selfforcing": "python inference.py --checkpoint_path {name} --use_ema (Self-Forcing, Causal-Forcing, LongLive)",
    "comfyui": "ComfyUI: put it into models/diffusion_models, load it with Load Diffusion Model, draw with SamplerARVideo",
}


def export(
    source: str,
    to: str,
    out: Path,
    weights: str | None = None,
    heads: int | None = None,
    adapter: Path | None = None,
) -> str:
    """Write the student in ``source`` to the new place ``out``; return one line that says what was written.

    Args:
        source: a run folder, a bundle, ``builtin:NAME``, or a public Wan checkpoint.
        to: one of ``FORMATS``.
        out: a folder, or the file of ``selfforcing``, ``comfyui`` and ``lora-comfyui``.
        weights: which of a public checkpoint, see ``read_checkpoint``.
        heads: attention heads of a public checkpoint that does not say.
        adapter: a LoRA file to merge into a public checkpoint, see ``with_adapter``.

    Raises:
        CheckpointError: ``source`` holds no whole student, or none that the format can hold.
        UnderstudyError: ``out`` exists or cannot be written.
    """
    folder = bundle_folder(source)
    public = names_public_checkpoint(source)
    if to not in FORMATS:
        raise CheckpointError(f"there is no format {to!r}; choose one of {', '.join(FORMATS)}")
    if to in ADAPTERS and not public:
        return export_adapter(folder / "adapter", to, out)
    if to in (*ADAPTERS, "bundle"):
        if public:
            raise CheckpointError(f"{source} is a public checkpoint: export it as diffusers, selfforcing or comfyui")
        bundle = load_bundle(source)
        with new_path(out) as draft:
            save_bundle(bundle, draft)
        return f"bundle of {source}"
    if adapter is not None and not public:
        raise CheckpointError(f"{source} is no public checkpoint: its own adapter is merged already")
    if public:
        found, settings = read_checkpoint(source, weights, heads), ""
    else:
        bundle = load_bundle(source)
        found, settings = _of_bundle(bundle, to), settings_of(bundle)
    found = found if adapter is None else with_adapter(found, adapter)
    note = f"All of its {len(found.tensors)} tensors, of {found.origin}"
    text = card(f"{out.name}, for {to}", found.origin, note, _HOW[to].format(name=out.name), settings)
    if to == "diffusers":
        write_diffusers(found.tensors, found.sizes, out, text=text)
    else:
        (write_self_forcing if to == "selfforcing" else write_comfyui)(found.tensors, found.sizes, out)
        beside(out, text)
    return f"{len(found.tensors)} tensors of {found.origin}, for {to}"


def _of_bundle(bundle: Bundle, to: str) -> Checkpoint:
    """Return a bundle's Wan student, linear weights [D, D_in], as if it had been read from a public checkpoint."""
    spec = bundle.student.spec
    if not isinstance(spec, WanSpec):
        raise CheckpointError(
            f"{bundle.source} is a {bundle.student.kind}, and {to} holds Wan transformers only: export it as bundle"
        )
    return Checkpoint(dict(bundle.student.state_dict()), sizes_of_spec(spec), "original", "", bundle.source)
