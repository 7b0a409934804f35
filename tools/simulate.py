"""Runs fresh worlds of the simulation for some seconds; prints the seed of one that fails."""

from __future__ import annotations

import logging
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from simulation.world import run_seed


def main() -> int:
    logging.disable(logging.CRITICAL)
    deadline = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 60)
    worlds = lives = 0
    while time.monotonic() < deadline:
        seed = random.randrange(1 << 40)
        try:
            lives += run_seed(seed).lives
        except AssertionError as error:
            print(f"seed {seed} failed: {error}")
            return 1
        worlds += 1
    print(f"{worlds} worlds, {lives} lives of engines, no promise broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
