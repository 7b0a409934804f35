"""Runs three engines, PostgreSQL, S3 and a Ray cluster under load and faults for some seconds, and prints the results.

`python tools/run_chaos.py [--seconds 120] [--seed N]... [--write docs/reliability.md]`. A seed decides the load and
the faults, but not the timing. Several seeds share the time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from chaos.run import Seen, run_chaos, summary, table

BETWEEN = re.compile(r"(?<=<!-- chaos: begin -->\n).*?(?=<!-- chaos: end -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description="faults on real parts")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, action="append", default=[])
    parser.add_argument("--write", type=Path, help="a page whose table is replaced")
    given = parser.parse_args()
    seeds = given.seed or [random.randrange(1 << 40)]
    all_seen: list[Seen] = []
    for seed in seeds:
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        print(f"seed {seed}, logs in {folder}", flush=True)
        seen = asyncio.run(run_chaos(seed, given.seconds / len(seeds), folder))
        all_seen.append(seen)
        print(summary([seen]), flush=True)
        if not seen.verdict.is_good:
            for name, what in seen.verdict.broken.items():
                print(f"BROKEN {name}: {'; '.join(what)}")
            for line in seen.verdict.logs:
                print(f"STUMBLED {line}")
            print(f"seed {seed} failed; logs are in {folder}")
            return 1
        shutil.rmtree(folder, ignore_errors=True)
    report = f"{summary(all_seen)}.\n\n{table(all_seen)}\n"
    print(report)
    if given.write is not None:
        page = given.write.read_text()
        given.write.write_text(BETWEEN.sub(lambda _: f"\n{report}\n", page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
