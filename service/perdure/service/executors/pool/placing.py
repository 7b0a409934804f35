"""Puts attempts onto leases.

- An idle lease is preferred to a busy one, unless the function is very short: then few leases do all the work.
- Short functions are sent in batches of some milliseconds of work. Functions of unknown or long duration are sent
  alone.
- A function of medium duration may wait behind another one, if all leases are busy and many attempts wait.
- Asynchronous functions have leases of their own, with thousands of attempts each.
- Attempts that wait behind a long one are recalled.
- An attempt that was not sent when its lease is lost runs elsewhere, without a report. One that was sent may have
  begun: it is reported, and its number is not used again. Its turn goes on until the lease's process has ended, which
  may be later than its connection.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from perdure import texts, wire
from perdure.bounded import Bounded
from perdure.engine.messages import AttemptLost, AttemptStarted
from perdure.model import Payload, Shape
from perdure.service.executors.lanes import Lanes, turn_of
from perdure.service.executors.pool.attempts import parts_of, report_of, took_ms
from perdure.service.executors.pool.durations import FUNCTIONS_REMEMBERED_MAX, Durations
from perdure.service.executors.pool.leases import Lease, PlacedAttempt, Restricted, ShapeQueue
from perdure.service.executors.pool.state import State
from perdure.service.executors.port import Attempt, Report
from perdure.service.executors.turns import Key
from perdure.storage.rows import ValueKey
from perdure.v1 import worker_service_pb2 as pb

CONCURRENT_MAX: Final = 25_000
"""Attempts of asynchronous functions that a lease may have at a time."""
CONCURRENT_SPREAD: Final = 256
"""A lease with this many shares further ones with idle leases."""
WAITING_MAX: Final = 8
"""While so many leases of a cluster wait for the engine, their CPUs are lent only to attempts that others wait for.
Else attempts that wait themselves could have any number of leases."""
EPSILON: Final = 1e-6
STUCK_S: Final = 0.05
KILL_S: Final = 1.4
"""A lease that does not answer a cancellation within this time is killed: user code holds the GIL. It is a little
longer than the grace that the lease itself gives to user code."""
NEAR_MAX: Final = 8
"""An attempt of a turn goes to the lease of the one before if that has at most this many attempts more than another."""
REMEMBERED_MAX: Final = 10_000
"""Tasks that returned graphs, and turns, with their leases. If one is forgotten, the next attempt runs anywhere."""


class Placing:
    """Attempts from their submission to their end. There is no asyncio task per attempt."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._queued: dict[Key, Attempt] = {}
        self._placed: dict[Key, tuple[Lease, PlacedAttempt]] = {}
        self._cancelled: dict[int, tuple[Lease, float]] = {}  # by token: the lease, and when it was cancelled
        self._lanes = Lanes()  # of the placed attempts
        self._forsaken: dict[Lease, float] = {}  # lost with their agents: when they have certainly ended
        self._durations = Durations()
        # Attempts of a forgotten async function share no lease until a lease says again that it is one.
        self._concurrent: Bounded[str, bool] = Bounded(FUNCTIONS_REMEMBERED_MAX)
        self._ran_by: Bounded[tuple[str, str], Lease] = Bounded(REMEMBERED_MAX)  # by run, and task or turn
        self._tokens = itertools.count(1)
        self.cached: Callable[[ValueKey], Payload | None] = lambda _key: None
        state.agents_changed = self._queue_again

    # -------------------------------------------------------------------------- from the scheduler

    def submit(self, attempt: Attempt) -> None:
        key = attempt.key
        if key in self._queued or key in self._placed:
            return
        if self._lanes.waits(attempt):
            return
        if (lease := self._beside(attempt)) is not None:
            self._put(lease, attempt, is_concurrent=self._is_concurrent(attempt))
            return
        self._enqueue(attempt)
        self._state.stir()

    def cancel(self, key: Key) -> None:
        if (attempt := self._queued.pop(key, None)) is not None:
            self._state.shapes[attempt.shape].remove(attempt)
        elif (found := self._placed.get(key)) is not None:
            lease, placed = found
            if not placed.is_cancelled:
                placed.is_cancelled = True
                lease.cancelling += 1
                self._cancelled[placed.token] = (lease, self._state.now_s())
                lease.send_cancel(placed.token)
        else:
            self._lanes.drop(key)

    def loading(self, key: Key) -> str:
        """Where an attempt is whose function takes long to load; "" otherwise."""
        found = self._placed.get(key)
        return "" if found is None else found[1].loading

    def queued(self, key: Key) -> tuple[Attempt, ShapeQueue] | None:
        """An attempt that waits, and its queue; None if it does not wait."""
        attempt = self._queued.get(key)
        return None if attempt is None else (attempt, self._state.shapes[attempt.shape])

    def drop_all(self, queue: ShapeQueue) -> list[Attempt]:
        """Remove all attempts from a queue. They will not run."""
        dropped = []
        while queue.is_wanted:
            attempt = queue.take() if queue.alone else queue.take_together()
            del self._queued[attempt.key]
            dropped.append(attempt)
        return dropped

    def _is_concurrent(self, attempt: Attempt) -> bool:
        return self._concurrent.get(attempt.call.function.key) is not None

    def _beside(self, attempt: Attempt) -> Lease | None:
        """The lease that the work asks for, unless it is gone or busy with a long attempt."""
        lease = self._ran_by.get((attempt.run_id, attempt.beside)) if attempt.beside else None
        if lease is None or lease.is_gone or not lease.takes(self._is_concurrent(attempt)):
            return None
        if not lease.in_flight and not self.may_begin(lease):
            return None
        agents = self._state.agents_with(attempt.call.function)
        if agents is not None and lease.agent_id not in agents:
            return None
        return None if lease.is_stuck(self._state.now_s(), STUCK_S) else lease

    def _enqueue(self, attempt: Attempt, *, first: bool = False) -> None:
        attempt = self._restricted(attempt)
        self._queued[attempt.key] = attempt
        self._state.queue_of(attempt.shape).add(attempt, first=first, together=self._is_concurrent(attempt))

    def _restricted(self, attempt: Attempt) -> Attempt:
        """The attempt, for the agents that have its function now."""
        agents = self._state.agents_with(attempt.call.function)
        shape = attempt.shape
        if agents is None and not isinstance(shape, Restricted):
            return attempt
        parts = shape.resources, shape.runtime_env, shape.scheduling, shape.keep_warm_ms
        return replace(attempt, shape=Shape(*parts) if agents is None else Restricted(*parts, agents))

    def _queue_again(self) -> None:
        """Agents came or went: attempts of registered functions may go elsewhere."""
        for key, attempt in list(self._queued.items()):
            if (moved := self._restricted(attempt)).shape != attempt.shape:
                self._state.shapes[attempt.shape].remove(attempt)
                del self._queued[key]
                self._enqueue(moved)
        for shape, queue in list(self._state.shapes.items()):
            if isinstance(shape, Restricted) and not queue.is_wanted and not queue.leases:
                del self._state.shapes[shape]  # agents have new ids when they come back, so it may never be used again

    # -------------------------------------------------------------------------- from leases

    def take_message(self, lease: Lease, message: pb.ServeLeaseRequest) -> None:
        """Apply a message of a lease about its attempts, and report the changes."""
        now_s, now_ms = self._state.now_s(), self._state.clock()
        was_busy = bool(lease.in_flight)
        reports: list[tuple[str, Report]] = []
        for function in message.concurrent:
            self._learn_concurrent(lease, function)
        for token, started_ms in zip(message.started, message.started_ms, strict=True):
            placed = lease.in_flight.get(token)
            if placed is not None and not placed.is_cancelled:
                placed.began_s = now_s
                attempt = placed.attempt
                reports.append((attempt.run_id, AttemptStarted(attempt.task_id, attempt.number, now_ms, started_ms)))
        for told in message.loading:
            if (placed := lease.in_flight.get(told.token)) is not None:
                placed.loading = texts.storable(told.stack)[-wire.STACK_CHARS_MAX :]
        for wait in message.waits:
            if (placed := lease.in_flight.get(wait.token)) is not None:
                lease.wait(placed, now_s, is_over=wait.is_over)
                if lease.is_waiting:
                    self.recall(lease)  # it may wait for one of these
        for receipt in message.receipts:
            placed = lease.in_flight.get(receipt.token)
            if placed is not None:
                took = took_ms(receipt)
                self._end(lease, placed, receipt, took)
                if not placed.is_cancelled:
                    reports.append((placed.attempt.run_id, report_of(placed.attempt, receipt, took, now_ms)))
        for token in message.returned:
            placed = lease.in_flight.get(token)
            if placed is not None:
                self._take_off(lease, placed)
                if not placed.is_cancelled:
                    self._enqueue(placed.attempt, first=True)
        if was_busy and not lease.in_flight:
            lease.idle_since_s = now_s
        self._state.send(reports)

    def _learn_concurrent(self, lease: Lease, function: str) -> None:
        lease.regroup(function)
        if function not in self._concurrent:
            for queue in self._state.shapes.values():
                queue.regroup(function)
        self._concurrent.keep(function, True)

    def _end(self, lease: Lease, placed: PlacedAttempt, receipt: pb.Receipt, took: float | None) -> None:
        self._take_off(lease, placed)
        attempt = placed.attempt
        if took is not None:
            self._durations.learn(attempt.call.function.key, took)
        if receipt.WhichOneof("result") == "continuation":
            self._ran_by.keep((attempt.run_id, attempt.task_id), lease)
        if attempt.turn:
            self._ran_by.keep((attempt.run_id, attempt.turn), lease)

    def lose(self, lease: Lease, reason: str) -> None:
        """A lease is gone. Attempts that were sent may have begun, although no message that says so arrived: they are
        reported as lost. Those behind the first one cost no retry, unless they began. Attempts that were not sent go
        back to their queues.

        While the service ends, its leases end with it. Their attempts are then not reported, so they cost no retry: a
        restart makes them again.
        """
        if lease.is_gone:
            return
        self._state.remove(lease)
        reports: list[tuple[str, Report]] = []
        back: list[Attempt] = []
        now_ms = self._state.clock()
        for position, placed in enumerate(list(lease.in_flight.values())):
            attempt = placed.attempt
            if attempt.turn and placed.is_sent and not lease.has_ended:
                lease.turns.append(turn_of(attempt))
            self._take_off(lease, placed)
            if placed.is_cancelled or self._state.is_draining:
                continue
            if placed.is_sent:
                # The first one may be the cause of the loss, even if it is not known to have begun.
                is_free = position > 0 and placed.began_s is None
                reports.append((attempt.run_id, AttemptLost(attempt.task_id, attempt.number, reason, now_ms, is_free)))
            else:
                back.append(attempt)
        for attempt in reversed(back):
            self._enqueue(attempt, first=True)
        self._state.send(reports)

    def _take_off(self, lease: Lease, placed: PlacedAttempt) -> None:
        attempt = placed.attempt
        lease.remove(placed)
        self._placed.pop(attempt.key, None)
        self._cancelled.pop(placed.token, None)
        if attempt.turn and turn_of(attempt) in lease.turns:
            self._go_on(self._lanes.clear((attempt.run_id, attempt.task_id)))
        else:
            self._go_on(self._lanes.leave(attempt))

    def _go_on(self, freed: Iterable[Attempt]) -> None:
        """Let attempts go on that waited for others to end."""
        for attempt in freed:
            if not self._lanes.waits(attempt):
                self._enqueue(attempt)

    def ended(self, lease: Lease) -> None:
        """The process of a lease has ended: so have its attempts."""
        lease.has_ended = True
        self._forsaken.pop(lease, None)
        turns, lease.turns = lease.turns, []
        for turn in turns:
            self._go_on(self._lanes.clear(turn))

    def forsake(self, lease: Lease, after_s: float) -> None:
        """Nobody will tell when the process of a lost lease ends. It does in this time."""
        if lease.turns:
            self._forsaken[lease] = self._state.now_s() + after_s

    def end_forsaken(self, now_s: float) -> None:
        for lease in [lease for lease, until_s in self._forsaken.items() if until_s <= now_s]:
            self.ended(lease)

    # -------------------------------------------------------------------------- placing

    def place(self, queue: ShapeQueue) -> None:
        """Put waiting attempts onto the leases of their shape, as far as there is room."""
        leases = [lease for lease in queue.ready() if not lease.cancelling]
        if queue.together:
            self._place_together(queue, leases)
        if not queue.alone:
            return
        now_s = self._state.now_s()
        leases = [lease for lease in leases if not lease.concurrent and not lease.is_stuck(now_s, STUCK_S)]
        leases = [lease for lease in leases if not lease.waits]
        # The memory of a GPU is free again when the process ends.
        is_single = bool(queue.shape.resources.num_gpus) and not queue.shape.keep_warm_ms
        whole = [lease for lease in leases if not lease.borrowed]
        hosts = [] if queue.shape.resources.num_gpus or queue.shape.keep_warm_ms else whole
        host: Lease | None = None
        idle = [lease for lease in reversed(leases) if not lease.in_flight]
        while queue.alone:
            attempt = queue.line.head()
            if (host := self._sharing(attempt, hosts, host)) is not None:
                self._put(host, queue.take())
                continue
            if not idle:
                break
            lease = self._near(attempt, idle)
            if lease is None:
                lease = idle.pop()
            else:
                idle.remove(lease)
            if self.may_begin(lease) and (queue.awaited or self._takes_any(lease)):
                self._put(lease, queue.take())
                if is_single:
                    lease.finish()
        if is_single:
            return
        while whole and (line := queue.line):  # all are busy: batches of short work
            attempt = line.head()
            least = min(whole, key=lambda lease: len(lease.in_flight))
            if len(least.in_flight) >= self._durations.room(attempt.call.function.key):
                return
            near = self._near(attempt, whole)
            if near is not None and len(near.in_flight) <= len(least.in_flight) + NEAR_MAX:
                least = near
            self._put(least, line.take())

    def _sharing(self, attempt: Attempt, leases: list[Lease], last: Lease | None) -> Lease | None:
        """One of these leases that works, and shall take a very short attempt as well although others are idle. `last`
        is the one that took the attempt before."""
        most = self._durations.sharing(attempt.call.function.key) if leases else 0
        if not most:
            return None
        near = self._near(attempt, leases)
        for lease in (near, last):
            if lease is not None and lease.shares(most):
                return lease
        sharing = [lease for lease in leases if lease.shares(most)]
        return max(sharing, key=lambda lease: len(lease.in_flight), default=None)

    def _near(self, attempt: Attempt, leases: list[Lease]) -> Lease | None:
        """The one of these leases that ran the attempt's turn last: it may still have the objects that are needed."""
        if not attempt.turn:
            return None
        last = self._ran_by.get((attempt.run_id, attempt.turn))
        return last if last in leases else None

    def may_begin(self, lease: Lease) -> bool:
        """Whether there are CPUs for a lease that is idle, and holds not all of its own."""
        agent = self._state.agents.get(lease.agent_id)
        return not lease.borrowed or (agent is not None and agent.lendable() > lease.borrowed - EPSILON)

    def _takes_any(self, lease: Lease) -> bool:
        """Whether a lease may begin an attempt that no other one waits for."""
        agent = self._state.agents.get(lease.agent_id)
        return not lease.borrowed or (agent is not None and agent.waiting() < WAITING_MAX)

    def _place_together(self, queue: ShapeQueue, leases: list[Lease]) -> None:
        """Put asynchronous functions onto few leases, and never beside synchronous ones, which would wait for them."""
        hosts = [lease for lease in leases if lease.concurrent]
        idle = [lease for lease in leases if not lease.in_flight]
        while queue.together:
            least = min(hosts, key=lambda lease: len(lease.in_flight), default=None)
            while idle and not self.may_begin(idle[-1]):
                idle.pop()
            if idle and (least is None or len(least.in_flight) >= CONCURRENT_SPREAD):
                least = idle.pop()
                hosts.append(least)
            if least is None or len(least.in_flight) >= CONCURRENT_MAX:
                return
            self._put(least, queue.take_together(), is_concurrent=True)

    def look_ahead(self, queue: ShapeQueue, now_s: float) -> None:
        """Send one more attempt to leases that will soon be done, unless a new lease is starting. This is done only
        while more attempts than leases wait, so that a lease that becomes idle always finds one in the queue."""
        if queue.starting():
            return
        for lease in queue.ready():
            if queue.alone <= len(queue.leases) or not self._durations.is_brief(queue.line.head().call.function.key):
                return
            if (
                len(lease.in_flight) == 1
                and not lease.cancelling
                and not lease.waits
                and not lease.is_stuck(now_s, STUCK_S)
            ):
                (placed,) = lease.in_flight.values()
                if not placed.is_concurrent and self._durations.is_brief(placed.attempt.call.function.key):
                    self._put(lease, queue.take())

    def _put(self, lease: Lease, attempt: Attempt, *, is_concurrent: bool = False) -> None:
        is_tiny = self._durations.sharing(attempt.call.function.key) > 0
        placed = PlacedAttempt(attempt, next(self._tokens), is_concurrent, is_tiny)
        self._queued.pop(attempt.key, None)
        lease.add(placed)
        self._placed[attempt.key] = (lease, placed)
        self._lanes.enter(attempt)
        lease.send(parts_of(attempt, placed.token, self.cached), placed)

    # -------------------------------------------------------------------------- as time goes by

    def recall(self, lease: Lease) -> None:
        """Ask the lease to return the attempts that it has not begun, except the first. So every lease gets something
        done, even if others wait for its resources when it starts."""
        behind = itertools.islice(lease.in_flight.values(), 1, None)
        unbegun = [placed for placed in behind if placed.began_s is None and not placed.is_recalled]
        for placed in unbegun:
            placed.is_recalled = True
        if unbegun:
            lease.send_recall(placed.token for placed in unbegun)

    def recall_stuck(self, queue: ShapeQueue, now_s: float) -> None:
        """Recall the attempts that wait behind a long one, so that they run elsewhere."""
        for lease in queue.ready():
            if len(lease.in_flight) > 1 and lease.is_stuck(now_s, STUCK_S):
                self.recall(lease)

    def kill_unyielding(self, now_s: float) -> None:
        """Kill the leases that did not end a cancelled attempt in time."""
        for token, (lease, since_s) in list(self._cancelled.items()):
            if now_s - since_s >= KILL_S:
                self._cancelled[token] = (lease, now_s)
                self._state.kill(lease)
