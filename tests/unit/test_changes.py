"""Subscriptions: their cost while they are not read."""

from __future__ import annotations

import asyncio

import pytest

from perdure.model import RunStatus
from perdure.service.runs import changes
from perdure.service.runs.changes import Change, Changes, Overflowed
from perdure.service.runs.views import RunView
from perdure.storage.rows import RunRow


def change(number: int, metadata: str = "") -> Change:
    row = RunRow(
        run_id=str(number),
        namespace="default",
        workflow_id=str(number),
        status=RunStatus.RUNNING,
        spec_key="",
        create_ms=0,
        update_ms=0,
        metadata=metadata,
    )
    return Change(number, 0, "default", run=RunView(row))


async def test_a_backlog_is_bounded_by_the_size_of_what_is_in_it() -> None:
    hub = Changes()
    text = "x" * (changes.BACKLOG_CHARS_MAX // 4)
    with hub.subscribe(None) as subscription:
        for number in range(1, 5):
            hub.publish(str(number), change(number, text))
        assert len(await subscription.next_batch(0)) == 4
        for number in range(1, 6):
            hub.publish(str(number), change(number, text))
        with pytest.raises(Overflowed):
            await subscription.next_batch(0)


async def test_a_single_large_change_is_told() -> None:
    hub = Changes()
    with hub.subscribe(None) as subscription:
        hub.publish("1", change(1, "x" * (changes.BACKLOG_CHARS_MAX + 1)))
        assert len(await subscription.next_batch(0)) == 1


async def test_a_backlog_is_bounded_by_the_number_of_changes() -> None:
    hub = Changes()
    with hub.subscribe(None) as subscription:
        for number in range(changes.BACKLOG_MAX + 1):
            hub.publish("1", change(number))
        with pytest.raises(Overflowed):
            await subscription.next_batch(0)


def test_an_end_before_what_the_caller_has_seen_ends_no_wait() -> None:
    """The run was resumed since, and a follower may tell of the earlier end late."""
    hub = Changes()

    def end(change: int) -> RunRow:
        row = RunRow("r", "default", "w", RunStatus.FAILED, "spec", 1, 1, change=change)
        hub.publish("r", Change(change, 1, "default", run=RunView(row)))
        return row

    with hub.gather({"r": 5}) as told:
        end(4)
        assert told.ended == {}
        last = end(6)
        assert told.ended == {"r": last}


@pytest.mark.parametrize("turns", range(6))
async def test_a_batch_has_the_change_that_comes_as_its_time_is_up(turns: int) -> None:
    """Otherwise the token after the batch would name a change that is not in it."""
    hub = Changes()
    with hub.subscribe(None) as subscription:
        asking = asyncio.create_task(subscription.next_batch(0))
        for _ in range(turns):
            await asyncio.sleep(0)
        was_answered = asking.done()
        hub.publish("1", change(1))
        assert len(await asking) == (0 if was_answered else 1)


def test_a_commit_is_published_when_its_late_changes_are_published_as_well() -> None:
    hub = Changes()
    hub.advance(4)
    hub.expect_late(5)
    hub.expect_late(5)
    hub.advance(5)
    hub.advance(6)
    assert hub.published == 4
    hub.published_late(5)
    assert hub.published == 4
    hub.published_late(5)
    assert hub.published == 6
