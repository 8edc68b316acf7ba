import json
import sys
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import TrainingForbidden
from understudy.video.clips import Clip, encode_mp4
from understudy.video.ingest import c2pa
from understudy.video.ingest.c2pa import check_training_allowed, read_manifest

CLIP = encode_mp4(Clip(np.zeros((2, 16, 16, 3), np.uint8), 8))


def boxed(text: bytes) -> bytes:
    """A clip with a box that claims to be a manifest."""
    body = b"uuid" + c2pa._UUID + text
    return CLIP + (len(body) + 4).to_bytes(4, "big") + body


def store(use: str | None, label: str = "cawg.training-mining", entry: str = "cawg.ai_generative_training") -> dict:
    assertions = [
        {"label": "c2pa.actions.v2", "data": {"actions": [{"digitalSourceType": "http://x/trainedAlgorithmicMedia"}]}}
    ]
    if use is not None:
        assertions.append(
            {"label": label, "data": {"entries": {entry: {"use": use}, "cawg.data_mining": {"use": "notAllowed"}}}}
        )
    active = {
        "claim_generator_info": [{"name": "gen"}],
        "signature_info": {"issuer": "Maker"},
        "assertions": assertions,
    }
    return {"active_manifest": "a", "manifests": {"a": active}, "validation_state": "Valid"}


@pytest.mark.parametrize("use", ["notAllowed", "constrained", "allowed", None])
@pytest.mark.parametrize(("label", "prefix"), [("c2pa.training-mining", "c2pa"), ("cawg.training-mining__1", "cawg")])
def test_summary_says_what_the_maker_says_of_training(use: str | None, label: str, prefix: str) -> None:
    said = c2pa._summary(store(use, label, f"{prefix}.ai_generative_training"))
    assert said["training"] == use
    assert (said["issuer"], said["generator"], said["source_type"]) == ("Maker", "gen", "trainedAlgorithmicMedia")


def test_plain_clip_has_no_credentials(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(CLIP)
    assert check_training_allowed(tmp_path / "a.mp4")["present"] is False


def test_without_the_library_a_manifest_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    assert read_manifest(BytesIO(CLIP)) == {"present": False, "read": False}
    said = read_manifest(BytesIO(boxed(b"...")))
    assert (said["present"], said["training"]) == (True, None)
    assert "understudy[c2pa]" in said["note"]
    assert read_manifest(BytesIO(boxed(b"cawg.training-mining notAllowed")))["training"] == "notAllowed"


def test_unreadable_manifest_that_refuses_stops_the_collection(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(boxed(b"c2pa.training-mining notAllowed"))
    with pytest.raises(TrainingForbidden, match="collection stops"):
        check_training_allowed(tmp_path / "a.mp4", "clip 3")


def signed(entries: dict[str, dict[str, str]]) -> bytes:
    """A clip signed by a certificate made on the spot."""
    library = pytest.importorskip("c2pa")
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def certificate(name: str, key, issuer: str, issuer_key, ca: bool):  # type: ignore[no-untyped-def]
        def named(text: str):  # type: ignore[no-untyped-def]
            oid = x509.NameOID
            return x509.Name(
                [x509.NameAttribute(oid.ORGANIZATION_NAME, text), x509.NameAttribute(oid.COMMON_NAME, text)]
            )

        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer)).public_key(key.public_key())
        )
        builder = (
            builder.serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(1))
            .not_valid_after(now + timedelta(9))
        )
        builder = builder.add_extension(x509.BasicConstraints(ca, None), True)
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), True
        )
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
        )
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        return builder.sign(issuer_key, hashes.SHA256())

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    chain = [certificate("Maker", leaf, "Root", root, False), certificate("Root", root, "Root", root, True)]
    pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)
    key = leaf.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    info = library.C2paSignerInfo(alg=b"es256", sign_cert=pem, private_key=key, ta_url=None)
    manifest = {
        "claim_generator_info": [{"name": "test", "version": "1"}],
        "format": "video/mp4",
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
                        }
                    ]
                },
            },
            {"label": "cawg.training-mining", "data": {"entries": entries}},
        ],
    }
    out = BytesIO()
    with library.Signer.from_info(info) as signer, library.Builder(json.dumps(manifest)) as builder:
        builder.sign(signer, "video/mp4", BytesIO(CLIP), out)
    return out.getvalue()


def test_signed_clips_are_read_by_the_library(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(signed({"cawg.ai_generative_training": {"use": "allowed"}}))
    said = check_training_allowed(path)
    assert (said["present"], said["read"], said["training"]) == (True, True, "allowed")
    assert said["source_type"] == "trainedAlgorithmicMedia"
    path.write_bytes(signed({"cawg.ai_generative_training": {"use": "notAllowed"}}))
    with pytest.raises(TrainingForbidden, match="not at all"):
        check_training_allowed(path)
