"""Clients of one actor, and what they may be told.

Several callers call, query, drop and ask again. The state of the actor is the list of the methods that changed it, so
it shows what happened, how often, and in which order.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from perdure import actorwire, errors
from perdure.engine.actor.mailbox import MAIL
from perdure.model import CONSTRUCTOR, NULL, ActorSpec, Failure, MethodCall, Payload, RunStatus
from perdure.service.kernel import Kernel
from perdure.service.machines.actors import source_of
from perdure.service.operations.actors import CallResult
from perdure.service.operations.asked import NewRun
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.rows import RunRow
from simulation.methods import CLASS, PROGRAMS, RINGS, payload_of, read, rings_of

T = TypeVar("T")

NAMESPACE = "default"
CALLS_MAX = 6
"""Of one caller."""
DROPPED = "perdure.CallDropped"
QUERY_ENDS = ("perdure.WorkerLost", "perdure.CorruptData", "perdure.AttemptTimeout")
"""How a query may fail: its worker was lost or the state changed too often, or it took too long."""
REQUEST = "actor "
"""The beginning of the requests that make actors."""


class Insist(Protocol):
    """Asks engines until there is an answer."""

    def __call__(self, ask: Callable[[Kernel], Awaitable[T]], /) -> Awaitable[T]: ...


async def make_actor(kernel: Kernel, name: str, spec: ActorSpec, dice: random.Random) -> tuple[RunRow, bool]:
    """One try to make an actor. Requests for actors have no ids. Here they name the actor for `Watch`, and each try has
    another one."""
    call = actorwire.encode_call(MethodCall(CONSTRUCTOR, NULL))
    request = f"{REQUEST}{name} {dice.random()}"
    return await kernel.actors.get_or_create(NewRun(NAMESPACE, name, request, source_of(spec), inputs={"call": call}))


@dataclass(slots=True)
class Told:
    """An answer that was given between two moments: the state that was read, or a call whose effect it has."""

    asked_s: float
    answered_s: float
    revision: int
    seen: list[str] | None = None
    call_id: str = ""


@dataclass
class ActorLog:
    """What the callers of one actor asked for and were told."""

    methods: dict[str, str] = field(default_factory=dict)  # by call
    recorded: dict[str, tuple[float, float]] = field(default_factory=dict)
    """When a call was first asked for, and acknowledged."""
    results: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    """Calls that somebody wanted to drop."""
    told: list[Told] = field(default_factory=list)

    def take_result(self, call_id: str, result: CallResult) -> None:
        value = result.value
        text = value.type if isinstance(value, Failure) else value.data.decode() if value is not None else ""
        known = self.results.setdefault(call_id, text)
        assert known == text, f"the result of {call_id} was {known}, and is {text} now"

    def check(self, final: list[str], order: list[str]) -> None:
        """`final`: the state. `order`: the calls in the order in which they were recorded."""
        assert set(order) == set(self.methods), "each call was recorded once"
        assert set(self.results) == set(self.methods), "each call has a result"
        assert len(set(final)) == len(final), f"a method took place twice: {final}"
        happened = [task_id for task_id in final if "/" not in task_id and not task_id.startswith(".")]
        assert happened == [call_id for call_id in order if call_id in happened], "the calls took place in their order"
        for call_id, result in self.results.items():
            self._check_result(call_id, result, call_id in final, final)
        self._check_revisions()
        self._check_queries(final)
        for one, (_, answered_s) in self.recorded.items():
            for other, (asked_s, _) in self.recorded.items():
                before = order.index(one) < order.index(other)
                assert before or answered_s >= asked_s, f"{one} was acknowledged before {other} was asked for"

    def _check_result(self, call_id: str, result: str, has_happened: bool, final: list[str]) -> None:
        program = self.methods[call_id].partition(":")[0]
        if result == DROPPED:
            assert call_id in self.dropped, f"{call_id} was dropped, and nobody wanted that"
            assert program in ("grow", "own") or not has_happened, f"{call_id} was dropped, and took place"
            return
        match program:
            case "remind" | "repeat":
                rings = 1 if program == "remind" else RINGS
                assert has_happened
                assert len(rings_of(call_id, final)) == rings, f"{call_id} rang {rings_of(call_id, final)}: {final}"
            case "broken":
                assert result == "world.Broken", result
                assert not has_happened
            case "look":
                assert not has_happened
            case "own":
                assert {call_id, *(f"{call_id}/{node}" for node in "mno")} <= set(final), (
                    f"{call_id} took place in part"
                )
            case "grow":
                assert has_happened
                assert (result == "world.Broken") is self.methods[call_id].endswith("bad"), result
            case _:
                assert has_happened, f"{call_id} gave {result}, and did not take place"
                assert f'"place": {final.index(call_id)},' in result, f"{call_id} gave {result}: {final}"

    def _check_revisions(self) -> None:
        for one in self.told:
            for other in self.told:
                if one.answered_s < other.asked_s:
                    assert one.revision <= other.revision, f"revisions go back: {one}, and then {other}"

    def _check_queries(self, final: list[str]) -> None:
        queries = [told for told in self.told if told.seen is not None]
        for query in queries:
            assert query.seen is not None
            assert query.seen == final[: len(query.seen)], f"{query} was never so: {final}"
            for other in self.told:
                if other.answered_s >= query.asked_s:
                    continue
                if other.seen is not None:
                    assert len(other.seen) <= len(query.seen), f"what was seen is gone: {other}, and then {query}"
                elif other.call_id in final:
                    assert other.call_id in query.seen, f"a result was told before it was there: {other}, then {query}"


class ActorClient:
    """Makes an actor and sees all its calls through. `store`: the rows as the world sees them."""

    def __init__(
        self,
        name: str,
        dice: random.Random,
        insist: Insist,
        marks: Counter[str],
        store: MemoryMetadataStore,
        now_s: Callable[[], float],
    ) -> None:
        self.name = name
        self._dice = dice
        self._insist = insist
        self._marks = marks
        self._store = store
        self._now_s = now_s
        self.log = ActorLog()
        self.row: RunRow

    async def live(self) -> None:
        await asyncio.sleep(self._dice.random() * 10)
        await self._create()
        callers = [
            asyncio.create_task(self._call_on(f"{self.name}-c{number}"), name=f"client {self.name} caller {number}")
            for number in range(self._dice.randint(1, 3))
        ]
        await asyncio.gather(*callers)
        await self._see_to_the_end()
        if self._dice.random() < 0.2:
            await self._delete()

    async def _create(self) -> None:
        made: Counter[bool] = Counter()
        for _ in range(self._dice.choice((1, 1, 2))):  # another caller, who does not know that there is one
            self.row, is_new = await self._insist(lambda kernel: make_actor(kernel, self.name, CLASS, self._dice))
            made[is_new] += 1
        assert made[True] <= 1, "there are two actors of one id"

    # -------------------------------------------------------------------------- callers

    async def _call_on(self, caller: str) -> None:
        dice = self._dice
        mine: list[str] = []
        for number in range(dice.randint(1, CALLS_MAX)):
            await asyncio.sleep(dice.choice((0.0, 0.001, dice.random() * 5)))
            call_id = f"{caller}.{number}"
            mine.append(call_id)
            method = dice.choice(PROGRAMS)
            await self._call(call_id, method)
            if method.startswith("hang") and dice.random() < 0.6:  # while it runs
                await asyncio.sleep(dice.random() * 3)
                await self._drop(call_id)
            if dice.random() < 0.15:
                await self._call(call_id, self.log.methods[call_id])
                self._marks["called again"] += 1
            if dice.random() < 0.15:
                await self._drop(dice.choice(mine))
            if dice.random() < 0.05:
                await self._replace_class(f"{call_id}-class")
            if dice.random() < 0.5:
                await self._result(dice.choice(mine))
            if dice.random() < 0.5:
                await self._query(min_revision=dice.choice((0, self._newest())))
        for call_id in mine:
            await self._result(call_id)

    async def _call(self, call_id: str, method: str) -> None:
        self.log.methods[call_id] = method
        call = MethodCall(method, NULL, call_id=call_id)
        asked_s = self._now_s()
        wait_s = self._dice.choice((0.0, 0.0, 1.0, 20.0))
        result = await self._insist(lambda kernel: kernel.actors.call(NAMESPACE, self.name, call, wait_s=wait_s))
        self.log.recorded.setdefault(call_id, (asked_s, self._now_s()))
        self._marks["call"] += 1
        self._note(call_id, asked_s, result)

    async def _drop(self, call_id: str) -> None:
        self.log.dropped.add(call_id)
        was_pending = await self._insist(lambda kernel: kernel.actors.drop(NAMESPACE, self.name, call_id))
        self._marks["drop" if was_pending else "dropped too late"] += 1

    async def _replace_class(self, request_id: str) -> None:
        spec = replace(CLASS, max_pending_calls=self._dice.randint(100, 1_000))
        await self._insist(lambda kernel: kernel.actors.replace_class(NAMESPACE, self.name, spec, request_id))
        self._marks["another class"] += 1

    async def _result(self, call_id: str) -> None:
        while True:
            asked_s = self._now_s()
            wait_s = self._dice.choice((0.0, 1.0, 20.0))
            result = await self._insist(lambda kernel, wait_s=wait_s: kernel.actors.result(self.row, call_id, wait_s))
            if self._note(call_id, asked_s, result):
                return
            await asyncio.sleep(0.1)

    def _note(self, call_id: str, asked_s: float, result: CallResult) -> bool:
        """Remember a result, if there is one."""
        if result.value is None:
            return False
        self.log.take_result(call_id, result)
        self.log.told.append(Told(asked_s, self._now_s(), result.revision, call_id=call_id))
        self._marks["result"] += 1
        return True

    def _newest(self) -> int:
        return max((told.revision for told in self.log.told), default=0)

    async def _query(self, min_revision: int = 0) -> list[str]:
        call = MethodCall("look", NULL, is_query=True)
        while True:
            asked_s = self._now_s()
            try:
                result = await self._insist(
                    lambda kernel: kernel.actors.query(self.row, call, min_revision=min_revision, wait_s=5.0)
                )
            except errors.StartingError:
                self._marks["state too old"] += 1
                continue
            if isinstance(result.value, Failure):
                assert result.value.type in QUERY_ENDS, result.value
                self._marks[f"query ended with {result.value.type}"] += 1
                continue
            assert isinstance(result.value, Payload)
            assert result.revision >= min_revision
            seen = read(result.value)
            self.log.told.append(Told(asked_s, self._now_s(), result.revision, seen))
            self._marks["query"] += 1
            return seen

    # -------------------------------------------------------------------------- the end

    async def _see_to_the_end(self) -> None:
        for call_id in self.log.methods:
            await self._result(call_id)
        kept = self._store._runs[self.row.run_id]
        while any(task_id.startswith(".reminder") for task_id in kept.tasks):
            await asyncio.sleep(1.0)
        final = await self._query(self._newest())
        while not all(event.consumed_by for event in kept.events.values()):  # a drop that came too late
            await asyncio.sleep(1.0)
        sent = sorted(kept.events.values(), key=lambda event: event.sequence)
        order = [event.event_id for event in sent if event.key == MAIL and not event.event_id.startswith(".")]
        self.log.check(final, order)
        states = [task_id for task_id in kept.tasks if task_id.startswith(".state")]
        assert len(states) == 1, f"old versions of the state are kept: {states}"
        changes = [event.event_id for event in sent if event.event_id.startswith(".class/")]
        classes = [task_id for task_id in kept.tasks if task_id.startswith(".class/")]
        assert classes == changes[-1:], f"the class is that of {classes}, and the last one was {changes[-1:]}"
        assert all(task.spec_key in self._store._specs for task in kept.tasks.values() if task.spec_key)
        assert kept.row.status is RunStatus.RUNNING
        assert payload_of(final).data in (kept.tasks[states[0]].output or b"")

    async def _delete(self) -> None:
        """Delete the actor. Nothing is left of it."""
        with suppress(errors.ActorNotFoundError):  # an answer got lost
            await self._insist(lambda kernel: kernel.actors.delete(NAMESPACE, self.name))
        with suppress(errors.ActorNotFoundError):
            row = await self._insist(lambda kernel: kernel.actors.row(NAMESPACE, self.name))
            raise AssertionError(f"a deleted actor is there: {row}")
        assert self.row.run_id not in self._store._runs
        self._marks["delete of an actor"] += 1
