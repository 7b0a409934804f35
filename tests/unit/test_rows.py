"""Rows as values: copies of them, and conditions that all stores share."""

from __future__ import annotations

import pytest

from perdure.model import RunStatus
from perdure.storage.rows import RunRow
from perdure.storage.writes import AddRun, Limit, SetRun, has_happened, runs_of

ROW = RunRow("r", "default", "w", RunStatus.RUNNING, "spec", 1, 1)


def test_a_copy_has_the_fields_of_a_run_only() -> None:
    assert ROW.but(change=5) == RunRow("r", "default", "w", RunStatus.RUNNING, "spec", 1, 1, change=5)
    with pytest.raises(TypeError, match="RunRow has no field chnage"):
        ROW.but(chnage=5)


@pytest.mark.parametrize(
    ("replaces", "current", "status", "may"),
    [
        ("", "", None, True),
        ("", "old", RunStatus.FAILED, False),
        ("old", "old", RunStatus.FAILED, True),
        ("old", "old", None, True),
        ("old", "old", RunStatus.RUNNING, False),
        ("old", "newer", RunStatus.FAILED, False),
        ("old", "", None, False),
    ],
)
def test_a_run_follows_the_final_one_that_it_names(
    replaces: str, current: str, status: RunStatus | None, may: bool
) -> None:
    assert AddRun(ROW, b"", replaces=replaces).may_follow(current, status) is may


def test_an_entry_has_happened_if_its_run_is_there_or_as_set() -> None:
    limit = Limit("default", RunStatus.RUNNING, 1)
    added, ended = (limit, AddRun(ROW, b"")), (limit, SetRun("r", RunStatus.FAILED, 9))
    assert runs_of((*added, SetRun("q", RunStatus.FAILED, 9))) == {"r", "q"}
    assert not has_happened(added, {}.get)
    assert has_happened(added, {"r": ROW}.get)
    assert not has_happened(ended, {"r": ROW}.get)
    assert has_happened(ended, {"r": ended[1].applied_to(ROW, 2)}.get)
