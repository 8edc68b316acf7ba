"""Content credentials (C2PA): the signed statement inside a file of where it came from and what may be done with it.

Reading one needs the optional library c2pa-python; that there is one is seen without it. Source: C2PA technical
specification 2.1, "Embedding manifests into BMFF" and the assertion ``c2pa.training-mining``, which CAWG continues as
``cawg.training-mining``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from understudy.errors import TrainingForbidden
from understudy.video.decoding import sniff
from understudy.video.ingest.guard import borrow_guard

_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # of the mp4 box that holds a manifest
_MIME = {"mp4": "video/mp4", "avi": "video/avi", "gif": "image/gif"}
_ENTRIES = ("ai_generative_training", "ai_training")
_MANIFEST_BYTES = 16 << 20


def check_training_allowed(path: str | Path, source: str | None = None) -> dict[str, Any]:
    """Return the content credentials of the file ``path`` for its record, unless they forbid training.

    The collector calls this for every file before it is kept. Without the library, a manifest is only noticed
    (``read`` is False), and one that names both the training assertion and a refusal is taken at its word.

    Returns:
        ``present`` and ``read``; when read also ``state`` (of the signature's validation), ``issuer``, ``generator``,
        ``source_type`` (the last part of the digital source type, such as ``trainedAlgorithmicMedia``) and ``training``
        (``allowed``, ``constrained``, ``notAllowed`` or None: says nothing).

    Raises:
        TrainingForbidden: the maker has stated that this file must not, or only on conditions, be used for training.
        ClipError: the file cannot be read.
    """
    with borrow_guard() as guard:
        manifest = dict(guard.manifest(path, source))
    training = manifest.get("training")
    if training in ("notAllowed", "constrained"):
        who = manifest.get("issuer") or "its maker"
        condition = "on conditions only" if training == "constrained" else "not at all"
        raise TrainingForbidden(
            f"{source or path} carries content credentials in which {who} allows training on it {condition}; collection "
            "stops: ask for a permission, or choose another teacher"
        )
    return manifest


def read_manifest(file: BinaryIO) -> dict[str, Any]:
    """Return what the content credentials in a seekable ``file`` say; see `check_training_allowed`.

    Raises:
        ClipError: it is no video file.
    """
    file.seek(0)
    kind = sniff(file.read(512), "the file")
    embedded = b"".join(_manifest_boxes(file)) if kind == "mp4" else b""
    try:
        import c2pa
    except ImportError:
        return _unread(embedded)
    if kind not in _MIME:
        return {"present": False, "read": True}
    file.seek(0)
    try:
        # A manifest can be kept elsewhere and be named by its address: nothing is fetched.
        offline = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
        reader = c2pa.Reader.try_create(_MIME[kind], file, context=c2pa.Context.from_dict(offline))
        if reader is None:
            return {"present": False, "read": True}
        with reader:
            return _summary(json.loads(reader.json()))
    except (c2pa.C2paError, ValueError, KeyError, TypeError) as error:
        return _unread(embedded) | {"note": f"cannot be read: {' '.join(str(error).split())[:200]}"}


def _summary(store: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of the active manifest; a refusal in any manifest of the chain counts."""
    manifests = store.get("manifests", {})
    active = manifests.get(store.get("active_manifest"), {})
    said = [use for manifest in manifests.values() for use in _uses(manifest)]
    ranked = [use for use in ("notAllowed", "constrained", "allowed") if use in said]
    generators = active.get("claim_generator_info") or [{"name": active.get("claim_generator")}]
    types = [
        str(action["digitalSourceType"]).rsplit("/", 1)[-1]
        for assertion in active.get("assertions", [])
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", [])
        if action.get("digitalSourceType")
    ]
    return {
        "present": True,
        "read": True,
        "state": store.get("validation_state"),
        "issuer": (active.get("signature_info") or {}).get("issuer"),
        "generator": generators[0].get("name"),
        "source_type": types[0] if types else None,
        "training": ranked[0] if ranked else None,
    }


def _uses(manifest: dict[str, Any]) -> Iterator[str]:
    """Yield what a manifest's assertions say about training."""
    for assertion in manifest.get("assertions", []):
        if str(assertion.get("label", "")).split("__")[0].endswith(".training-mining"):
            for name, entry in assertion.get("data", {}).get("entries", {}).items():
                if name.rsplit(".", 1)[-1] in _ENTRIES:
                    yield str(entry.get("use"))


def _unread(embedded: bytes) -> dict[str, Any]:
    """Return what is seen of a manifest without reading it."""
    if not embedded:
        return {"present": False, "read": False}
    refused = b".training-mining" in embedded and (b"notAllowed" in embedded or b"constrained" in embedded)
    note = "install understudy[c2pa] to read it"
    return {"present": True, "read": False, "training": "notAllowed" if refused else None, "note": note}


def _manifest_boxes(file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of the top-level manifest boxes of an mp4."""
    at, size = 0, file.seek(0, 2)
    for _ in range(10_000):
        if at + 8 > size:
            return
        file.seek(at)
        head = file.read(32)
        length, start = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, start = int.from_bytes(head[8:16], "big"), 16
        elif length == 0:
            length = size - at
        if length < 8:
            return
        if head[4:8] == b"uuid" and head[start : start + 16] == _UUID:
            file.seek(at + start + 16)
            yield file.read(min(length - start - 16, _MANIFEST_BYTES))
        at += length
