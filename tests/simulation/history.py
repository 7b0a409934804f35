"""A history of calls and their answers, and a small model of the allowed answers.

Knows nothing of engines but their names. A call without an answer may have taken effect at any time
after it was made, or never. Times are of one clock, the world's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from perdure.model import RunStatus

FOR_GOOD: Final = (RunStatus.SUCCESSFUL, RunStatus.CANCELED)
NEVER: Final = float("inf")


@dataclass(slots=True, eq=False)
class Call:
    """One call. `told` is the state that the answer named, `is_missing` that there is no such workflow."""

    kind: str
    workflow_id: str
    engine: str
    asked_s: float
    subject: str = ""
    """The id of the event."""
    answered_s: float = NEVER
    run_id: str = ""
    told: RunStatus | None = None
    output: bytes | None = None
    sequence: int = 0
    is_missing: bool = False
    is_done: bool = False
    """Whether it was acknowledged: what it asked for has happened."""
    is_silent: bool = False
    """Whether it was left without an answer, though the question that it was a part of had one."""

    def answer(self, heard: Call, now_s: float) -> None:
        """It was answered, and that is what the answer said."""
        self.run_id, self.told, self.output, self.sequence = heard.run_id, heard.told, heard.output, heard.sequence
        self.is_missing, self.is_done, self.answered_s = heard.is_missing, heard.is_done, now_s

    def __str__(self) -> str:
        answer = "missing" if self.is_missing else str(self.told or self.sequence or self.is_done)
        return (
            f"{self.kind} of {self.workflow_id} on {self.engine} [{self.asked_s:.3f}, {self.answered_s:.3f}]: {answer}"
        )


@dataclass
class History:
    """All calls of a world, in the order in which they were made."""

    calls: list[Call] = field(default_factory=list)

    def ask(self, kind: str, workflow_id: str, engine: str, now_s: float, subject: str = "") -> Call:
        call = Call(kind, workflow_id, engine, now_s, subject)
        self.calls.append(call)
        return call

    def removed(self, workflow_id: str, run_id: str, now_s: float) -> None:
        """A run was removed from the store, for whatever reason."""
        self.calls.append(Call("removed", workflow_id, "", now_s, answered_s=now_s, run_id=run_id))

    def check(self) -> None:
        """Raises AssertionError naming the first answer that no order of events explains."""
        by_workflow: defaultdict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            by_workflow[call.workflow_id].append(call)
        for calls in by_workflow.values():
            answered = sorted((call for call in calls if call.answered_s < NEVER), key=lambda call: call.answered_s)
            _check_existence(calls, answered)
            answered = [call for call in answered if call.kind != "removed"]
            runs = {call.run_id: None for call in answered if call.run_id}
            for run_id in runs:
                of_run = [call for call in answered if call.run_id in (("", run_id) if len(runs) == 1 else (run_id,))]
                _check_states(calls, of_run)
                _check_values(of_run)
                _check_events(of_run)

    def events(self, run_id: str) -> dict[int, str]:
        """Acknowledged events of a run by their sequence."""
        sent = (call for call in self.calls if call.run_id == run_id and call.sequence)
        return {call.sequence: call.subject for call in sent}


def _asked_before(calls: Iterable[Call], kind: str, until_s: float) -> bool:
    return any(call.kind == kind and call.asked_s < until_s for call in calls)


def _check_existence(calls: list[Call], answered: list[Call]) -> None:
    """An accepted run exists until it is removed, and a removed run never comes back."""
    accepted_s = min((call.answered_s for call in answered if call.kind == "submit" and call.is_done), default=NEVER)
    deleted_s = min((call.answered_s for call in answered if call.kind == "delete" and call.is_done), default=NEVER)
    removed_s = {call.run_id: call.asked_s for call in answered if call.kind == "removed"}
    runs = {call.run_id for call in answered if call.run_id and call.asked_s < deleted_s}
    assert len(runs) <= 1 + len(removed_s), f"one request made several runs: {runs}"
    # An unanswered request may be carried out when its workflow id is free again.
    is_pending = any(call.kind == "submit" and call.answered_s == NEVER for call in calls)
    for call in answered:
        if call.is_missing:
            is_removed = any(_asked_before(calls, kind, call.answered_s) for kind in ("delete", "removed"))
            lost = call.asked_s > accepted_s and not is_removed
            assert not lost, f"an accepted run is gone: {call}"
        elif call.asked_s > removed_s.get(call.run_id, NEVER):
            raise AssertionError(f"a removed run is told of: {call}")
        elif call.told is not None and call.kind != "submit":
            is_another = is_pending and call.run_id not in runs
            assert call.asked_s < deleted_s or is_another, f"a deleted run is back: {call}"


def _check_states(calls: list[Call], answered: list[Call]) -> None:
    """A final run stays final. Only a failed run may go on, and only on a request."""
    over: Call | None = None
    failed: Call | None = None
    for call in sorted(answered, key=lambda call: call.answered_s):
        if call.told is None:
            continue
        if call.told in FOR_GOOD and (over is None or call.answered_s < over.answered_s):
            over = call
        if call.told is RunStatus.FAILED and failed is None:
            failed = call
    for call in answered:
        if call.told is None:
            continue
        if over is not None and call.asked_s > over.answered_s:
            assert call.told is over.told, f"{over}; and later {call}"
        if failed is not None and call.asked_s > failed.answered_s and call.told is not RunStatus.FAILED:
            assert _asked_before(calls, "resume", call.answered_s), f"{failed}; and later {call}"
        if call.kind == "resume" and call.is_done and over is not None:
            assert call.asked_s < over.answered_s, f"{over}; and later {call}"
    endings = {call.told for call in answered if call.told in FOR_GOOD}
    assert len(endings) <= 1, f"a run ended in two ways: {endings}"


def _check_values(answered: list[Call]) -> None:
    """A run has one output, the same for every caller at any time."""
    outputs = {call.output for call in answered if call.output is not None}
    assert len(outputs) <= 1, f"{answered[0].workflow_id} has several outputs"


def _check_events(answered: list[Call]) -> None:
    """An event has one number however often it is sent, and no two have the same."""
    numbers: dict[str, int] = {}
    for call in answered:
        assert call.sequence or call.kind != "event" or not call.is_done, f"acknowledged, and not recorded: {call}"
        if call.sequence:
            known = numbers.setdefault(call.subject, call.sequence)
            assert known == call.sequence, f"event {call.subject} was recorded twice: {known} and {call}"
    assert len(set(numbers.values())) == len(numbers), f"two events have one number: {numbers}"
