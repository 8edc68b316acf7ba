"""Can a discriminator tell clips by the rhythm that another frame rate leaves, and which resampling takes that away?

    python benchmarks/rhythm.py [--seeds 2] [--steps 300] [--json FILE]

Discs cross the picture at constant speed. Teacher clips are drawn at 24, 25, 30, 48 or 60 frames a second and brought to 16;
student clips are drawn at 16. Nothing else differs, so whatever separates the two sides is the resampling. Reported, each a
half where nothing is told apart: the AUC of the best statistic of the shortcut probe, the AUC of the unevenness of the
steps from frame to frame and of the pulsing of fine detail, and the pair accuracy of the small discriminator on pairs that
it never trained on. "every 2." looks at every second frame of both sides.
"""

import argparse
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av.filter
import numpy as np
import numpy.typing as npt
import torch
from av.video.frame import VideoFrame
from torch import Tensor

from understudy.discriminators.clip_cnn.network import ClipCnn, ClipCnnSpec
from understudy.objectives.gauges import pair_accuracy, shortcut_probe
from understudy.objectives.losses import paired_loss
from understudy.video.clips import Clip, resample

Frames = npt.NDArray[np.uint8]
SIZE, LENGTH, RATE = 48, 41, 16.0
NOISE = 0.1  # instance noise; the quickstart has 0.4, which hides more


def film(rng: np.random.Generator, fps: float, frames: int) -> Frames:
    """Three soft discs at constant speed over a soft still ground, seen at ``fps``: uint8 [frames, SIZE, SIZE, 3]."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    waves = rng.uniform(-0.25, 0.25, (3, 2)), rng.uniform(0, 6, 3)
    ground = np.stack([90 + 40 * np.sin(a[0] * x + a[1] * y + p) for a, p in zip(*waves, strict=True)], -1)
    discs = [
        (rng.uniform(8, 40, 2), rng.uniform(-40, 40, 2), rng.uniform(4, 8), rng.uniform(0, 255, 3)) for _ in range(3)
    ]
    seen = []
    for k in range(frames):
        picture = ground
        for start, speed, radius, colour in discs:
            at = start + speed * k / fps
            at = SIZE - np.abs(SIZE - at % (2 * SIZE))  # comes back at the edges
            inside = np.clip(radius + 0.5 - np.hypot(x - at[0], y - at[1]), 0, 1)[..., None]
            picture = inside * colour + (1 - inside) * picture
        seen.append(picture)
    return np.round(seen).clip(0, 255).astype(np.uint8)


def nearest(frames: Frames, fps: float) -> Frames:
    """Return what the nearest frames give."""
    return resample(Clip(frames, fps), RATE, LENGTH).frames


def blended(frames: Frames, fps: float) -> Frames:
    """Mix the two frames around each time by their distance."""
    at = np.arange(LENGTH) * fps / RATE
    low = np.floor(at + 1e-9).astype(int)
    part = (at - low)[:, None, None, None]
    high = np.minimum(low + 1, len(frames) - 1)
    return np.round(frames[low] * (1 - part) + frames[high] * part).astype(np.uint8)


def interpolated(frames: Frames, fps: float, more: str = "") -> Frames:
    """Follow the motion between frames: FFmpeg's minterpolate."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=SIZE, height=SIZE, format="yuv444p", time_base=Fraction(1, 600))
    last = source
    for name, options in (("minterpolate", f"fps={RATE:g}:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1{more}"),):
        node = graph.add(name, options)
        last.link_to(node)
        last = node
    sink = graph.add("buffersink")
    last.link_to(sink)
    graph.configure()
    made: list[Frames] = []

    def drain() -> None:
        while True:
            try:
                made.append(graph.pull().to_ndarray(format="rgb24"))
            except (av.BlockingIOError, av.EOFError):
                return

    held = np.concatenate([frames[:1]] * 1 + [frames, frames[-1:], frames[-1:], frames[-1:]])
    for k, pixels in enumerate(held[1:]):
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(format="yuv444p")
        frame.pts, frame.time_base = round(k * 600 / fps), Fraction(1, 600)
        graph.push(frame)
        drain()
    graph.push(None)
    drain()
    return np.stack((made + made[-1:] * LENGTH)[:LENGTH])


def native(frames: Frames, fps: float) -> Frames:
    """Leave clips that were drawn at the student's rate as they are: what is left of a difference is chance."""
    return frames[:LENGTH]


WAYS: dict[str, Callable[[Frames, float], Frames]] = {
    "nearest": nearest,
    "blended": blended,
    "interpolated": interpolated,
}


