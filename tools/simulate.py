"""Runs fresh worlds of the simulation for some seconds, of each kind in turn. A failing world is
shrunk, and printed with the command that repeats it.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from simulation.many import LIMITS
from simulation.parts import Parts
from simulation.shrink import WORLDS, run_short

MORE: dict[str, dict[str, Any]] = {
    "one": {"curious": True},
    "fleet": {"more": True, "curious": True, "attaching": True},
}
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one", {}),
    ("fleet", {}),
    ("one", {"store": "sqlite"}),
    ("fleet", {"pool": True}),
    ("fleet", {"store": "postgres", "more": False}),
    ("one", {"actors": 2, "never": 0.0}),
    ("fleet", {"actors": 2}),
)
"""Kinds of worlds with what is real in them, in turn."""


def main() -> int:
    logging.getLogger().addHandler(logging.NullHandler())  # only the worlds listen to what is logged
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=60.0)
    parser.add_argument("seed", nargs="?", type=int, help="run the worlds of this one only")
    parser.add_argument("--world", choices=list(WORLDS), help="of this kind only")
    parser.add_argument("--how", type=json.loads, help="its arguments, as JSON")
    parser.add_argument("--only", help="run it with these parts only, separated by commas")
    given = parser.parse_args()
    kinds = [(kind, real) for kind, real in KINDS if given.world in (None, kind)]
    if given.how is not None:
        kinds = [(given.world or "one", {})]
    deadline = time.monotonic() + given.seconds
    worlds = lives = 0
    while time.monotonic() < deadline:
        seed = random.randrange(1 << 40) if given.seed is None else given.seed
        for kind, real in kinds:
            how = given.how or {"limits": LIMITS[seed % len(LIMITS)], **MORE[kind], **real}
            try:
                if given.only is None:
                    seen = run_short(kind, seed, how)
                else:
                    seen = WORLDS[kind](seed, parts=Parts(given.only.split(", ")), **how)
            except AssertionError as error:
                print(error)
                return 1
            worlds, lives = worlds + 1, lives + seen.lives
        if given.seed is not None:
            break
    print(f"{worlds} worlds, {lives} lives of engines, no promise broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
