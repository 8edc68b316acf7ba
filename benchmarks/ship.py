"""Pack the start students that `python -m understudy.pretraining recipes/start.yaml` made into the package.

    python benchmarks/ship.py runs/start [--out src/understudy/assets]

Their one codec is kept once. Packing keeps every bit: xz, with a context for each of the two bytes of a float16.
"""

import argparse
import json
import lzma
from pathlib import Path

from understudy.files import write_bytes_atomic, write_json_atomic
from understudy.students.bundle import SHARED_CODEC

ASSETS = Path(__file__).parents[1] / "src" / "understudy" / "assets"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 1, "pb": 1}]


def main() -> None:
    """Write students and codec; stop where the codecs differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("made", type=Path)
    parser.add_argument("--out", type=Path, default=ASSETS)
    options = parser.parse_args()
    bundles = sorted(path.parent for path in options.made.glob("*/config.json"))
    codecs = {(bundle / "codec.safetensors").read_bytes() for bundle in bundles}
    if len(codecs) != 1:
        raise SystemExit(
            f"{options.made} holds {len(codecs)} different codecs in {len(bundles)} students: one is needed"
        )
    write_bytes_atomic(options.out / "codec.safetensors.xz", lzma.compress(codecs.pop(), filters=FILTERS))
    for bundle in bundles:
        home = options.out / bundle.name
        home.mkdir(parents=True, exist_ok=True)
        weights = (bundle / "student.safetensors").read_bytes()
        write_bytes_atomic(home / "student.safetensors.xz", lzma.compress(weights, filters=FILTERS))
        config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
        write_json_atomic(home / "config.json", {**config, "codec_weights": SHARED_CODEC})


if __name__ == "__main__":
    main()
