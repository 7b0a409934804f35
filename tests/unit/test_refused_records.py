"""A record that the store never takes fails the run that it is of, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from perdure import errors, graphwire
from perdure.model import Failure, FailureKind, RunStatus, Spec, SpecNode, TaskOptions, WaitEvent
from perdure.service.executors.port import ContinuationReturned
from perdure.storage.ports import Entry, Unstorable
from perdure.storage.writes import AddRun, Committed, PutTask, SetRun, Write
from unit.driver import VALUE, call, graph
from unit.engine_by_hand import NOW_MS, Engine, Store, running_engine, soon

CHAIN = graph(call("a"), call("b", "a"))
PAIR = graph(call("a"), call("b"), call("c", "a", "b"))
WAITS = graph(SpecNode("w", WaitEvent("go")), call("b", "w"))


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    async with running_engine() as engine:
        yield engine


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Write], bool]], None]:
    """Have the store never take writes of some sort."""

    def begin(is_refused: Callable[[Write], bool]) -> None:
        commit = Store.commit

        async def refusing(self: Store, entries: Sequence[Entry]) -> Committed:
            if any(is_refused(write) for entry in entries for write in entry):
                raise Unstorable("never", "a field")
            return await commit(self, entries)

        monkeypatch.setattr(Store, "commit", refusing)

    return begin


Refuse = Callable[[Callable[[Write], bool]], None]


def is_task(task_id: str) -> Callable[[Write], bool]:
    return lambda write: isinstance(write, PutTask) and write.row.task_id == task_id


async def failure_of(engine: Engine, name: str = "w") -> Failure:
    """Wait for the failure of the run."""
    view = await engine.kernel.queries.outcome("default", name, wait_s=20)
    assert view.status is RunStatus.FAILED
    assert isinstance(view.value, Failure)
    return view.value


async def test_the_run_fails_and_others_go_on(engine: Engine, refuse: Refuse) -> None:
    refuse(is_task("a"))
    run, other = await engine.start(CHAIN), await engine.start(WAITS, "other")
    engine.succeed(run, "a")
    failure = await failure_of(engine)
    assert (failure.kind, failure.type) == (FailureKind.SYSTEM, "perdure.RecordRefused")
    assert failure.message == "a record of the run cannot be stored: never (a field)"
    await engine.kernel.events.send("default", "other", key="go", event_id="1", payload=VALUE)
    await engine.kernel.journal.barrier()
    engine.succeed(other, "b")
    assert (await engine.kernel.queries.outcome("default", "other", wait_s=20)).status is RunStatus.SUCCESSFUL


async def test_its_attempts_are_stopped_and_nothing_more_of_it_is_recorded(engine: Engine, refuse: Refuse) -> None:
    refuse(is_task("a"))
    run = await engine.start(PAIR)
    engine.succeed(run, "a")
    engine.succeed(run, "b")
    await failure_of(engine)
    assert await engine.tasks() == {"a": "CANCELED", "b": "CANCELED", "c": "BLOCKED"}
    assert engine.executor.cancelled == [("c", 1)]
    assert engine.kernel.scheduler.memory.find(run.row.run_id) is None


async def test_what_it_did_not_record_is_not_told(engine: Engine, refuse: Refuse) -> None:
    refuse(is_task("a"))
    run = await engine.start(CHAIN)
    engine.store.hold()
    engine.succeed(run, "a")
    tasks = await soon(engine.tasks())
    engine.store.let_all_go()
    assert (await tasks)["a"] != "SUCCESSFUL"


async def test_resumed_it_goes_on_from_what_was_recorded(
    engine: Engine, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With attempts of higher numbers: a late report of the one that was stopped is none of theirs."""
    refuse(is_task("b"))
    run = await engine.start(CHAIN)
    engine.succeed(run, "a")
    await engine.kernel.journal.barrier()
    engine.succeed(run, "b")
    await failure_of(engine)
    assert (await engine.tasks())["a"] == "SUCCESSFUL"
    monkeypatch.undo()
    await engine.kernel.lifecycle.resume("default", "w")
    while (attempt := await engine.executor.submitted.get()).number == 1:
        pass
    assert (attempt.task_id, attempt.number) == ("b", 2)
    engine.succeed(run, "b", attempt=1)
    engine.succeed(run, "b", attempt=2)
    assert (await engine.kernel.queries.outcome("default", "w", wait_s=20)).status is RunStatus.SUCCESSFUL


async def test_a_run_fails_without_a_reason_if_the_store_rejects_it(engine: Engine, refuse: Refuse) -> None:
    def is_refused(write: Write) -> bool:
        return is_task("a")(write) or (isinstance(write, SetRun) and b"never" in (write.failure or b""))

    refuse(is_refused)
    run = await engine.start(CHAIN)
    engine.succeed(run, "a")
    assert await failure_of(engine) == Failure(FailureKind.SYSTEM, "perdure.RecordRefused", "", non_retryable=True)


async def test_whatever_the_store_says_the_failure_can_be_kept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await engine.start(CHAIN)
    engine.store.errors = [Unstorable("not \ud800 and \0")]
    engine.succeed(run, "a")
    assert "not \\ud800 and \\x00" in (await failure_of(engine)).message


async def test_a_cancellation_meanwhile_finds_it_failed(engine: Engine, refuse: Refuse) -> None:
    refuse(is_task("a"))
    run = await engine.start(CHAIN)
    engine.store.hold()
    engine.succeed(run, "a")
    canceled = await soon(engine.kernel.lifecycle.cancel("default", "w"))
    engine.store.let_all_go()
    assert (await canceled).row.status is RunStatus.FAILED


async def test_a_new_run_is_refused_and_leaves_nothing(engine: Engine, refuse: Refuse) -> None:
    refuse(lambda write: isinstance(write, AddRun))
    with pytest.raises(errors.InvalidFieldError) as raised:
        await engine.start(CHAIN)
    assert raised.value.fields == {"field": "a field"}
    with pytest.raises(errors.WorkflowNotFoundError):
        await engine.kernel.queries.row("default", "w")
    assert engine.kernel.journal.error is None


async def test_an_event_is_refused_and_the_run_goes_on(engine: Engine) -> None:
    run = await engine.start(WAITS)
    engine.store.errors = [Unstorable("never", "AddEvent.key")]
    with pytest.raises(errors.InvalidFieldError):
        await engine.kernel.events.send("default", "w", key="go", event_id="1", payload=VALUE)
    await engine.kernel.events.send("default", "w", key="go", event_id="2", payload=VALUE)
    await engine.kernel.journal.barrier()
    engine.succeed(run, "b")
    assert (await engine.kernel.queries.outcome("default", "w", wait_s=20)).status is RunStatus.SUCCESSFUL


BAD_GRAPHS: list[Spec] = [
    Spec((SpecNode("part\0", WaitEvent("k")),), "part\0"),
    Spec((SpecNode("part", WaitEvent("a\nb")),), "part"),
    Spec((replace(call("part"), options=TaskOptions(task_id="a\nb")),), "part"),
]


@pytest.mark.parametrize("spec", BAD_GRAPHS)
async def test_a_task_that_returns_a_graph_with_a_bad_text_fails(engine: Engine, spec: Spec) -> None:
    run = await engine.start(graph(call("a")))
    engine.executor.report((run.row.run_id, ContinuationReturned("a", 1, graphwire.encode_spec(spec), NOW_MS)))
    failure = await failure_of(engine)
    assert (failure.kind, failure.type, failure.task_id) == (FailureKind.SERIALIZATION, "perdure.InvalidSpec", "a")
    assert "has 1 to 256 printable characters" in failure.message
