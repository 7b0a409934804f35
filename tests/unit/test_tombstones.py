"""Repeated calls whose run was deleted in between: which ones a tombstone answers, and which ones are new calls."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure import errors, graphwire
from perdure.model import RunStatus
from perdure.service.common.repeat import Repeat
from perdure.service.housekeeping.tombstones import KEPT_MS
from perdure.service.machines.graphs import source_of
from perdure.service.operations.asked import Conflict, NewEvent, NewRun
from perdure.service.operations.batches import Batches
from perdure.service.runs.views import RunView
from perdure.storage.writes import DropTombstones, KeepTombstones
from unit.driver import VALUE, call, graph
from unit.engine_by_hand import Engine, Store, running_engine, soon

SPEC = graph(call("a"))
SINCE_MS = 5_000
"""The calls are made first before the deletion, and repeated after it."""
SINCE, LATER = Repeat(SINCE_MS, SINCE_MS), Repeat(SINCE_MS // 2 - 1, SINCE_MS // 2 - 1)


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with running_engine() as engine:
        yield engine


async def submit(engine: Engine, repeat: Repeat | None = None, **given: str) -> tuple[RunView, bool]:
    names = {"workflow_id": "w", "request_id": "r", **given}
    source = source_of(SPEC, graphwire.encode_spec(SPEC))
    new = NewRun("default", source=source, repeat=repeat, **names)  # type: ignore[arg-type]
    return await engine.kernel.submissions.submit(new)


async def send(engine: Engine, event_id: str = "e", repeat: Repeat | None = None) -> tuple[str, bool]:
    sent = await engine.kernel.events.send("default", "w", key="k", event_id=event_id, payload=VALUE, repeat=repeat)
    return sent.run_id, sent.is_duplicate


async def ended_and_deleted(engine: Engine) -> str:
    """The id of a run that took an event, was canceled and deleted. Some time passes before and after that."""
    (view, _) = await submit(engine)
    await send(engine)
    engine.now_ms += SINCE_MS // 2
    await engine.kernel.lifecycle.cancel("default", "w")
    await engine.kernel.lifecycle.delete("default", "w")
    engine.now_ms += SINCE_MS // 2
    return view.row.run_id


async def test_a_repeated_start_makes_no_second_run(engine: Engine) -> None:
    run_id = await ended_and_deleted(engine)
    view, started = await submit(engine, SINCE)
    assert (view.row.run_id, view.row.status, started) == (run_id, RunStatus.CANCELED, False)
    with pytest.raises(errors.WorkflowNotFoundError):
        await engine.kernel.queries.run("default", "w")
    other, started = await submit(engine, SINCE, request_id="another")
    assert started
    assert other.row.run_id != run_id


async def test_a_start_that_was_made_after_the_deletion_is_a_new_one(engine: Engine) -> None:
    run_id = await ended_and_deleted(engine)
    view, started = await submit(engine, LATER)
    assert started
    assert view.row.run_id != run_id


async def attach(engine: Engine, repeat: Repeat | None = None, request_id: str = "second") -> tuple[RunView, bool]:
    source = source_of(SPEC, graphwire.encode_spec(SPEC))
    new = NewRun("default", "w", request_id, source, conflict=Conflict.USE_EXISTING, repeat=repeat)
    return await engine.kernel.submissions.submit(new)


@pytest.mark.parametrize("end", ["running", "ended", "deleted", "replaced"])
@pytest.mark.parametrize("repeat", [SINCE, Repeat(1_000)], ids=["asked long ago", "nobody knows when"])
async def test_which_run_a_start_attached_to_is_known_after_a_restart(end: str, repeat: Repeat) -> None:
    store = Store()
    async with running_engine(store) as engine:
        (first, _) = await submit(engine)
        (view, started) = await attach(engine)
        assert (view.row.run_id, started) == (first.row.run_id, False)
        if end != "running":
            await engine.kernel.lifecycle.cancel("default", "w")
        if end in ("deleted", "replaced"):
            await engine.kernel.lifecycle.delete("default", "w")
        if end == "replaced":
            await submit(engine, request_id="third")
        await engine.kernel.journal.barrier()
    async with running_engine(store) as heir:
        heir.now_ms += SINCE_MS // 2
        for _ in range(2):
            view, started = await attach(heir, repeat)
            assert (view.row.run_id, started) == (first.row.run_id, False)
        with pytest.raises(errors.RequestIdReusedError):
            await submit(heir, repeat, request_id="second", metadata="other")


async def test_an_attachment_is_durable_before_its_answer(engine: Engine) -> None:
    await submit(engine)
    engine.store.hold()
    attaching = await soon(attach(engine))
    await engine.store.commits.get()  # it finds out that the id is taken
    engine.store.let_one_go()
    (entry,) = await engine.store.commits.get()
    assert [type(write) for write in entry] == [DropTombstones, KeepTombstones]
    assert not attaching.done()
    engine.store.let_all_go()
    assert not (await attaching)[1]


async def test_a_start_that_makes_its_run_reads_no_tombstones_and_writes_none(engine: Engine) -> None:
    async def read_tombstone(key: str) -> None:
        raise AssertionError("it costs nothing")

    engine.store.read_tombstone = read_tombstone  # type: ignore[method-assign]
    assert (await submit(engine))[1]
    assert (await attach(engine, request_id="r"))[1] is False, "the same request"
    async with running_engine() as other:
        assert (await attach(other))[1], "there is nothing to attach to"


async def test_an_attachment_is_forgotten_after_an_hour(engine: Engine) -> None:
    await submit(engine)
    await attach(engine)
    engine.now_ms += KEPT_MS + 1
    await attach(engine, request_id="third")
    tombstones = engine.kernel.submissions._tombstones
    assert await tombstones.attachment("default", "second") is None
    assert await tombstones.attachment("default", "third") is not None


async def test_a_start_with_other_content_is_no_repeat(engine: Engine) -> None:
    await ended_and_deleted(engine)
    assert (await submit(engine, SINCE, workflow_id="other"))[1]


async def test_repeated_batches_make_no_second_run_and_send_no_second_event(engine: Engine) -> None:
    kernel = engine.kernel
    batches = Batches(kernel.submissions, kernel.events, kernel.queries, kernel.changes)
    run_id = await ended_and_deleted(engine)
    source = source_of(SPEC, graphwire.encode_spec(SPEC))
    item = NewRun("default", "w", "r", source, repeat=SINCE)
    (result,) = await batches.submit([item])
    assert isinstance(result, tuple)
    assert (result[0].row.run_id, result[1]) == (run_id, False)
    events = [NewEvent("w", "k", "e", VALUE), NewEvent("w", "k", "unknown", VALUE)]
    known, unknown = await batches.send_events("default", events, repeat=SINCE)
    assert not isinstance(known, Exception)
    assert (known.run_id, known.is_duplicate) == (run_id, True)
    assert isinstance(unknown, errors.WorkflowNotFoundError)


async def test_a_repeated_event_goes_to_no_later_run_of_the_id(engine: Engine) -> None:
    run_id = await ended_and_deleted(engine)
    assert await send(engine, repeat=SINCE) == (run_id, True)
    with pytest.raises(errors.WorkflowNotFoundError):
        await send(engine, "unknown", SINCE)
    later = (await submit(engine))[0].row.run_id
    assert await send(engine, repeat=SINCE) == (run_id, True)
    assert await send(engine, "unknown", SINCE) == (later, False)
    assert await send(engine, repeat=LATER) == (later, False)


async def test_a_repeated_cancellation_or_deletion_spares_the_next_run_of_the_id(engine: Engine) -> None:
    lifecycle = engine.kernel.lifecycle
    run_id = await ended_and_deleted(engine)
    for _ in range(2):
        view = await lifecycle.cancel("default", "w", repeat=SINCE)
        assert (view.row.run_id, view.row.status) == (run_id, RunStatus.CANCELED)
        await lifecycle.delete("default", "w", repeat=SINCE)
        await submit(engine, request_id="next")
    assert (await engine.kernel.queries.run("default", "w")).row.status is RunStatus.RUNNING
    canceled = await lifecycle.cancel("default", "w", repeat=LATER)
    assert canceled.row.run_id != run_id


async def test_a_repeated_resumption_of_a_run_that_is_gone_is_answered_if_it_was_resumed(engine: Engine) -> None:
    lifecycle = engine.kernel.lifecycle
    run = await engine.start(SPEC)
    for attempt in (1, 2):
        await engine.executor.submitted.get()
        engine.fail(run, "a", attempt)
        await engine.kernel.queries.ended(run.row, 60)
        if attempt == 1:
            await lifecycle.resume("default", "w")
    await lifecycle.delete("default", "w")
    view, resumed = await lifecycle.resume("default", "w", repeat=SINCE)
    assert (view.row.run_id, resumed) == (run.row.run_id, False)
    await ended_and_deleted(engine)
    with pytest.raises(errors.WorkflowNotFoundError):
        await lifecycle.resume("default", "w", repeat=SINCE)


async def test_a_repeated_call_about_a_resumable_run_that_is_gone_spares_the_next_one(engine: Engine) -> None:
    lifecycle = engine.kernel.lifecycle
    run_id = (await submit(engine))[0].row.run_id
    row = await engine.store.get_run(run_id)
    assert row is not None
    await lifecycle.cancel("default", "w")
    row = await engine.store.get_run(run_id)
    assert row is not None
    await engine.kernel.lifecycle._deletions.remove(row)
    later = (await submit(engine, request_id="next"))[0].row.run_id
    with pytest.raises(errors.WorkflowNotFoundError):
        await lifecycle.resume("default", "w", repeat=SINCE)
    assert (await lifecycle.cancel("default", "w", repeat=SINCE)).row.run_id == run_id
    now = await engine.kernel.queries.run("default", "w")
    assert (now.row.run_id, now.row.status) == (later, RunStatus.RUNNING)


async def test_tombstones_go_with_the_first_deletion_after_their_time(engine: Engine) -> None:
    await ended_and_deleted(engine)
    assert len(engine.store._tombstones) == 3
    engine.now_ms += KEPT_MS
    await submit(engine, workflow_id="other", request_id="other")
    await engine.kernel.lifecycle.cancel("default", "other")
    await engine.kernel.lifecycle.delete("default", "other")
    assert len(engine.store._tombstones) == 2


async def test_a_run_that_ended_long_ago_leaves_no_tombstone(engine: Engine) -> None:
    await submit(engine)
    await engine.kernel.lifecycle.cancel("default", "w")
    engine.now_ms += KEPT_MS + 1
    await engine.kernel.lifecycle.delete("default", "w")
    assert engine.store._tombstones == {}


@pytest.mark.parametrize(
    ("read", "what"),
    [
        ("find_request", "start"),
        ("read_tombstone", "start"),
        ("find_run", "event"),
        ("read_tombstone", "event"),
    ],
)
async def test_the_age_of_a_repeat_grows_while_the_store_is_slow(
    engine: Engine, read: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await ended_and_deleted(engine)
    quick = getattr(engine.store, read)

    async def slow(*names: str) -> object:
        engine.now_ms += 10 * SINCE_MS
        return await quick(*names)

    monkeypatch.setattr(engine.store, read, slow)
    if what == "start":
        assert (await submit(engine, SINCE))[0].row.run_id == run_id
    else:
        assert await send(engine, repeat=SINCE) == (run_id, True)
