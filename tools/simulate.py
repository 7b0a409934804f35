"""Runs fresh worlds of the simulation for some seconds, of one engine and of several in turn; prints the seed of
one that fails. With a seed, too: runs the worlds of that one again.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from simulation.fleet_world import run_fleet
from simulation.many import LIMITS
from simulation.world import run_seed


def main() -> int:
    logging.disable(logging.CRITICAL)
    deadline = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 60)
    given = int(sys.argv[2]) if len(sys.argv) > 2 else None
    worlds = lives = 0
    while time.monotonic() < deadline:
        seed = random.randrange(1 << 40) if given is None else given
        limits = LIMITS[seed % len(LIMITS)]
        try:
            lives += (
                run_seed(seed, limits=limits, curious=True).lives
                + run_fleet(seed, limits=limits, more=True, curious=True).lives
            )
        except Exception as error:
            print(f"seed {seed} failed: {error}\nagain: {sys.executable} {sys.argv[0]} 1 {seed}")
            return 1
        worlds += 2
        if given is not None:
            break
    print(f"{worlds} worlds, {lives} lives of engines, no promise broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
