"""Draw a clip, and stream one whose prompt turns on the way.

    python examples/draw_and_stream.py [--tiny] [--out runs/examples]

Writes ball.mp4 and turned.mp4; a few seconds on a CPU.
"""

import argparse
from pathlib import Path

import numpy as np

import understudy as us


def main() -> None:
    """Draw, stream, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="half a second instead of four")
    parser.add_argument("--out", type=Path, default=Path("runs/examples"))
    options = parser.parse_args()
    seconds = 0.5 if options.tiny else 4.0
    options.out.mkdir(parents=True, exist_ok=True)

    student = us.load("builtin:frame")
    print(student, "knows the words", ", ".join(student.words))
    clip = student.draw("a small red ball is thrown to the left", seconds=seconds, seed=1)
    print(clip.save(options.out / "ball.mp4"))

    # A stream yields blocks of frames while they are drawn. Without ``seconds`` it never ends.
    stream = student.stream("a small red ball is dropped", seconds=seconds, seed=2)
    blocks = []
    for number, frames in enumerate(stream):
        blocks.append(frames)
        if number == 1:
            stream.switch("a small blue ball is thrown to the right")
    turned = us.Clip(np.concatenate(blocks), stream.fps)
    print(turned.save(options.out / "turned.mp4"))


if __name__ == "__main__":
    main()
