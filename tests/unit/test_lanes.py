"""Lanes of tests: at most one of them starts Ray."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lanes import ON_RAY, lane_of

TESTS = Path(__file__).parent.parent
STARTS_RAY = re.compile(r"\b(own_ray|driver_of_ray|ray_address: str|start_cluster|init_ray|ray\.init)\b")
FILES = sorted(
    file for file in TESTS.rglob("test_*.py") if STARTS_RAY.search(file.read_text()) and file != Path(__file__)
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TESTS)))
def test_files_that_start_ray_share_a_lane(file: Path) -> None:
    assert lane_of(TESTS.parent, f"{file.relative_to(TESTS.parent)}::test_name[a::b]") == ON_RAY


def test_other_files_have_lanes_of_their_own() -> None:
    assert lane_of(TESTS.parent, "tests/unit/test_graph.py::test_name[a::b]") == "tests/unit/test_graph.py"
