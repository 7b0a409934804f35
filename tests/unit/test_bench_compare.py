"""What `make bench-compare` makes of figures; nothing is measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    found = importlib.util.spec_from_file_location("compare", BENCHMARKS / "compare.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def results(rpc_per_s: float, runs_per_s: float, payload_s: float) -> dict[str, Any]:
    def figure(**values: float) -> dict[str, Any]:
        # the median of a noisy run does not count
        return {"figures": {name: {"min": value, "max": value, "median": 7.0} for name, value in values.items()}}

    return {
        "floors": {"unary RPC": figure(per_s=rpc_per_s), "64 MiB write": figure(s=0.1)},
        "workloads": {"W2 many runs": figure(runs_per_s=runs_per_s), "W5 64 MiB, 3 steps": figure(s=payload_s)},
    }


def test_ratios_are_how_many_times_slower_than_the_floor(compare: ModuleType) -> None:
    expected = {"W2 many runs: runs_per_s": 2.0, "W5 64 MiB, 3 steps: s": 1.5}
    assert compare.ratios(results(3_000, 1_500, 0.3)) == expected


def test_a_fifth_is_allowed_and_a_slower_machine_is_no_slowness(compare: ModuleType) -> None:
    record = compare.ratios(results(3_000, 1_500, 0.3))
    assert compare.slower(compare.ratios(results(300, 150, 0.35)), record) == {}
    worse = compare.slower(compare.ratios(results(3_000, 1_200, 0.37)), record)
    assert worse == {"W2 many runs: runs_per_s": (2.0, 2.5), "W5 64 MiB, 3 steps: s": (1.5, 1.85)}


def test_what_is_new_is_compared_with_nothing(compare: ModuleType) -> None:
    assert compare.slower({"new": 9.0}, {"old": 1.0}) == {}


def test_the_record_is_of_figures_that_are_measured(compare: ModuleType) -> None:
    record = json.loads((BENCHMARKS / "record.json").read_text())["ratios"]
    measured = {f"{name}: {figure}" for name, figure in compare.report.FLOOR_OF}
    assert record.keys() <= measured
    assert record
