"""Video files of every kind that users bring, made here, each with what is right for it.

    python benchmarks/video_kinds.py [--markdown FILE]

Every kind is written by an encoder, probed and read in the guarded process, and compared with what a player shows. The
tests run the same list (tests/video/ingest/test_kinds.py).
"""

import argparse
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition
from av.video.frame import VideoFrame

from understudy.errors import ClipError
from understudy.video.clips import ClipForm
from understudy.video.ingest.guard import Guard

Frames = npt.NDArray[np.uint8]
HEIGHT, WIDTH, RATE = 48, 64, 24


def film(count: int = 24, height: int = HEIGHT, width: int = WIDTH) -> Frames:
    """A red left half, a blue right one, a green box at the top that moves right: uint8 [count, height, width, 3]."""
    frames = np.full((count, height, width, 3), (40, 60, 190), np.uint8)
    frames[:, :, : width // 2] = (200, 40, 40)
    side = height // 4
    for t in range(count):
        at = t * (width - side) // max(1, count - 1)
        frames[t, 2 : 2 + side, at : at + side] = (30, 200, 60)
    return frames


def write(path: Path, frames: Frames, codec: str = "libx264", pixel_format: str = "yuv420p", **how: Any) -> Path:
    """Write ``frames``.

    ``how``: ``rate``, ``options`` of the encoder, ``container`` options, ``times`` in ms, ``sound`` codec, ``matrix``,
    ``aspect`` of a pixel, ``context`` attributes, ``cover``: an attached picture first, ``trailer``: a smaller second track.
    """
    with av.open(str(path), "w", container_options=how.get("container", {})) as file:
        stream = file.add_stream(codec, rate=how.get("rate", RATE), options=how.get("options", {}))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        if "matrix" in how:
            stream.set_display_matrix(how["matrix"])
        if "aspect" in how:
            stream.codec_context.sample_aspect_ratio = how["aspect"]
        if "times" in how:
            stream.codec_context.time_base = Fraction(1, 1000)
        for name, value in how.get("context", {}).items():
            setattr(stream.codec_context, name, value)
        sound = file.add_stream(how["sound"], rate=48000) if "sound" in how else None
        cover = _cover(file) if how.get("cover") else None
        for number, pixels in enumerate(frames):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if "times" in how:
                frame.pts, frame.time_base = how["times"][number], Fraction(1, 1000)
            if cover is not None and number == 0:
                file.mux(cover.encode(VideoFrame.from_ndarray(film(1, 96, 96)[0], format="rgb24")))
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        for number in range(how.get("beeps", 20) if sound is not None else 0):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 48000, 1152 * number
            file.mux(sound.encode(silence))
        if sound is not None:
            file.mux(sound.encode())
    return path


def _cover(file: Any) -> Any:
    cover = file.add_stream("mjpeg", rate=1)
    cover.height, cover.width, cover.pix_fmt = 96, 96, "yuvj420p"
    cover.disposition = Disposition.attached_pic
    return cover


def trimmed(path: Path, source: Path, start: Fraction, seconds: Fraction) -> Path:
    """Copy ``seconds`` of ``source`` from ``start`` without encoding again, as ``-ss -t -c copy`` does: an edit list."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        track = old.streams.video[0]
        copy, offset = new.add_stream_from_template(track), int(start / track.time_base)
        old.seek(offset, stream=track)
        for packet in old.demux(track):
            if packet.dts is None or (packet.pts - offset) * track.time_base >= seconds:
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copy
            new.mux(packet)
    return path


def matrix(a: int, b: int, c: int, d: int, unit: int = 1 << 16) -> list[int]:
    """Return a display matrix that shows x at (a, b) and y at (c, d), y downwards."""
    return [a * unit, b * unit, 0, c * unit, d * unit, 0, 0, 0, 1 << 30]


Shown = Callable[[Frames], Frames]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: what it is.
        suffix: of the file.
        how: arguments of `write`; or ``make``, which writes it.
        frames: frames that a player shows.
        size: (height, width) that a player shows.
        worst: most mean levels that pictures may differ by.
        shown: turns the film's pictures into those that a player shows; None: colours are not compared.
        facts: what `probe` says besides.
        refused: words of the refusal when it is read; empty: it is read.
    """

    name: str
    suffix: str = "mp4"
    how: dict[str, Any] = field(default_factory=dict)
    make: Callable[[Path], Path] | None = None
    frames: int = 24
    size: tuple[int, int] = (HEIGHT, WIDTH)
    shown: Shown | None = lambda frames: frames
    worst: float = 12.0
    facts: dict[str, Any] = field(default_factory=dict)
    refused: str = ""

    def write(self, folder: Path) -> Path:
        """Write the file and return its path."""
        path = folder / f"x.{self.suffix}"
        return (
            write(path, film(24, *self.how.get("stored", (HEIGHT, WIDTH))), **_without(self.how))
            if self.make is None
            else self.make(path)
        )


def _without(how: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in how.items() if name != "stored"}


def _of(codec: str, pixel_format: str = "yuv420p", **options: str) -> dict[str, Any]:
    return {"codec": codec, "pixel_format": pixel_format, "options": options}


def _encoders() -> Iterable[Kind]:
    large = {"stored": (240, 320)}
    for name, how in (
        ("H.264, encoder's defaults", {}),
        ("H.264, 4 slices a picture", {"options": {"x264-params": "slices=4"}}),
        ("H.264, 8 slices, no deblocking", {"options": {"x264-params": "slices=8:no-deblock=1"}}),
        ("H.264, slices of at most 500 bytes", {"options": {"slice-max-size": "500"}}),
        ("H.264, tune zerolatency", {"options": {"tune": "zerolatency"}}),
        ("H.264, sliced threads", {"options": {"x264-params": "sliced-threads=1:threads=4"}}),
        ("H.264, intra refresh", {"options": {"x264-params": "intra-refresh=1:keyint=8"}}),
        ("H.264, 16 B-frames, pyramid", {"options": {"x264-params": "bframes=16:b-pyramid=normal:b-adapt=0"}}),
        ("H.264, open groups", {"options": {"x264-params": "open-gop=1:keyint=8:bframes=3:scenecut=0"}}),
        ("H.264, baseline", {"options": {"profile": "baseline"}}),
        ("H.264, CAVLC, key pictures only", {"options": {"x264-params": "cabac=0:keyint=1"}}),
    ):
        yield Kind(name, how={**how, **large}, size=(240, 320))
    slices = _of("libx265", **{"x265-params": "slices=3:log-level=none"})
    yield Kind("H.265, 3 slices a picture", how={**slices, **large}, size=(240, 320))
    for name, suffix, how in (
        ("H.264 4:4:4", "mp4", _of("libx264", "yuv444p")),
        ("H.264 10 bit", "mp4", _of("libx264", "yuv420p10le")),
        ("H.264 lossless", "mp4", _of("libx264", "yuv444p", qp="0")),
        ("H.265, open groups", "mp4", _of("libx265", **{"x265-params": "open-gop=1:keyint=8:log-level=none"})),
        ("H.265 10 bit", "mp4", _of("libx265", "yuv420p10le", **{"x265-params": "log-level=none"})),
        ("AV1 (SVT)", "mp4", _of("libsvtav1")),
        ("AV1 in Matroska", "mkv", _of("libsvtav1")),
        ("VP8", "webm", _of("libvpx")),
        ("VP8, hidden reference pictures", "webm", _of("libvpx", **{"auto-alt-ref": "1", "lag-in-frames": "16"})),
        ("VP9", "webm", _of("libvpx-vp9")),
        ("VP9, hidden reference pictures", "webm", _of("libvpx-vp9", **{"auto-alt-ref": "1", "lag-in-frames": "16"})),
        ("VP9 in mp4", "mp4", _of("libvpx-vp9")),
        ("MPEG-4 part 2 in AVI", "avi", _of("mpeg4")),
        ("MPEG-4 part 2, B-frames", "mp4", _of("mpeg4", bf="2")),
        ("MJPEG in AVI", "avi", _of("mjpeg", "yuvj420p")),
        ("ProRes", "mov", _of("prores_ks", "yuv422p10le")),
        ("DNxHR", "mov", _of("dnxhd", "yuv422p", profile="dnxhr_sq")),
        ("FFV1", "mkv", _of("ffv1")),
        ("Ut Video", "avi", _of("utvideo", "yuv422p")),
        ("raw video", "avi", _of("rawvideo", "yuv420p")),
        ("MPEG-2 in a transport stream", "ts", _of("mpeg2video", bf="2")),
        ("H.264 in a transport stream", "ts", _of("libx264")),
        ("MPEG-1 in a program stream", "mpg", _of("mpeg1video", b="500k")),
        ("Sorenson in FLV", "flv", _of("flv")),
        ("H.264 in FLV", "flv", _of("libx264")),
        ("WMV 2", "wmv", _of("wmv2")),
    ):
        if how["codec"] == "dnxhd":
            yield Kind(name, suffix, how={**how, "stored": (256, 256)}, size=(256, 256))
        else:
            yield Kind(name, suffix, how=how)


def _containers() -> Iterable[Kind]:
    for name, flags in (
        ("mp4, index first", "faststart"),
        ("mp4, fragmented", "frag_keyframe+empty_moov"),
        ("mp4, fragmented, late index", "frag_keyframe+empty_moov+delay_moov"),
        ("mp4, fragmented, DASH", "dash+delay_moov+frag_keyframe"),
        ("mp4, fragmented, CMAF", "cmaf+frag_every_frame"),
        ("mp4, negative offsets", "negative_cts_offsets"),
    ):
        yield Kind(name, how={"container": {"movflags": flags}, "options": {"g": "8", "bf": "2"}})
    yield Kind("mov, B-frames", "mov", how={"options": {"bf": "3"}})
    yield Kind("mp4 with longer sound", how={"sound": "aac", "beeps": 90})
    yield Kind("mp4 with shorter sound", how={"sound": "aac", "beeps": 4})
    for codec, pixel_format in (("mpeg4", "yuv420p"), ("mjpeg", "yuvj420p")):
        yield Kind(
            f"AVI with sound ({codec})", "avi", how={**_of(codec, pixel_format), "sound": "libmp3lame", "beeps": 90}
        )
    yield Kind("WebM with longer sound", "webm", how={**_of("libvpx-vp9"), "sound": "libopus", "beeps": 90})
    yield Kind("Matroska written live", "mkv", how={"container": {"live": "1"}})
    rng = np.random.default_rng(0)
    uneven = np.concatenate([[0], np.cumsum(rng.choice([20, 40, 100, 250], 23))]).tolist()
    for suffix, codec in (("webm", "libvpx-vp9"), ("mkv", "libx264"), ("mp4", "libx264"), ("mkv", "ffv1")):
        how = {"codec": codec, "times": uneven}
        yield Kind(f"variable rate ({codec} in {suffix})", suffix, how=how, facts={"variable_rate": True})
    paused = [*range(0, 480, 40), *range(5000, 5480, 40)]
    yield Kind("variable rate, a pause of 4 s", "mp4", how={"times": paused}, facts={"variable_rate": True})
    for rate in (6, 8, 10, 12, 15, 20, 24, 25, 30, 50):
        how = {**_of("gif", "rgb8"), "rate": rate}  # its palette has 8, 8 and 4 levels
        yield Kind(f"GIF at {rate} frames/s", "gif", how=how, worst=25, facts={"colour": "rgb"})
    for options in ({"bf": "0"}, {"bf": "3"}, {"x264-params": "open-gop=1:bframes=3:scenecut=0"}):
        for start, seconds in ((13, 18), (8, 24), (21, 11), (30, 41)):
            # In open groups the copy may begin at a key picture that others are shown before: players leave those out.
            first = 24 if "open-gop" in str(options) and start == 21 else start

            def make(path: Path, options: dict[str, str] = options, start: int = start, seconds: int = seconds) -> Path:
                long = write(path.with_name("long.mp4"), film(72), options={"g": "24", **options})
                return trimmed(path, long, Fraction(start, RATE), Fraction(seconds, RATE))

            said = ",".join(f"{k}={v}" for k, v in options.items())
            yield Kind(
                f"mp4 trimmed without encoding ({said}), {start}+{seconds}",
                make=make,
                frames=start + seconds - first,
                shown=lambda _, first=first, end=start + seconds: film(72)[first:end],
            )


def _shown() -> Iterable[Kind]:
    turns = {"": lambda f: f, "mirrored ": lambda f: f[:, :, ::-1]}
    axes = {0: (1, 0, 0, 1), 1: (0, -1, 1, 0), 2: (-1, 0, 0, -1), 3: (0, 1, -1, 0)}
    for name, mirror in turns.items():
        for turn, (a, b, c, d) in axes.items():
            sign = -1 if name else 1
            yield Kind(
                f"display matrix: {name}turned {90 * turn} degrees",
                "mp4" if turn % 2 else "mov",
                how={"matrix": matrix(sign * a, sign * b, c, d)},
                size=(WIDTH, HEIGHT) if turn % 2 else (HEIGHT, WIDTH),
                shown=lambda f, mirror=mirror, turn=turn: np.rot90(mirror(f), turn, (1, 2)),
                facts={"rotation": 90 * turn, "mirrored": bool(name)},
            )
    half = round(65536 * np.sqrt(0.5))
    for name, values in (
        ("turned 45 degrees", [half, half, 0, -half, half, 0, 0, 0, 1 << 30]),
        ("twice as wide", matrix(2, 0, 0, 1)),
        ("sheared", matrix(1, 0, 1, 1)),
    ):
        yield Kind(f"display matrix: {name}", how={"matrix": values}, refused="no right-angle turn or mirror")
    for aspect, stored, size in (
        (Fraction(4, 3), (64, 72), (64, 96)),
        (Fraction(16, 15), (48, 60), (48, 64)),
        (Fraction(8, 9), (48, 72), (48, 64)),
        (Fraction(1, 2), (48, 128), (48, 64)),
    ):
        for suffix in ("mp4", "mkv", "avi") if aspect == Fraction(4, 3) else ("mp4",):
            yield Kind(
                f"pixels of {aspect.numerator}:{aspect.denominator} in {suffix}",
                suffix,
                how={"aspect": aspect, "stored": stored, "codec": "mpeg4" if suffix == "avi" else "libx264"},
                size=size,
                shown=None,
                facts={"width": size[1], "height": size[0]},
            )
    yield Kind(
        "pixels of 4:3, turned 90 degrees",
        how={"aspect": Fraction(4, 3), "stored": (64, 72), "matrix": matrix(0, -1, 1, 0)},
        size=(96, 64),
        shown=None,
    )
    for name, curve in (("PQ", 16), ("HLG", 18)):
        tags = {"color_trc": curve, "color_primaries": 9, "colorspace": 9, "color_range": 1}
        how = {**_of("libx265", "yuv420p10le", **{"x265-params": "log-level=none"}), "context": tags}
        yield Kind(f"HDR, {name}", how=how, facts={"hdr": True}, refused=f"is HDR video \\({name}\\)")
    for name, number in (("bt709", 1), ("bt601", 5), ("bt601", 6), ("untagged", 2)):
        tags = {"colorspace": number, "color_range": 1}
        yield Kind(f"colours tagged {name} ({number})", how={"context": tags}, shown=None, facts={"colour": name})
    for name, how in (
        ("H.264", {"options": {"x264-params": "interlaced=1:tff=1"}, "stored": (64, 64)}),
        ("MPEG-2", {**_of("mpeg2video", flags="+ilme+ildct"), "stored": (64, 64)}),
    ):
        suffix = "mp4" if name == "H.264" else "ts"
        yield Kind(f"interlaced {name}", suffix, how=how, size=(64, 64), facts={"interlaced": True})
    for suffix in ("mp4", "mkv"):
        yield Kind(f"attached picture beside the film ({suffix})", suffix, how={"cover": True})


def _damaged() -> Iterable[Kind]:
    def cut(share: float, **how: Any) -> Callable[[Path], Path]:
        def make(path: Path) -> Path:
            write(path, film(), **how)
            data = path.read_bytes()
            path.write_bytes(data[: int(share * len(data))])
            return path

        return make

    for suffix, codec, pixel_format in (
        ("mp4", "libx264", "yuv420p"),
        ("webm", "libvpx-vp9", "yuv420p"),
        ("mkv", "ffv1", "yuv420p"),
        ("avi", "mjpeg", "yuvj420p"),
        ("gif", "gif", "rgb8"),
        ("ts", "mpeg2video", "yuv420p"),
        ("flv", "flv", "yuv420p"),
    ):
        for share in (0.6, 0.97):
            kind = Kind(
                f"cut at {share:.0%} ({suffix})",
                suffix,
                make=cut(share, codec=codec, pixel_format=pixel_format),
                refused="cut short|damaged|no video track",
            )
            if (suffix, share) != ("flv", 0.97):  # holds neither a size nor checksums: up to a tenth is not seen
                yield kind


KINDS = (*_encoders(), *_containers(), *_shown(), *_damaged())


def problem(kind: Kind, folder: Path, guard: Guard) -> tuple[str, str]:
    """Return what became of ``kind`` (read, refused) and what is wrong with that; empty when it is right."""
    path = kind.write(folder)
    try:
        facts = guard.probe(path, "x")
        clip = guard.read(path, None, "x")
    except ClipError as error:
        right = kind.refused and re.search(kind.refused, str(error))
        return f"refused: {error}", "" if right else str(error)
    if kind.refused:
        return "read", f"read, though it is to be refused ({kind.refused})"
    wrong = [f"{k} is {getattr(facts, k)!r}, not {v!r}" for k, v in kind.facts.items() if getattr(facts, k) != v]
    if facts.frames != kind.frames or clip.length != kind.frames:
        wrong.append(f"{facts.frames} frames probed and {clip.length} read, not {kind.frames}")
    if clip.size != kind.size or (facts.height, facts.width) != kind.size:
        wrong.append(f"size {clip.size}, facts say {(facts.height, facts.width)}, not {kind.size}")
    elif kind.shown is not None:
        right = kind.shown(film(24, *kind.how.get("stored", (HEIGHT, WIDTH))))
        error = np.abs(clip.frames[: len(right)].astype(int) - right[: clip.length]).mean()
        if error > kind.worst:
            wrong.append(f"pictures differ by {error:.1f} levels")
    if not wrong:  # the way that training reads
        guard.read(path, ClipForm(24, 24, 8.0, max(1, int(facts.seconds * 8))), "x")
    return "read", "; ".join(wrong)


GROUPS = {
    "encoders": _encoders,
    "containers, rates, trims": _containers,
    "how it is shown": _shown,
    "cut short": _damaged,
}


def table(rows: list[tuple[str, str, str, str]]) -> str:
    """Return (group, kind, outcome, what is wrong) as the table of benchmarks/results/ingest_kinds.md."""
    counts = [
        f"| {group} | {len(mine)} | {sum(o == 'read' for _, _, o, _ in mine)} | "
        f"{sum(o != 'read' for _, _, o, _ in mine)} | {sum(bool(w) for *_, w in mine)} |"
        for group in GROUPS
        if (mine := [row for row in rows if row[0] == group])
    ]
    lines = [
        f"| {kind} | {'accepted' if outcome == 'read' else outcome}{f' WRONG: {wrong}' if wrong else ''} |"
        for _, kind, outcome, wrong in rows
    ]
    return "\n".join(
        [
            "# Kinds of video files",
            "",
            "`python benchmarks/video_kinds.py --markdown benchmarks/results/ingest_kinds.md` makes each file, probes and "
            "reads it in the guarded process, and compares frames, size, facts and pictures with what a player shows.",
            "",
            "| group | kinds | accepted | refused | not as it should be |",
            "|---|---|---|---|---|",
            *counts,
            "",
            "| kind | outcome |",
            "|---|---|",
            *lines,
            "",
        ]
    )


def main() -> None:
    """Try every kind and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    rows = []
    with Guard() as guard:
        for group, kinds in GROUPS.items():
            for kind in kinds():
                with tempfile.TemporaryDirectory() as folder:
                    outcome, wrong = problem(kind, Path(folder), guard)
                rows.append((group, kind.name, outcome, wrong))
                print(f"{'WRONG' if wrong else 'right'}  {kind.name}: {wrong or outcome}", flush=True)
    read, bad = sum(outcome == "read" for _, _, outcome, _ in rows), sum(bool(wrong) for *_, wrong in rows)
    print(f"{len(rows)} kinds, {read} read, {bad} wrong")
    if options.markdown:
        options.markdown.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
