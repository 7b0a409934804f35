"""The model of what clients may be told finds what they may not."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.model import RunStatus
from simulation.history import History

RUNNING, SUCCESSFUL, FAILED, CANCELED = RunStatus.RUNNING, RunStatus.SUCCESSFUL, RunStatus.FAILED, RunStatus.CANCELED


def history(*calls: tuple[str, float, float | None, dict[str, Any]]) -> History:
    """Calls by kind, when they were made, when answered (None: never), and the answer."""
    made = History()
    for kind, asked_s, answered_s, answer in calls:
        call = made.ask(kind, "w", "engine", asked_s, answer.pop("subject", ""))
        if answered_s is not None:
            call.answered_s = answered_s
            for name, value in {"run_id": "" if answer.get("is_missing") else "r", **answer}.items():
                setattr(call, name, value)
    return made


def submit(asked_s: float = 0, answered_s: float | None = 1, **answer: Any) -> tuple[str, float, float | None, Any]:
    return ("submit", asked_s, answered_s, {"is_done": True, "told": RUNNING, **answer})


def read(asked_s: float, told: RunStatus, **answer: Any) -> tuple[str, float, float | None, Any]:
    return ("status", asked_s, asked_s + 0.5, {"told": told, **answer})


def event(asked_s: float, event_id: str, sequence: int) -> tuple[str, float, float | None, Any]:
    return ("event", asked_s, asked_s + 0.5, {"subject": event_id, "sequence": sequence, "is_done": True})


RIGHT = {
    "an ordinary life": history(submit(), read(2, RUNNING), read(3, SUCCESSFUL), read(4, SUCCESSFUL)),
    "not there yet": history(("status", 0.2, 0.8, {"is_missing": True}), submit()),
    "a read that began before the end": history(submit(), read(2, SUCCESSFUL), ("status", 1.9, 9, {"told": RUNNING})),
    "resumed": history(submit(), read(2, FAILED), ("resume", 3, None, {}), read(5, RUNNING), read(7, SUCCESSFUL)),
    "deleted": history(
        submit(),
        read(2, SUCCESSFUL),
        ("delete", 3, 4, {"is_done": True}),
        ("status", 5, 6, {"is_missing": True}),
    ),
    "deleted without an answer": history(submit(), ("delete", 3, None, {}), ("status", 5, 6, {"is_missing": True})),
    "removed by itself": history(
        submit(), read(2, FAILED), ("removed", 3, 3, {}), ("status", 5, 6, {"is_missing": True})
    ),
    "asked again after it was removed": history(
        submit(),
        read(2, SUCCESSFUL),
        ("removed", 3, 3, {}),
        submit(4, 5, run_id="second"),
        read(6, FAILED, run_id="second"),
    ),
    "an event sent twice": history(submit(), event(2, "a", 7), event(3, "b", 8), event(4, "a", 7)),
}
WRONG = {
    "lost": history(submit(), ("status", 2, 3, {"is_missing": True})),
    "two runs": history(submit(), submit(2, 3, run_id="other")),
    "back from success": history(submit(), read(2, SUCCESSFUL), read(4, RUNNING)),
    "back from a cancellation": history(submit(), ("cancel", 2, 3, {"told": CANCELED}), read(4, SUCCESSFUL)),
    "two endings": history(submit(), ("status", 2, 9, {"told": CANCELED}), ("status", 2, 9, {"told": SUCCESSFUL})),
    "failed, and then at work by itself": history(submit(), read(2, FAILED), read(4, RUNNING)),
    "resumed after success": history(
        submit(), read(2, SUCCESSFUL), ("resume", 3, 4, {"told": RUNNING, "is_done": True})
    ),
    "two outputs": history(submit(), read(2, SUCCESSFUL, output=b"1"), read(3, SUCCESSFUL, output=b"2")),
    "back from deletion": history(submit(), ("delete", 3, 4, {"is_done": True}), read(5, SUCCESSFUL)),
    "told of what was removed": history(submit(), ("removed", 2, 2, {}), read(3, SUCCESSFUL)),
    "an event recorded twice": history(submit(), event(2, "a", 7), event(3, "a", 8)),
    "an event acknowledged and not recorded": history(submit(), event(2, "a", 0)),
    "two events of one number": history(submit(), event(2, "a", 7), event(3, "b", 7)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_may_be_told(name: str) -> None:
    RIGHT[name].check()


@pytest.mark.parametrize("name", WRONG)
def test_what_may_not_be_told(name: str) -> None:
    with pytest.raises(AssertionError, match=r".+"):
        WRONG[name].check()
