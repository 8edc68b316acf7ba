"""The README's moving picture: a student beside its teacher on the same prompts, from clips drawn for it.

    python benchmarks/moving_picture.py docs/start_and_teacher.webp
    python benchmarks/moving_picture.py moving.webp --student runs/quickstart

The prompts and the seed are fixed, not chosen by what they show. Each student gets a row between the start and the teacher.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import understudy as us
from understudy.teachers.build import build
from understudy.video.clips import decode_mp4

PROMPTS = (
    "a small red ball is thrown to the left",
    "a large blue ball is dropped",
    "a small green ball bounces to the right",
    "a large yellow ball is thrown to the right",
)
SIDE, MARGIN, HEAD, GAP = 128, 74, 34, 6
SEED = 1


def teacher_frames(prompt: str, frames: int, fps: float) -> list[np.ndarray]:
    """Return ``frames`` frames uint8 [H, W, 3] of the embedded world, the quickstart's teacher, at ``fps``."""
    with tempfile.TemporaryDirectory() as sealed:
        teacher = build(us.RunConfig().teacher, Path(sealed))
        clip = decode_mp4(teacher.generate(prompt, SEED, us.ClipParams()))
    return [clip.frames[min(len(clip.frames) - 1, round(i * clip.fps / fps))] for i in range(frames)]


def main() -> None:
    """Draw every clip and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", default="builtin:frame")
    parser.add_argument("--student", action="append", default=[], help="a trained one as well: a run folder")
    options = parser.parse_args()
    start = us.load(options.start)
    rows = {"start\nstudent": [list(start.draw(prompt, seed=SEED).frames) for prompt in PROMPTS]}
    for name in options.student:
        student = us.load(name)
        rows[f"{Path(name).name}\n(trained)"] = [list(student.draw(prompt, seed=SEED).frames) for prompt in PROMPTS]
    count = len(rows["start\nstudent"][0])
    rows["teacher"] = [teacher_frames(prompt, count, start.fps) for prompt in PROMPTS]
    pictures = []
    for frame in range(count):
        canvas = Image.new("RGB", (MARGIN + len(PROMPTS) * (SIDE + GAP), HEAD + len(rows) * (SIDE + GAP)), "white")
        draw = ImageDraw.Draw(canvas)
        for column, prompt in enumerate(PROMPTS):
            x, words = MARGIN + column * (SIDE + GAP), prompt.split()
            half = len(words) // 2
            draw.multiline_text((x + 2, 3), f"{' '.join(words[:half])}\n{' '.join(words[half:])}", fill="black")
            for row, (label, clips) in enumerate(rows.items()):
                y = HEAD + row * (SIDE + GAP)
                draw.multiline_text((4, y + SIDE // 2 - 12), label, fill="black")
                picture = Image.fromarray(clips[column][frame])
                canvas.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, y))
        pictures.append(canvas)
    hold = round(1000 / start.fps)
    pictures[0].save(
        options.out, save_all=True, append_images=pictures[1:], loop=0, quality=80, method=6,
        duration=[hold] * (count - 1) + [6 * hold],
    )  # fmt: skip


if __name__ == "__main__":
    main()
