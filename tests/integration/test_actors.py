"""Virtual actors through a real server, on every store."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest

import perdure
from perdure import actorcalls, actorwire, errors, wire
from perdure.arguments import encode_arguments
from perdure.connection import AGE_KEY, REPEAT_KEY
from perdure.model import MethodCall
from perdure.service.operations import actors
from perdure.v1 import actor_service_pb2 as pb
from perdure.v1 import (
    actor_service_pb2_grpc,
    payload_pb2,
    spec_pb2,
    worker_service_pb2,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)


@perdure.actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    @perdure.method
    def incr(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @perdure.method
    def fail(self) -> None:
        self.value += 1_000
        raise LookupError("no such thing")

    @perdure.readonly
    def read(self) -> int:
        self.value += 1  # dropped
        return self.value - 1


async def test_calls_change_the_state_in_order(client: perdure.Client) -> None:
    counter = client.actor(Counter, "c", 5)

    assert await counter.incr(10) == 15
    assert await counter.incr() == 16
    assert await counter.read() == 16
    info = await client.actors.info("c")
    assert (info.status, info.revision, info.pending_calls, info.readonly_methods) == ("READY", 3, 0, ("read",))


async def test_call_from_many_callers_each_counts_once(client: perdure.Client) -> None:
    counter = client.actor(Counter, "c")

    results = await asyncio.gather(*[counter.incr() for _ in range(40)])

    assert sorted(results) == list(range(1, 41))
    assert await counter.read() == 40


async def test_repeated_request_id_gets_the_first_result(client: perdure.Client) -> None:
    counter = client.actor(Counter, "c")

    assert await counter.incr.options(request_id="once")(3) == 3
    assert await counter.incr() == 4
    assert await counter.incr.options(request_id="once")(3) == 3
    assert await counter.read() == 4


async def test_failing_method_leaves_the_state_and_the_next_call_works(client: perdure.Client) -> None:
    counter = client.actor(Counter, "c")
    await counter.incr()

    with pytest.raises(errors.ActorCallError, match=r"fail of actor 'c' failed: .*LookupError") as failed:
        await counter.fail()

    assert isinstance(failed.value.__cause__, LookupError)
    assert await counter.incr() == 2


async def test_started_call_is_durable_and_has_its_result_later(client: perdure.Client) -> None:
    counter = client.actor(Counter, "c")

    started = await counter.incr.start(7)

    assert await started.output() == 7
    assert [call.status async for call in client.actors.calls("c")] == ["SUCCESSFUL"]


async def test_call_with_another_expected_revision_fails(client: perdure.Client) -> None:
    counter = client.actor(Counter, "c")
    await counter.incr()

    with pytest.raises(errors.ActorCallError) as failed:
        await counter.incr.options(expected_revision=1)()

    assert failed.value.failure.type == "perdure.ActorRevisionMismatch"
    assert await counter.incr.options(expected_revision=2)() == 2


async def test_deleted_actor_begins_anew(client: perdure.Client) -> None:
    counter = client.actor(Counter, "c")
    await counter.incr()

    await client.actors.delete("c")
    with pytest.raises(errors.ActorNotFoundError):
        await client.actors.info("c")

    assert await counter.incr() == 1


async def test_failing_constructor_fails_the_actor_until_it_is_made_anew(client: perdure.Client) -> None:
    @perdure.actor
    class Picky:
        def __init__(self, word: str) -> None:
            if word == "bad":
                raise ValueError(word)
            self.word = word

        @perdure.method
        def say(self) -> str:
            return self.word

    with pytest.raises(errors.ActorFailedError, match="ValueError: bad"):
        await client.actor(Picky, "p", "bad").say()
    with pytest.raises(errors.ActorFailedError, match="ValueError: bad"):
        await client.actors.call("p", "say")

    assert await client.actor(Picky, "p", "good").say() == "good"


async def test_ids_of_workflows_are_no_actors(client: perdure.Client) -> None:
    await client.run(_one.bind(), workflow_id="w")
    await client.actor(Counter, "c").incr()

    with pytest.raises(errors.WrongKindError):
        await client.actor(Counter, "w").incr()
    with pytest.raises(errors.WrongKindError):
        await client.start(_one.bind(), workflow_id="c")
    with pytest.raises(errors.WrongKindError):
        await client.cancel("c")
    with pytest.raises(errors.WrongKindError):
        await client.handle("c").output()
    with pytest.raises(errors.BatchError) as failed:
        await client.outputs([client.handle("w"), client.handle("c")])
    assert failed.value.results[0] == 1
    assert isinstance(failed.value.results[1], errors.WrongKindError)
    assert await client.actor(Counter, "c").incr() == 2


@perdure.actor(timeout=0.3, max_retries=0)
class Impatient:
    @perdure.readonly
    async def read(self) -> None:
        await asyncio.Event().wait()

    @perdure.method
    async def change(self) -> None:
        await asyncio.Event().wait()

    @perdure.readonly
    def well(self) -> str:
        return "well"


async def test_calls_and_queries_end_at_the_time_limit_of_the_class(client: perdure.Client) -> None:
    impatient = client.actor(Impatient, "i")

    for method in (impatient.change, impatient.read):
        with pytest.raises(errors.ActorCallError) as failed:
            await method()
        assert failed.value.failure.type == "perdure.AttemptTimeout"
    assert await impatient.well() == "well"


async def test_watch_of_an_actor_tells_of_its_calls_and_other_watches_do_not(
    client: perdure.Client, channel: grpc.aio.Channel
) -> None:
    watch = workflow_service_pb2_grpc.WorkflowServiceStub(channel).Watch
    everything = aiter(watch(workflow_service_pb2.WatchRequest()))
    await anext(everything)
    counter = client.actor(Counter, "c")
    await counter.incr()

    seen: list[tuple[str, str]] = []
    async for told in watch(workflow_service_pb2.WatchRequest(workflow_ids=["c"], include_tasks=True)):
        if not seen:
            await counter.incr.options(request_id="watched").start()
        calls = [event.task.task for event in told.events if event.WhichOneof("kind") == "task"]
        seen += [(call.task_id, call.function_name) for call in calls if call.status == 5]
        if ("watched", "incr") in seen:
            break
    await client.actors.delete("c")
    await client.run(_one.bind(), workflow_id="w")

    told = await anext(everything)
    assert {event.workflow.workflow_id or event.deleted_workflow_id for event in told.events} == {"w"}


@perdure.actor(max_pending_calls=3)
class Slow:
    def __init__(self) -> None:
        self.calls = 0

    @perdure.method
    def wait_for(self, path: str) -> int:
        with open(path) as pipe:  # until somebody opens it to write
            pipe.read()
        self.calls += 1
        return self.calls


async def test_full_mailbox_refuses_calls_but_no_repeats(client: perdure.Client, tmp_path: Path) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    slow = client.actor(Slow, "s")
    started = [await slow.wait_for.options(request_id=str(number)).start(pipe) for number in range(3)]

    with pytest.raises(errors.MailboxFullError) as refused:
        await slow.wait_for.start(pipe)
    await slow.wait_for.options(request_id="1").start(pipe)

    assert refused.value.fields["max_pending_calls"] == "3"
    assert await started[2].drop()
    for call in started[:2]:
        await asyncio.to_thread(Path(pipe).write_text, "go")
        await call.output()
    with pytest.raises(errors.ActorCallError, match="was dropped"):
        await started[2].output()


async def test_dropped_call_leaves_its_turn_to_the_next(client: perdure.Client, tmp_path: Path) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    counter = client.actor(Waiting, "w")
    stuck = await counter.wait_for.start(pipe)
    following = await counter.count.start()

    assert await stuck.drop()

    assert await following.output() == 1
    assert not await stuck.drop()
    assert [call.status async for call in client.actors.calls("w")] == ["FAILED", "SUCCESSFUL"]


@perdure.actor
class Waiting:
    def __init__(self) -> None:
        self.calls = 0

    @perdure.method
    async def wait_for(self, path: str) -> None:
        self.calls += 100
        while not os.path.exists(path + ".never"):
            await asyncio.sleep(0.01)

    @perdure.method
    def count(self) -> int:
        self.calls += 1
        return self.calls


@perdure.actor
class Asking:
    @perdure.method
    def ask(self) -> str:
        return cast(str, perdure.event("answer"))


async def test_call_runs_as_long_as_the_graph_that_it_returned(client: perdure.Client) -> None:
    asking = client.actor(Asking, "a")
    call = await asking.ask.start()
    async for task in client.handle("a").watch():
        if task.task is not None and task.task.function == "event":
            break

    assert [told.status async for told in client.actors.calls("a", only_pending=True)] == ["RUNNING"]
    await client.send_event("a", "answer", "yes")
    assert await call.output() == "yes"
    assert [told.status async for told in client.actors.calls("a")] == ["SUCCESSFUL"]


async def test_lists_are_of_actors_or_of_workflows(client: perdure.Client) -> None:
    await client.run(_one.bind(), workflow_id="w")
    for name in ("a", "b", "c"):
        await client.actor(Counter, name).incr()

    assert [actor.actor_id async for actor in client.actors.list(page_size=2)] == ["c", "b", "a"]
    assert [actor.actor_id async for actor in client.actors.list('actor_id = "b"')] == ["b"]
    assert [actor.actor_id async for actor in client.actors.list("class_name: nothing")] == []
    assert [run.workflow_id async for run in client.list()] == ["w"]
    with pytest.raises(errors.InvalidFilterError, match=r"there are actor_id, class_name, create_time, labels.KEY"):
        _ = [actor async for actor in client.actors.list("status = RUNNING")]


@perdure.task
def _one() -> int:
    return 1


@perdure.task
def _double(number: int) -> int:
    return 2 * number


@perdure.actor
class Doubler:
    def __init__(self) -> None:
        self.value = 21

    @perdure.method
    def doubled(self) -> int:
        return _double.bind(self.value)


async def test_method_that_changes_nothing_may_return_a_graph(client: perdure.Client) -> None:
    doubler = client.actor(Doubler, "d")
    assert [await doubler.doubled(), await doubler.doubled()] == [42, 42]
    assert (await client.actors.info("d")).revision == 1


@perdure.actor
class Chained:
    def __init__(self) -> None:
        self.value = 1
        self.large = bytes(100_000)
        self.path: list[str] = []

    def activate(self) -> None:
        self.lock = threading.Lock()

    @perdure.method
    def double(self, update: bool) -> int:
        self.path.append("double")
        doubled = _double.bind(self.value)
        return self.update.bind(doubled) if update else doubled

    @perdure.method
    def update(self, value: int) -> int:
        with self.lock:
            self.path.append("update")
            self.value = value
            return self.value

    @perdure.method
    async def later(self, times: int) -> int:
        await asyncio.sleep(0)
        return self.later.bind(times - 1) if times else self.value

    @perdure.method
    def spoil(self) -> None:
        self.lock = None
        self.other = threading.Lock()

    @perdure.readonly
    def read(self) -> tuple[int, list[str], int]:
        return self.value, self.path, len(self.large)


async def test_graph_of_a_method_calls_other_methods_of_the_actor(client: perdure.Client) -> None:
    actor = client.actor(Chained, "c")

    assert [await actor.double(False), await actor.double(False)] == [2, 2]
    assert [await actor.double(True), await actor.double(True)] == [2, 4]
    assert await actor.later(3) == 4
    assert await actor.read() == (4, ["double", "double", "double", "update", "double", "update"], 100_000)


async def test_state_that_cannot_be_stored_fails_its_call_only(client: perdure.Client) -> None:
    actor = client.actor(Chained, "c")
    await actor.update(5)

    with pytest.raises(errors.ActorCallError, match=r"the field 'other' of the actor, a .*Chained, cannot travel"):
        await actor.spoil()

    assert await actor.update(6) == 6


@perdure.actor
class Caller:
    @perdure.method
    async def call(self, others: list[str]) -> list[str]:
        if not others:
            return list(perdure.context().chain)
        return await Caller.get(others[0]).call(others[1:])


async def test_calls_between_actors_know_who_waits_and_refuse_cycles(client: perdure.Client) -> None:
    first = client.actor(Caller, "first")

    assert await first.call(["second", "third"]) == ["default/first", "default/second", "default/third"]
    with pytest.raises(errors.ActorCallError, match=r"first.*second.*first"):
        await first.call(["second", "first"])
    assert await first.call([]) == ["default/first"]


async def test_deletion_fails_the_calls_that_wait_and_runs_none_again(
    client: perdure.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = asyncio.Event()

    async def output(self: Any, *args: Any, **kwargs: Any) -> Any:
        polls.set()
        return await original(self, *args, **kwargs)

    original = actorcalls.ActorCalls._output
    monkeypatch.setattr(actorcalls.ActorCalls, "_output", output)
    monkeypatch.setattr(actorcalls, "POLL_S", 0.2)
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    waiting = client.actor(Waiting, "w")
    calls = []
    for call in (waiting.wait_for(pipe), waiting.count()):
        calls.append(asyncio.create_task(call))
        await polls.wait()  # it is recorded
        polls.clear()

    await client.actors.delete("w")

    for waits in calls:
        with pytest.raises(errors.ActorCallError, match="deleted"):
            await waits
    with pytest.raises(errors.ActorNotFoundError):
        await client.actors.info("w")


async def test_repeated_call_of_a_deleted_actor_fails(channel: grpc.aio.Channel, client: perdure.Client) -> None:
    stub = actor_service_pb2_grpc.ActorServiceStub(channel)
    await client.actor(Counter, "c").incr.options(request_id="r")()
    await client.actors.delete("c")
    await client.actor(Counter, "c").incr()
    request = pb.CallActorRequest(actor_id="c", method="incr", request_id="r")

    answer = await stub.CallActor(request, metadata=((REPEAT_KEY, "1"), (AGE_KEY, "60000")))

    assert answer.done
    assert answer.outcome.failure.type == "perdure.ActorDeleted"
    assert await client.actor(Counter, "c").incr() == 2


async def test_timeout_of_a_call_bounds_the_wait_for_the_constructor(client: perdure.Client, tmp_path: Path) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)

    with pytest.raises(TimeoutError, match="was not made in time"):
        await client.actor(MadeByPipe, "m", pipe).count.options(timeout=0.2)()

    await asyncio.to_thread(Path(pipe).write_text, "go")
    assert await client.actor(MadeByPipe, "m", pipe).count() == 1


@perdure.actor
class MadeByPipe:
    def __init__(self, path: str) -> None:
        self.text = Path(path).read_text()

    @perdure.method
    def count(self) -> int:
        return 1


async def test_result_of_an_unknown_call_is_not_waited_for_without_end(
    client: perdure.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "UNKNOWN_S", 0.1)
    monkeypatch.setattr(actorcalls, "POLL_S", 0.2)
    assert await client.actor(Counter, "c").incr() == 1

    with pytest.raises(errors.TaskNotFoundError, match="has no call 'never'"):
        await client.actors.output("c", "never")


# ------------------------------------------------------------------------------ requests that no client of ours sends


async def test_malformed_and_missing_arguments_are_refused(channel: grpc.aio.Channel, client: perdure.Client) -> None:
    stub = actor_service_pb2_grpc.ActorServiceStub(channel)
    await client.actor(Counter, "c").incr()
    gone = payload_pb2.Payload(encoding="json/plain", blob=payload_pb2.BlobRef(sha256="0" * 64, size_bytes=1))
    garbage = payload_pb2.Payload(encoding=wire.ARGUMENTS, data=b"\xff")
    composed = worker_service_pb2.Arguments(args=[spec_pb2.Arg(payload=gone)]).SerializeToString()
    for arguments, code in (
        (pb.MethodArguments(arguments=garbage), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.MethodArguments(args=[gone]), grpc.StatusCode.NOT_FOUND),
        (
            pb.MethodArguments(arguments=payload_pb2.Payload(encoding=wire.ARGUMENTS, data=composed)),
            grpc.StatusCode.NOT_FOUND,
        ),
    ):
        requests: list[tuple[Any, Any]] = [
            (stub.CallActor, pb.CallActorRequest(actor_id="c", method="incr", arguments=arguments, request_id="r")),
            (stub.QueryActor, pb.QueryActorRequest(actor_id="c", method="read", arguments=arguments)),
        ]
        for call, request in requests:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(request)
            assert refused.value.code() is code
    assert [call async for call in client.actors.calls("c", only_pending=True)] == []


async def test_events_are_no_calls(channel: grpc.aio.Channel, client: perdure.Client) -> None:
    await client.actor(Counter, "c").incr()
    forged = MethodCall("incr", encode_arguments((), {}, lambda _: None)[0], call_id="forged")
    payload = payload_pb2.Payload()
    wire.fill_payload(payload, actorwire.encode_call(forged))
    stub = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
    event = workflow_service_pb2.EventItem(workflow_id="c", event_key=".call", event_id="1", payload=payload)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.SendEvent(
            workflow_service_pb2.SendEventRequest(workflow_id="c", event_key=".call", event_id="1", payload=payload)
        )
    answer = await stub.BatchSendEvents(workflow_service_pb2.BatchSendEventsRequest(items=[event]))

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert answer.results[0].HasField("error")
    assert await client.actor(Counter, "c").incr() == 2


decorated: Any = Counter  # for type checkers no base of a class


@perdure.actor
class Savings(decorated):
    @perdure.method
    def double(self) -> int:
        return self.incr(self.value)


async def test_a_query_that_takes_too_long_says_so(client: perdure.Client) -> None:
    counter: Any = client.actor(Counter, "c")
    assert await counter.incr() == 1
    with pytest.raises(TimeoutError, match="the query 'read' of actor 'c' had no result in time"):
        await counter.read.options(min_revision=100, timeout=0.1)()


async def test_a_class_derives_from_a_class_of_actors(client: perdure.Client) -> None:
    savings: Any = client.actor(Savings, "s", 20)

    assert await savings.incr() == 21
    assert await savings.double() == 42
    assert await savings.read() == 42


@perdure.actor
class Bill:
    @perdure.method
    def approve(self, key: str) -> Any:
        return perdure.event(key)

    @perdure.method
    def get_up_to_date(self) -> None:
        """Its turn comes once the actor has the events that were sent before."""


async def test_events_that_no_graph_takes_are_bounded(
    channel: grpc.aio.Channel, client: perdure.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.service.operations.events.EVENTS_MAX", 3)
    await client.actors.get_or_create(Bill.definition, "b", (), waits=True)
    for number in range(3):
        await client.send_event("b", "key", number, event_id=str(number))
    await client.actor(Bill, "b").get_up_to_date()
    with pytest.raises(errors.MailboxFullError) as refused:
        await client.send_event("b", "key", 3, event_id="3")
    assert refused.value.fields["actor_id"] == "b"
    await client.send_event("b", "key", 0, event_id="0")  # a repeat changes nothing

    item = partial(workflow_service_pb2.EventItem, workflow_id="b", event_key="key")
    items = [item(event_id=event_id) for event_id in ("1", "4")]
    stub = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
    answer = await stub.BatchSendEvents(workflow_service_pb2.BatchSendEventsRequest(items=items))
    assert [result.HasField("error") for result in answer.results] == [False, True]

    assert await client.actor(Bill, "b").approve("key") == 0
    await client.send_event("b", "key", 3, event_id="3")
    assert [await client.actor(Bill, "b").approve("key") for _ in range(3)] == [1, 2, 3]


@perdure.actor
class Gated(perdure.Actor):
    """Its constructor waits for a file."""

    def __init__(self, gate: str) -> None:
        while not Path(gate).exists():
            time.sleep(0.01)
        self.value = 0

    @perdure.method
    def incr(self) -> int:
        self.value += 1
        return self.value


async def test_caller_makes_an_actor_anew_that_was_deleted_while_it_was_made(
    client: perdure.Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    call = asyncio.create_task(client.actor(Gated, "g", str(gate)).incr())
    made = await first_made(client)
    await client.actors.delete("g")
    while await first_made(client) == made:
        await asyncio.sleep(0.01)
    gate.touch()
    assert await call == 1


async def first_made(client: perdure.Client) -> datetime | None:
    """When the actor of that id was made."""
    while True:
        try:
            return (await client.actors.info("g")).created
        except errors.ActorNotFoundError:
            await asyncio.sleep(0.01)
