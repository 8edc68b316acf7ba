"""The picture of docs/results.md: the same held-out prompts drawn by every arm of a finished run.

python benchmarks/picture.py RUN docs/quickstart.png
"""

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw

from understudy.video.clips import read_mp4

ARMS = {
    "start": "start student",
    "sft": "SFT",
    "sft-rerendered": "SFT, informed",
    "afd": "AFD",
    "teacher": "teacher (codec)",
}
SIDE, MARGIN, SHOWN = 96, 130, 8


def main() -> None:
    """Draw every second frame of the first take of the second and third shown prompt: fixed, so not chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    prompts = json.loads((options.run / "clips" / "prompts.json").read_text(encoding="utf-8"))
    arms = [arm for arm in ARMS if (options.run / "clips" / arm).is_dir()]
    chosen = list(prompts)[1:3]
    canvas = Image.new("RGB", (MARGIN + SHOWN * SIDE, len(chosen) * (len(arms) * SIDE + 34)), "white")
    draw, y = ImageDraw.Draw(canvas), 0
    for prompt in chosen:
        draw.text((6, y + 10), prompts[prompt], fill="black")
        y += 30
        for arm in arms:
            draw.text((6, y + SIDE // 2 - 6), ARMS[arm], fill="black")
            frames = read_mp4(options.run / "clips" / arm / f"{prompt}-0.mp4").frames[::2][:SHOWN]
            for column, frame in enumerate(frames):
                small = Image.fromarray(frame).resize((SIDE - 2, SIDE - 2), Image.Resampling.BICUBIC)
                canvas.paste(small, (MARGIN + column * SIDE, y))
            y += SIDE
        y += 4
    canvas.save(options.out, optimize=True)


if __name__ == "__main__":
    main()
