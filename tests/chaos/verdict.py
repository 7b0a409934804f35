"""Checks that must hold when the faults are over and everything has settled. Reads the database, the lines that tasks
left, and the answers of each engine."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

import perdure
from chaos.graphs import Began, read_traces
from chaos.load import Acknowledged
from chaos.world import World
from perdure import errors

STUMBLED: Final = re.compile(
    r"Traceback|unexpected error|stumbled|failed unexpectedly|a step after a commit failed|what it should not"
)
BEGAN_LATE_MS: Final = 1
"""Times are in whole milliseconds."""


@dataclass
class Verdict:
    """Broken promises by workflow id, and numbers for people."""

    broken: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    runs: int = 0
    tasks: int = 0
    events: int = 0
    attempts: int = 0
    repeated: int = 0
    logs: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.broken and not self.logs


async def judge(world: World, runs: dict[str, Acknowledged]) -> Verdict:
    verdict = Verdict(runs=len(runs))
    for run in runs.values():
        _check_outcome(run, verdict)
    connection = await asyncpg.connect(world.database)
    try:
        await _check_rows(connection, runs, verdict)
        await _check_events(connection, runs, verdict)
        await _check_attempts(connection, read_traces(world.traces), runs, verdict)
    finally:
        await connection.close()
    await _check_engines(world, runs, verdict)
    verdict.logs = [line[:400] for line in world.logs().splitlines() if STUMBLED.search(line)]
    return verdict


def _check_outcome(run: Acknowledged, verdict: Verdict) -> None:
    broken: list[str] = []
    if not run.is_over:
        broken.append("did not end")
    elif isinstance(run.failure, errors.WorkflowCancellationError):
        if not run.is_canceled:
            broken.append("was canceled by nobody")
    elif run.failure is not None:
        broken.append(f"failed: {run.failure!r} {run.failure.__cause__!r}")
    elif run.is_canceled:
        broken.append("was canceled, and then was not")
    elif run.output != run.case.value:
        broken.append(f"gave {run.output!r} instead of {run.case.value!r}")
    if broken:
        verdict.broken[run.workflow_id] += [f"{run.case.sort}: {what}" for what in broken]


async def _check_rows(connection: Any, runs: dict[str, Acknowledged], verdict: Verdict) -> None:
    """Each acknowledged run is there, once, final; and there is none that no client made."""
    rows = await connection.fetch("SELECT run_id, workflow_id, status, is_current FROM runs")
    by_id = {row["run_id"]: row for row in rows}
    for run in runs.values():
        row = by_id.pop(run.run_id, None)
        if row is None:
            verdict.broken[run.workflow_id].append("is not in the database")
        elif row["status"] not in ("SUCCESSFUL", "CANCELED"):
            verdict.broken[run.workflow_id].append(f"is {row['status']} in the database")
    for row in by_id.values():
        verdict.broken[row["workflow_id"]].append("is in the database twice, or without having been asked for")
    if left := await connection.fetchval("SELECT count(*) FROM mail"):
        verdict.broken["mail"].append(f"{left} letters were never read")


async def _check_events(connection: Any, runs: dict[str, Acknowledged], verdict: Verdict) -> None:
    """Each acknowledged event was consumed by one task, and no task consumed two."""
    rows = await connection.fetch("SELECT run_id, event_id, consumed_by FROM events")
    by_run: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        by_run[row["run_id"]].append((row["event_id"], row["consumed_by"]))
    for run in runs.values():
        verdict.events += len(run.events)
        stored = by_run[run.run_id]
        if sorted(event for event, _ in stored) != sorted(run.events):
            verdict.broken[run.workflow_id].append(f"has the events {stored}, acknowledged were {run.events}")
        consumers = Counter(task for _, task in stored)
        if not run.is_canceled and run.events and ("" in consumers or max(consumers.values()) > 1):
            verdict.broken[run.workflow_id].append(f"consumed its events so: {stored}")


async def _check_attempts(connection: Any, began: list[Began], runs: dict[str, Acknowledged], verdict: Verdict) -> None:
    """No attempt began after an output of its task had been recorded; every recorded task ran."""
    rows = await connection.fetch("SELECT run_id, task_id, status, ended_ms FROM tasks")
    verdict.tasks, verdict.attempts = len(rows), len(began)
    by_run = {run.run_id: run for run in runs.values()}
    ended = {(row["run_id"], row["task_id"]): row["ended_ms"] for row in rows if row["status"] == "SUCCESSFUL"}
    made = Counter((line.run_id, line.task_id) for line in began)
    verdict.repeated = sum(count - 1 for count in made.values())
    for line in began:
        run = by_run.get(line.run_id)
        if run is None or line.task_id.rpartition("/")[2] in run.case.volatile:
            continue
        at_ms = ended.get((line.run_id, line.task_id))
        if at_ms is not None and line.at_ms > at_ms + BEGAN_LATE_MS:
            verdict.broken[run.workflow_id].append(
                f"{run.case.sort}: {line.task_id} began again {line.at_ms - at_ms} ms after it had ended"
            )


async def _check_engines(world: World, runs: dict[str, Acknowledged], verdict: Verdict) -> None:
    """All engines say the same, and are alive."""
    said = []
    for engine in world.engines:
        async with perdure.Client(engine.address) as client:
            said.append({run.workflow_id: run.status async for run in client.list(page_size=1000)})
            alive = [member for member in await client.engines() if not member.is_dead]
            if len(alive) != len(world.engines):
                verdict.broken["engines"].append(f"{engine.name} knows {len(alive)} that live")
    for workflow_id in runs:
        if len({statuses.get(workflow_id) for statuses in said}) != 1:
            verdict.broken[workflow_id].append(f"engines disagree: {[s.get(workflow_id) for s in said]}")
