"""What `make bench-peers` makes of figures, and its talk with an adapter; without a peer, and nothing is measured."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ADAPTER = """
import asyncio
from peer import Peer, serve

class Fake(Peer):
    packages = ()
    durability = "in a file"

    async def up(self, *, again):
        print("not an answer")
        self.names = self.folder / "names"
        assert again == self.names.exists()
        self.names.touch()

    async def start(self, kind, name, **arguments):
        with self.names.open("a") as names:
            names.write(f"{name}\\n")
        if kind == "payload":
            raise ValueError("too large")
        return {"step": 1, "chain": arguments.get("length"), "fan": 190}[kind]

    async def output(self, handle):
        return handle

    async def send(self, name, value):
        raise NotImplementedError

    async def attach(self, name):
        assert name in self.names.read_text().split()
        return 3

serve(Fake)
"""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return importlib.import_module


@pytest.fixture
def peers_report(load: Any) -> ModuleType:
    module: ModuleType = load("peers_report")
    return module


def cell(**figures: float) -> dict[str, Any]:
    values = {name: {"median": value, "min": value / 2, "max": value * 2} for name, value in figures.items()}
    return {"figures": values, "others": 0.1, "stolen": 0.0}


@pytest.fixture
def results() -> dict[str, Any]:
    about = {"versions": {"package": "1.2"}, "durability": "flushed"}
    return {
        "peers": dict.fromkeys(["perdure", "perdure-postgresql", "quick", "slow"], about),
        "left_out": {"absent": "not given"},
        "cells": {
            "W1 one step": {
                "perdure": cell(median_s=0.004),
                "perdure-postgresql": cell(median_s=0.001),
                "quick": cell(median_s=0.01),
                "slow": cell(median_s=0.1),
            },
            "W2 many runs": {"perdure": cell(runs_per_s=1_000), "quick": cell(runs_per_s=250)},
            "W2 many runs, batched": {"perdure": cell(runs_per_s=5_000), "quick": {"absent": "one by one"}},
            "W5 64 MiB, 3 steps": {
                "perdure": cell(s=0.5),
                "quick": {"refused": "ValueError: too large"},
                "slow": {"late": "over 60 s"},
            },
            "W8 recovery, chain": {"perdure": cell(s=4.0, steps_again=1), "quick": cell(s=2.0, steps_again=3)},
        },
    }


def test_ratios_say_how_many_times_better_perdure_is(peers_report: ModuleType, results: dict[str, Any]) -> None:
    assert peers_report.ratios(results) == {
        "W1 one step: median_s": {"quick": 2.5, "slow": 25.0, "best": 2.5},
        "W2 many runs: runs_per_s": {"quick": 4.0, "best": 4.0},
        "W2 many runs, batched: runs_per_s": {"quick": 20.0, "best": 20.0},  # beside its runs one by one
        "W8 recovery, chain: s": {"quick": 0.5, "best": 0.5},
    }


def test_what_has_no_figure_has_no_ratio(peers_report: ModuleType, results: dict[str, Any]) -> None:
    assert peers_report.best(results, "W5 64 MiB, 3 steps", "s") is None
    results["cells"]["W1 one step"]["quick"] = cell(median_s=0)
    assert peers_report.best(results, "W1 one step", "median_s") == ("slow", 25.0)
    del results["cells"]["W2 many runs"]
    assert peers_report.ratio(results, "W2 many runs, batched", "runs_per_s", "quick") is None


def test_a_table_for_a_terminal_and_one_for_a_page(peers_report: ModuleType, results: dict[str, Any]) -> None:
    text = peers_report.table(results)
    assert "best: quick" in text
    assert "left out: absent: not given" in text
    assert "quick: package 1.2. flushed" in text
    page = peers_report.markdown(results).splitlines()
    assert page[0] == "|  | perdure | perdure-postgresql | quick | slow | Perdure beside the best |"
    first, *_, last = page[2:]
    assert first == (
        "| W1 one step, median_s | 4.00 ms (2.00 ms to 8.00 ms) | 1.00 ms (0.50 ms to 2.00 ms) "
        "| 10.00 ms (5.00 ms to 20.00 ms) | 100.00 ms (50.00 ms to 200.00 ms) | 2.5 x quick |"
    )
    assert last.startswith("| W8 recovery, chain, steps_again | 1 (")
    assert any(line.endswith("| refused | over 60 s |  |") for line in page)


async def test_an_adapter_answers_refuses_fails_and_is_killed(load: Any, tmp_path: Path) -> None:
    processes = load("peer_process")
    (tmp_path / "adapter.py").write_text(ADAPTER)
    column = processes.Column("fake", str(tmp_path / "adapter.py"), sys.executable)
    process = processes.PeerProcess(column, tmp_path / "data")
    try:
        assert await process.start() == {
            "versions": {},
            "durability": "in a file",
            "has_batches": False,
            "has_actors": False,
        }
        assert (await process.ask("one_step", count=3, within_s=60))["figures"].keys() == {"median_s", "p99_s"}
        assert await process.ask("payload", mib=1) == {"refused": "ValueError: too large"}
        assert "KeyError" in (await process.ask("unknown"))["failed"]
        assert await process.ask("begin", names=["a", "b"], length=3, lines="") == {"figures": {}}
        await process.kill()
        with pytest.raises(processes.PeerError):
            await process.ask("chain", length=2)
        await process.start(again=True)
        assert await process.ask("finish", names=["a", "b"], length=3) == {"figures": {}}
        assert "AssertionError" in (await process.ask("finish", names=["c"], length=3))["failed"]
    finally:
        await process.close()


async def test_an_adapter_without_its_packages_says_what_is_missing(load: Any, tmp_path: Path) -> None:
    processes = load("peer_process")
    (tmp_path / "adapter.py").write_text("import a_package_that_is_nowhere")
    process = processes.PeerProcess(processes.Column("fake", str(tmp_path / "adapter.py"), sys.executable), tmp_path)
    with pytest.raises(processes.PeerError, match="No module named 'a_package_that_is_nowhere'"):
        await process.start()
    await process.close()


def test_peers_that_are_not_given_are_left_out(load: Any) -> None:
    left_out: dict[str, str] = {}
    compare = load("compare_peers")
    columns = compare.columns_of({"perdure": sys.executable, "dbos": "bin/python"}, left_out)
    assert [column.name for column in columns] == ["perdure", "perdure-postgresql", "dbos", "dbos-postgresql"]
    assert left_out == dict.fromkeys(["temporal", "restate", "ray-workflows"], "not given")
    assert compare.chosen(compare.WORKLOADS, {"W3", "W6 event"}) == ["W3 chain of 200", "W6 event"]
