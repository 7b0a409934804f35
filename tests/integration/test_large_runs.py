"""A large run and others beside it, over real gRPC. The tests compare the order of events, never times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import perdure
from integration.engine_settings import settings_on
from perdure.service.app import RunningServer, running_server
from perdure.service.executors.port import Attempt
from perdure.service.runs import acting

NODES = 10_000
SHARE = 5


@perdure.task
def one() -> int:
    return 1


@perdure.task
def add(left: int, right: int) -> int:
    return left + right


@perdure.task
def total(values: list[int]) -> int:
    return sum(values)


def submitted_by(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The workflow ids of attempts, in the order in which they are submitted."""
    order: list[str] = []
    executor: Any = server.kernel.scheduler._acting._executor
    submit = executor.submit

    def noted(attempt: Attempt) -> None:
        order.append(attempt.workflow_id)
        submit(attempt)

    monkeypatch.setattr(executor, "submit", noted)
    return order


def halted_at(submitted: int, order: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Take no turn of waiting acts after so many submissions, until the function given back is called. A turn takes
    microseconds and a commit takes as long as the disk and the CPUs let it, so a race between them has no sure winner.
    """
    turn = acting.Acting._turn
    halted: list[acting.Acting] = []
    goes_on = False

    def turn_or_halt(self: acting.Acting) -> None:
        if goes_on or len(order) < submitted:
            turn(self)
        else:
            halted.append(self)

    def go_on() -> None:
        nonlocal goes_on
        goes_on = True
        for each in halted:
            turn(each)

    monkeypatch.setattr(acting.Acting, "_turn", turn_or_halt)
    return go_on


@pytest.mark.storages("sqlite")
@pytest.mark.timeout(300)
async def test_a_small_run_ends_while_a_large_one_is_still_dispatched(
    server: RunningServer, client: perdure.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "ACTS_AT_ONCE", SHARE)
    order = submitted_by(server, monkeypatch)
    go_on = halted_at(NODES // 2, order, monkeypatch)
    large = await client.start(total.bind([one.bind() for _ in range(NODES - 1)]), workflow_id="large")
    assert await client.run(add.bind(1, 2), workflow_id="small") == 3
    ended_at = len(order)
    assert 0 < order.index("small") < ended_at < NODES - 1
    go_on()
    info = await large.status()
    assert info.tasks == NODES
    assert not info.status.is_final
    assert await large.cancel() is perdure.RunStatus.CANCELED
    info = await large.status()
    assert info.tasks == NODES
    assert await client.run(add.bind(3, 4), workflow_id="after") == 7


@pytest.mark.storages("sqlite")
@pytest.mark.timeout(300)
async def test_a_large_run_goes_on_after_a_restart_and_ends(storage: str) -> None:
    width = 2_000
    async with running_server(settings_on(storage)) as server, perdure.Client(server.address) as client:
        await client.start(total.bind([one.bind() for _ in range(width)]), workflow_id="large")
    async with running_server(settings_on(storage)) as server, perdure.Client(server.address) as client:
        assert await client.run(add.bind(1, 2)) == 3
        assert await client.handle("large").output() == width
