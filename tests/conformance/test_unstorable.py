"""A store rejects unstorable values for good: it raises Unstorable, names the field, and changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.stores import STORES, open_store
from conformance.test_metadata_store import add, put, task
from perdure.model import RunStatus
from perdure.storage.ports import Entry, MetadataStore, Unstorable
from perdure.storage.rows import Timer, ValueKey
from perdure.storage.storable import BYTES_MAX, fault_of
from perdure.storage.writes import AddEvent, ConsumeEvent, Mail, MarkBlobs, PutSpec, SetRun

HALF = "a\ud800b"
LONG = "".join(f"{number:x}" for number in range(5_000))


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    async with open_store(request, tmp_path) as store:
        yield store
        await store.close()


NEVER: dict[str, tuple[Entry, str]] = {
    "id of a run": ((add("b", workflow_id=HALF),), "AddRun.row.workflow_id"),
    "label": ((add("b", labels={"a": HALF}),), "AddRun.row.labels"),
    "id of a task": ((task("a", HALF),), "PutTask.row.task_id"),
    "moment": ((task("a", "t", wake_ms=2**63),), "PutTask.row.wake_ms"),
    "moment of an end": ((SetRun("run-a", RunStatus.FAILED, 2**63),), "SetRun.at_ms"),
    "key of an event": ((AddEvent("run-a", "e", HALF, b"", 1),), "AddEvent.key"),
    "consumer": ((ConsumeEvent("run-a", 1, HALF),), "ConsumeEvent.task_id"),
    "number of an event": ((ConsumeEvent("run-a", 2**63, "t"),), "ConsumeEvent.sequence"),
    "graph": ((PutSpec(HALF, b"graph"),), "PutSpec.key"),
    "mail": ((Mail("run-a", HALF),), "Mail.kind"),
    "mark": ((MarkBlobs((HALF,)),), "MarkBlobs.blobs"),
}


@pytest.mark.parametrize("name", NEVER)
async def test_what_is_never_taken_is_said_and_changes_nothing(store: MetadataStore, name: str) -> None:
    entry, field = NEVER[name]
    await put(store, (add("a"),))
    with pytest.raises(Unstorable) as raised:
        await put(store, (task("a", "before"),), entry, (task("a", "after", 1),))
    assert raised.value.field == field
    assert field in str(raised.value)
    kept = await store.load_run("run-a")
    assert kept is not None
    assert kept.tasks == ()
    assert kept.run.status is RunStatus.RUNNING
    await put(store, (task("a", "before"),), (task("a", "after", 1),))
    assert await store.read_values([ValueKey("run-a", task_id="after")]) == [b"value"]


@pytest.mark.parametrize("name", ["a\0b", LONG, "a\nb", "\u200f", "\U0001f600"])
async def test_an_odd_id_is_kept_as_it_is_or_never_taken(store: MetadataStore, name: str) -> None:
    """Which of both is up to the store, but it does not change, and it does not stand in the way."""
    await put(store, (add("a"),))
    try:
        await put(store, (task("a", name, wake_ms=1),))
    except Unstorable:
        with pytest.raises(Unstorable):
            await put(store, (task("a", name),))
    else:
        assert await store.read_values([ValueKey("run-a", task_id=name)]) == [b"value"]
        kept = await store.load_run("run-a")
        assert kept is not None
        assert [row.task_id for row in kept.tasks] == [name]
    await put(store, (task("a", "other", wake_ms=5),))
    assert await store.next_timers(until_ms=10, limit=10) in ([], [Timer("run-a", "other", 1, 5)])


async def test_a_megabyte_is_taken(store: MetadataStore) -> None:
    large = bytes(range(256)) * 4096
    await put(store, (add("a"), task("a", "t", output=large, output_bytes=len(large), failure=large)))
    assert await store.read_values([ValueKey("run-a", task_id="t")]) == [large]


def test_the_fault_that_is_named_is_the_first() -> None:
    class Large(bytes):
        def __len__(self) -> int:
            return BYTES_MAX + 1

    assert fault_of([(add("a"), task("a", "t"))]) == ""
    assert fault_of([(add("a"), task("a", "t\0")), (task("a", "\0"),)]) == "PutTask.row.task_id"
    assert fault_of([(PutSpec("key", Large()),)]) == "PutSpec.data"
