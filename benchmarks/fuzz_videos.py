"""Feed the guarded decoder thousands of damaged and adversarial video files made from real ones.

    python benchmarks/fuzz_videos.py [--files 2000] [--seed 0] [--json FILE]

Each file has to be refused with a reason in one line, or read; nothing may crash this process or hang. What was read after
damage is compared with the undamaged clip, and told apart by what differs: a stream without checksums cannot show every
flipped bit of a picture.
"""

import argparse
import io
import json
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from understudy.errors import ClipError
from understudy.video.clips import Clip, ClipForm, encode_mp4
from understudy.video.decoding import Limits
from understudy.video.ingest.guard import Guard

Damage = Callable[[bytes, np.random.Generator], bytes]
_SOURCES = (
    ("mp4", "libx264", "yuv420p"),
    ("sliced.mp4", "libx264", "yuv420p"),
    ("mirrored.mp4", "libx264", "yuv420p"),
    ("mp4", "libx265", "yuv420p10le"),
    ("webm", "libvpx-vp9", "yuv420p"),
    ("mp4", "libsvtav1", "yuv420p"),
    ("mkv", "ffv1", "yuv420p"),
    ("avi", "mjpeg", "yuvj420p"),
    ("mov", "prores_ks", "yuv422p10le"),
    ("gif", "gif", "rgb8"),
    ("ts", "mpeg2video", "yuv420p"),
)


