"""A client that keeps asking any engine for the state of a workflow and its tasks, and remembers every answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from perdure import errors
from perdure.model import Payload
from perdure.service.kernel import Kernel
from perdure.storage.queries import RunQuery
from simulation.told import Told

T = TypeVar("T")

NAMESPACE = "default"
PAUSE_MAX_S = 3.0
NOT_THERE = (errors.WorkflowNotFoundError, errors.TaskNotFoundError, errors.OutputNotStoredError)


class Curious:
    """Asks about one workflow id. `insist` asks until there is an answer; an answer that dies with its engine is
    lost."""

    def __init__(
        self,
        workflow_id: str,
        told: Told,
        dice: random.Random,
        insist: Callable[[Callable[[Kernel], Awaitable[Callable[[], None]]]], Awaitable[Callable[[], None]]],
    ) -> None:
        self._workflow_id = workflow_id
        self._told = told
        self._dice = dice
        self._insist = insist
        self.is_over = False
        self._seen: list[str] = []
        """Tasks that were told of."""

    async def look_around(self) -> None:
        """Ask now and then, until it is over."""
        while not self.is_over:
            await asyncio.sleep(self._dice.choice((0.0, 0.001, self._dice.random() * PAUSE_MAX_S)))
            await self.look()

    async def look(self) -> None:
        """Ask for something."""
        ask = self._dice.choice((self._ask_status, self._ask_tasks, self._ask_all, self._ask_output, self._ask_list))
        with contextlib.suppress(*NOT_THERE):
            note = await self._insist(ask)
            note()

    async def _ask_status(self, kernel: Kernel) -> Callable[[], None]:
        asked_s = asyncio.get_running_loop().time()
        view = await kernel.queries.run(NAMESPACE, self._workflow_id)
        return lambda: self._told.run(asked_s, view)

    async def _ask_list(self, kernel: Kernel) -> Callable[[], None]:
        asked_s = asyncio.get_running_loop().time()
        views = await kernel.queries.list_runs(RunQuery(NAMESPACE, 100))
        return lambda: [self._told.row(asked_s, view.row) for view in views] and None

    async def _ask_tasks(self, kernel: Kernel) -> Callable[[], None]:
        asked_s = asyncio.get_running_loop().time()
        run = await kernel.queries.row(NAMESPACE, self._workflow_id)
        tasks = [task for _, task in await kernel.queries.tasks(NAMESPACE, self._workflow_id, run.run_id)]
        self._seen = [task.task_id for task in tasks]
        return lambda: self._told.tasks(asked_s, run.run_id, tasks)

    async def _ask_all(self, kernel: Kernel) -> Callable[[], None]:
        asked_s = asyncio.get_running_loop().time()
        now = await kernel.queries.look(await kernel.queries.row(NAMESPACE, self._workflow_id), None)
        counts, tasks = now.taken
        return lambda: self._told.all(asked_s, now.row, counts, tasks)

    async def _ask_output(self, kernel: Kernel) -> Callable[[], None]:
        asked_s = asyncio.get_running_loop().time()
        if not self._seen:
            return await self._ask_status(kernel)
        task_id = self._dice.choice(self._seen)
        try:
            view = await kernel.queries.outcome(NAMESPACE, self._workflow_id, task_id=task_id)
        except NOT_THERE:
            run = await kernel.queries.row(NAMESPACE, self._workflow_id)
            return lambda: self._told.no_output(asked_s, run.run_id, task_id)
        value = view.value
        if not isinstance(value, Payload):
            return lambda: None if value is not None else self._told.no_output(asked_s, view.run_id, task_id)
        return lambda: self._told.output(asked_s, view.run_id, task_id, value)
