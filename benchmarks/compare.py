"""`make bench-compare`: has Perdure become slower, compared with a floor measured in the same run?

python benchmarks/compare.py [--results results.json] [--record]

Compared are the best rounds: what others do on the machine makes rounds slower, and none faster. A figure that is
more than a fifth further from its floor than `record.json` says is measured again, twice at the most, since machines
are noisy and only slowness that stays is ours. If it stays, the exit code is 1. `--record` writes the record instead:
on a quiet machine, after a change that was meant.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import report

RECORD = Path(__file__).with_name("record.json")
WORSE = 1.2
TRIES = 3
WITH_FLOORS = {name for name, _ in report.FLOOR_OF}

Ratios = dict[str, float]


def ratios(results: dict[str, Any]) -> Ratios:
    """How many times slower than their floors, by "workload: figure"."""
    found: Ratios = {}
    for name, result in results["workloads"].items():
        for figure in result["figures"]:
            ratio = report.ratio(results, name, figure, best=True)
            if ratio is not None and not figure.startswith("p99"):  # which are of the machine more than of ours
                found[f"{name}: {figure}"] = round(ratio, 3)
    return found


def slower(now: Ratios, record: Ratios) -> dict[str, tuple[float, float]]:
    """What is worse than recorded by more than a fifth: the recorded ratio and that of now."""
    return {key: (record[key], now[key]) for key in now.keys() & record.keys() if now[key] > record[key] * WORSE}


def measured(only: set[str]) -> dict[str, Any]:
    from run import measure_all

    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            return asyncio.run(measure_all(only, quick=False, folder=Path(folder)))
        finally:
            os.chdir(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, help="of `run.py -o`, instead of measuring")
    parser.add_argument("--record", action="store_true", help="write the record instead of comparing with it")
    given = parser.parse_args()
    results = json.loads(given.results.read_text()) if given.results else measured(WITH_FLOORS)
    print(report.table(results))
    now = ratios(results)
    if given.record:
        RECORD.write_text(json.dumps({"machine": results["machine"], "ratios": now}, indent=1, sort_keys=True) + "\n")
        return 0
    record: Ratios = json.loads(RECORD.read_text())["ratios"]
    found = slower(now, record)
    for _ in range(1, TRIES):
        if not found or given.results:
            break
        again = ratios(measured({key.partition(": ")[0] for key in found}))
        now |= {key: min(now[key], again[key]) for key in found if key in again}
        found = slower(now, record)
    for key, (recorded, ratio) in sorted(found.items()):
        print(f"slower: {key} is {ratio:.2f} x its floor, recorded {recorded:.2f} x")
    print(f"{len(now)} figures compared, {len(found)} slower")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