def sources(folder: Path) -> dict[str, bytes]:
    """Return real files of several containers and codecs, and the clip all of them show."""
    rng = np.random.default_rng(0)
    fine = np.kron(rng.integers(0, 256, (14, 40, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    frames = np.stack([np.ascontiguousarray(fine[:48, 3 * t : 3 * t + 64]) for t in range(24)])
    made = {"own.mp4": encode_mp4(Clip(frames, 24.0))}
    for suffix, codec, pixel_format in _SOURCES:
        path = folder / f"{codec}.{suffix}"
        with av.open(str(path), "w") as container:
            options = {"x264-params": "slices=3"} if suffix == "sliced.mp4" else {}
            stream = container.add_stream(codec, rate=25 if suffix == "gif" else 24, options=options)
            stream.height, stream.width, stream.pix_fmt = 48, 64, pixel_format
            if suffix == "mirrored.mp4":
                stream.set_display_matrix([-1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30])
            for pixels in frames:
                container.mux(stream.encode(VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        made[path.name] = path.read_bytes()
    return made


def bit_flips(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip 1 to 64 bits anywhere."""
    damaged = bytearray(data)
    for at in rng.integers(0, len(data), rng.integers(1, 65)):
        damaged[at] ^= 1 << rng.integers(8)
    return bytes(damaged)


def one_bit(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip a single bit."""
    damaged = bytearray(data)
    damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(damaged)


def truncation(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut the end off."""
    return data[: rng.integers(1, len(data))]


def hole(data: bytes, rng: np.random.Generator) -> bytes:
    """Blank a part."""
    low, high = sorted(rng.integers(0, len(data), 2))
    return data[:low] + bytes(high - low) + data[high:]


def cut_out(data: bytes, rng: np.random.Generator) -> bytes:
    """Leave a part out."""
    low, high = sorted(rng.integers(0, len(data), 2))
    return data[:low] + data[high:]


def repeated(data: bytes, rng: np.random.Generator) -> bytes:
    """Say a part many times over."""
    low = rng.integers(0, len(data) - 8)
    return data[:low] + data[low : low + rng.integers(8, 4096)] * int(rng.integers(2, 200)) + data[low:]


def header(data: bytes, rng: np.random.Generator) -> bytes:
    """Change bytes of the headers: of the first and last kilobyte."""
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 12)):
        at = int(rng.integers(0, min(1024, len(data))))
        damaged[at if rng.random() < 0.5 else len(data) - 1 - at] = rng.integers(256)
    return bytes(damaged)


def huge(data: bytes, rng: np.random.Generator) -> bytes:
    """Claim a huge size, length or count somewhere in the headers."""
    damaged = bytearray(data)
    at = int(rng.integers(0, min(4000, len(data) - 8)))
    value = rng.choice(np.array([2**31 - 1, 2**32 - 1, 65535, 2**24], dtype=np.uint64))
    damaged[at : at + 4] = int(value).to_bytes(4, "big" if rng.random() < 0.7 else "little")
    return bytes(damaged)


def impostor(data: bytes, rng: np.random.Generator) -> bytes:
    """Something else under a video's name."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.mp4", data)
    texts = [
        b"",
        b"<html><body>502 Bad Gateway</body></html>",
        b'{"error": "quota"}',
        archive.getvalue(),
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile x\n",
        b"\x89PNG\r\n\x1a\n" + data,
        rng.bytes(int(rng.integers(1, 5000))),
        b"\x1a\x45\xdf\xa3" + rng.bytes(3000),
        b"\x00\x00\x00\x18ftypmp42" + rng.bytes(3000),
        b"RIFF\xff\xff\xff\xffAVI " + rng.bytes(2000),
        b"GIF89a\xff\xff\xff\xff" + rng.bytes(500),
        b"\x00\x00\x00\x08free" * 50_000,
    ]
    return bytes(texts[rng.integers(len(texts))])


def spliced(data: bytes, rng: np.random.Generator) -> bytes:
    """Noise in the middle of a whole file's start and end."""
    low, high = sorted(rng.integers(0, len(data), 2))
    return data[:low] + rng.bytes(int(high - low)) + data[high:]


DAMAGES: tuple[Damage, ...] = (bit_flips, one_bit, truncation, hole, cut_out, repeated, header, huge, impostor, spliced)


def difference(found: Clip, whole: Clip) -> str:
    """Return how a clip that was read after damage differs from the undamaged one."""
    if found.frames.shape[1:] != whole.frames.shape[1:]:
        return "read, other frame size"
    shared = min(found.length, whole.length)
    right = (found.frames[:shared] == whole.frames[:shared]).all(axis=(1, 2, 3))
    if found.length != whole.length:
        return f"read, {'fewer' if found.length < whole.length else 'more'} frames"
    if right.all():
        return "read, every pixel right"
    return f"read, all frames, other pixels {'from the first' if not right[0] else 'in a later one on'}"


def run(files: int, seed: int, limits: Limits) -> dict[str, object]:
    """Feed ``files`` files and return what became of them."""
    rng = np.random.default_rng(seed)
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    by_source: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    slowest, crashes, form = 0.0, 0, ClipForm(24, 32, 12.0, 8)
    with tempfile.TemporaryDirectory() as name, Guard(limits) as guard:
        folder = Path(name)
        real = sources(folder)
        whole = {}
        for source, data in real.items():
            (folder / "x.mp4").write_bytes(data)
            whole[source] = guard.read(folder / "x.mp4")
        began = time.monotonic()
        for number in range(files):
            source = list(real)[number % len(real)]
            damage = DAMAGES[number // len(real) % len(DAMAGES)]
            (folder / "x.mp4").write_bytes(damage(real[source], rng))
            start = time.monotonic()
            try:
                guard.probe(folder / "x.mp4", "x")
                clip = guard.read(folder / "x.mp4", None, "x")
                outcome = difference(clip, whole[source])
                if "right" not in outcome and clip.seconds > form.frames / form.fps:
                    guard.read(folder / "x.mp4", form, "x")
            except ClipError as error:
                outcome = "refused" if "\n" not in str(error) else "refused in several lines"
                crashes += "crash" in str(error)
                reasons[
                    next(
                        (
                            w
                            for w in (
                                "damaged",
                                "cut short",
                                "not a video",
                                "too large",
                                "no frames",
                                "no video track",
                                "busy",
                                "crash",
                                "memory",
                                "changes its frame size",
                                "shown through a matrix",
                                "frame rate",
                                "empty",
                                "cannot decode",
                                "cannot be decoded",
                            )
                            if w in str(error)
                        ),
                        str(error)[:60],
                    )
                ] += 1
            slowest = max(slowest, time.monotonic() - start)
            outcomes[damage.__name__][outcome] += 1
            by_source[source][outcome] += 1
        seconds = time.monotonic() - began
    total: Counter[str] = sum(outcomes.values(), Counter())
    return {
        "files": files,
        "seed": seed,
        "total": dict(total),
        "by_damage": {k: dict(v) for k, v in outcomes.items()},
        "by_source": {k: dict(v) for k, v in by_source.items()},
        "reasons": dict(reasons.most_common()),
        "worker_crashes": crashes,
        "slowest_seconds": round(slowest, 2),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Run it and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    text = json.dumps(run(options.files, options.seed, Limits(seconds=20, memory_bytes=2 << 30)), indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