def clips(seed: int, count: int, fps: float, way: Callable[[Frames, float], Frames]) -> Tensor:
    """Return ``count`` clips [B, T, 3, H, W] in [0, 1]."""
    rng = np.random.default_rng(seed)
    length = int(np.ceil(LENGTH * fps / RATE)) + 1
    drawn = np.stack([way(film(rng, fps, length), fps) for _ in range(count)])
    return torch.from_numpy(drawn).permute(0, 1, 4, 2, 3).float() / 255


def common(seen: Tensor, step: int) -> Tensor:
    """Return every ``step``-th frame: both sides at a rate that both have evenly."""
    return seen[:, ::step]


def unevenness(seen: Tensor) -> Tensor:
    """Return how uneven the steps of clips [B, T, 3, H, W] are [B]: the mean change of the change from frame to frame."""
    steps = seen.diff(dim=1).abs().mean((2, 3, 4))
    return steps.diff(dim=1).abs().mean(1) / steps.mean(1)


def pulsing(seen: Tensor) -> Tensor:
    """Return how much the fine detail of clips [B, T, 3, H, W] pulses [B], which mixing some of the frames makes it do."""
    grey = seen.mean(2)
    detail = (grey.diff(dim=-1).square().mean((2, 3)) + grey.diff(dim=-2).square().mean((2, 3))).sqrt()
    return detail.diff(dim=1, n=2).abs().mean(1) / detail.mean(1)


def separation(real: Tensor, fake: Tensor) -> float:
    """Return the AUC of two sets of values [B], in [1/2, 1]."""
    wins = (real[:, None] > fake[None]).float() + 0.5 * (real[:, None] == fake[None]).float()
    return max(float(wins.mean()), 1 - float(wins.mean()))


def told_apart(real: Tensor, fake: Tensor, steps: int, seed: int) -> dict[str, float]:
    """Train the small discriminator on the first three quarters of the pairs; return its pair accuracy on the rest."""
    torch.manual_seed(seed)
    network = ClipCnn(ClipCnnSpec(size=24, width=24, vocabulary=("discs",)))
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, betas=(0.5, 0.95), weight_decay=1e-4)
    real, fake = network.prepare(real), network.prepare(fake)
    cut = 3 * len(real) // 4
    text = network.encode_text(["discs"])

    def noisy(seen: Tensor) -> Tensor:
        return seen + NOISE * torch.randn_like(seen)

    accuracy = {}
    for step in range(1, steps + 1):
        rows = torch.randint(cut, (2, 16))
        both = noisy(torch.cat([real[rows[0]], fake[rows[1]]]))
        text = network.encode_text(["discs"] * 32)
        scores = network.logits(both, text)
        loss = paired_loss(*scores.chunk(2)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step == steps:
            with torch.no_grad():
                unseen = network.encode_text(["discs"] * (len(real) - cut))
                scored = [
                    pair_accuracy(network.logits(noisy(real[cut:]), unseen), network.logits(noisy(fake[cut:]), unseen))
                    for _ in range(8)
                ]
            accuracy[f"accuracy_{step}"] = float(np.mean(scored))
    return accuracy


def main() -> None:
    """Run all ways at all rates and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--rates", type=float, nargs="+", default=[24, 25, 30, 48])
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    cases = [(RATE, "native", native), *((fps, way, WAYS[way]) for fps in options.rates for way in options.ways)]
    for fps, name, way in cases:
        found = []
        for seed in range(options.seeds):
            real = clips(100 + seed, options.clips, fps, way)
            fake = clips(200 + seed, options.clips, RATE, native)
            views = {"": 1} | (
                {f", every {n}.": n for n in (2, 3, 4)} if name == "nearest" and RATE < fps < 2 * RATE else {}
            )
            for view, step in views.items():
                sides = common(real, step), common(fake, step)
                probe = shortcut_probe(*sides)
                best = max(probe, key=lambda key: probe[key])
                measured = {f"{of.__name__}_auc": separation(*map(of, sides)) for of in (unevenness, pulsing)}
                if options.steps:
                    measured |= told_apart(*sides, options.steps, seed)
                found.append({"view": view, "statistic": best, "auc": probe[best], **measured})
        for view in dict.fromkeys(one["view"] for one in found):
            mine = [one for one in found if one["view"] == view]
            means = {k: float(np.mean([one[k] for one in mine])) for k in mine[0] if k not in ("view", "statistic")}
            row = {"fps": fps, "way": name + view, "statistics": sorted({one["statistic"] for one in mine}), **means}
            rows.append(row)
            said = ", ".join(f"{key} {value:.2f}" for key, value in means.items())
            print(f"{fps:g} -> {RATE:g}  {row['way']}: {said} ({', '.join(row['statistics'])})", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"seeds": options.seeds, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
