"""Ray Workflows, last released in Ray 2.47.1, with its files in a folder, on a Ray of its own below this process.

Steps are Ray tasks in a graph. Events come through a listener that awaits an actor.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from peer import Peer, append_line, serve

# By name: where types are checked there is a later Ray, which has no workflows.
ray: Any = importlib.import_module("ray")
workflow: Any = importlib.import_module("ray.workflow")
EventListener: Any = importlib.import_module("ray.workflow.event_listener").EventListener

HUB = "hub"
NAMESPACE = "bench"
SUBMITTERS = 128

submitting = threading.Lock()
"""Submissions change globals of the module for a moment: two at once spoil the arguments of all that follow."""


@ray.remote
def step(number: int, lines: str | None = None, before: Any = None) -> int:
    append_line(lines)
    return number


@ray.remote
def total(*numbers: int) -> int:
    return sum(numbers)


@ray.remote
def count(number: int) -> int:
    return number + 1


@ray.remote
def array(mib: int) -> Any:
    return np.arange((mib << 20) // 8, dtype=np.int64)


@ray.remote
def increased(values: Any) -> Any:
    return values + 1


@ray.remote
def last(values: Any) -> int:
    return int(values[-1])


@ray.remote
def same(value: Any) -> Any:
    return value


@ray.remote(num_cpus=0)
class Hub:
    """Gives events to the listeners that wait for them."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Future[str]] = {}

    def _event(self, name: str) -> asyncio.Future[str]:
        return self._events.setdefault(name, asyncio.get_running_loop().create_future())

    async def receive(self, name: str) -> str:
        return await self._event(name)

    async def send(self, name: str, value: str) -> None:
        self._event(name).set_result(value)


class Listener(EventListener):
    async def poll_for_event(self, name: str) -> Any:
        hub = ray.get_actor(HUB, namespace=NAMESPACE)  # a handle that outlives the call
        return await hub.receive.remote(name)


def graph(kind: str, name: str, **arguments: Any) -> Any:
    match kind:
        case "step":
            return step.bind(1)
        case "chain":
            node = None
            for number in range(arguments["length"]):
                node = step.bind(number, arguments["lines"], node)
            return count.bind(node)
        case "fan":
            return total.bind(*(step.bind(number) for number in range(arguments["width"])))
        case "payload":
            return last.bind(increased.bind(array.bind(arguments["mib"])))
        case "event":
            return same.bind(workflow.wait_for_event(Listener, name))
        case "sleep":
            return workflow.sleep(arguments["seconds"])
        case _:
            raise ValueError(kind)


class RayWorkflows(Peer):
    packages = ("ray",)
    durability = "files, never flushed: they outlive a killed process, not a power cut"
    settle_s = 0.5

    async def up(self, *, again: bool) -> None:
        self._threads = ThreadPoolExecutor(SUBMITTERS)
        self._reader = ThreadPoolExecutor(1)
        self._resumed: dict[str, Any] = {}
        await asyncio.to_thread(self._up, again)

    def _up(self, again: bool) -> None:
        storage = (self.folder / "storage").as_uri()
        quiet = {"logging_level": "error", "log_to_driver": False, "include_dashboard": False}
        ray.init("local", storage=storage, namespace=NAMESPACE, **quiet)
        workflow.init()
        self._hub = Hub.options(name=HUB).remote()
        if again:
            self._resumed = dict(workflow.resume_all(include_failed=True))

    async def stop(self) -> None:
        await asyncio.to_thread(ray.shutdown)

    async def start(self, kind: str, name: str, **arguments: Any) -> Any:
        def submit() -> Any:
            with submitting:
                return workflow.run_async(graph(kind, name, **arguments), workflow_id=name)

        return await asyncio.get_running_loop().run_in_executor(self._threads, submit)

    async def output(self, handle: Any) -> Any:
        return await handle

    async def send(self, name: str, value: str) -> None:
        await self._hub.send.remote(name, value)

    async def attach(self, name: str) -> Any:
        return asyncio.get_running_loop().run_in_executor(self._reader, self._output_after_kill, name)

    def _output_after_kill(self, name: str) -> Any:
        """One at a time: the library waits in the middle of decoding an output, and two that do so hang."""
        return ray.get(self._resumed[name]) if name in self._resumed else workflow.get_output(name)


if __name__ == "__main__":
    serve(RayWorkflows)
