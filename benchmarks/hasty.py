"""How much of their sharpness the built-in students keep when they draw in one step: what `understudy doctor` goes by.

    python benchmarks/hasty.py

Eight times 16 of the quickstart's prompts, with other noise each time.
"""

import numpy as np
import torch

from understudy.recipes.files import load_recipe
from understudy.run.prompts import training_prompts
from understudy.students.bundle import load_bundle
from understudy.students.generate import own_and_hasty
from understudy.video.clips import laplacian_variance

PROMPTS, TIMES = 16, 8


def main() -> None:
    """Print the shares of each student."""
    torch.set_num_threads(1)
    known = sorted(set(training_prompts(load_recipe("quickstart"))))
    for name in ("builtin:frame", "builtin:block", "builtin:base"):
        bundle, shares = load_bundle(name), []
        for seed in range(TIMES):
            prompts = list(np.random.default_rng(seed).choice(known, PROMPTS, replace=False))
            noise = list(range(PROMPTS * seed, PROMPTS * (seed + 1)))
            own, hasty = own_and_hasty(bundle, prompts, noise)
            shares.append(laplacian_variance(hasty) / laplacian_variance(own))
        print(f"{name}: mean {np.mean(shares):.2f}, from {min(shares):.2f} to {max(shares):.2f}")


if __name__ == "__main__":
    main()
