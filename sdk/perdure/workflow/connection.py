"""The connection of this package to an engine.

In a task of a workflow it is the engine that runs the task, and the namespace of the run. Elsewhere it is the engine
that PERDURE_ADDRESS or `init(address=)` names, or else that of this process's Ray cluster, which is started when it is
first needed. PERDURE_NAMESPACE names the namespace. One loop thread, and one client per engine and namespace, serve
all threads of the process.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from perdure import errors
from perdure.client import Client
from perdure.context import context, is_bound
from perdure.loopthread import LoopThread
from perdure.model import DEFAULT_NAMESPACE
from perdure.workflow import engines, outcomes

T = TypeVar("T")

PATIENCE_S: Final = 60.0
"""Longer than the restart of an engine takes."""


class Connection:
    """One engine and a namespace."""

    def __init__(self, address: str, namespace: str) -> None:
        self.address = address
        self.namespace = namespace

        async def make() -> Client:
            return Client(address, namespace=namespace, patience=PATIENCE_S)

        self.client = _loop().wait(make())

    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for an answer. Errors of the engine are raised as those of `exceptions`."""
        try:
            return _loop().wait(work)
        except errors.ServiceUnavailableError:
            engines.forget(self.address)
            raise
        except errors.PerdureError as error:
            raise outcomes.refused(error) from None


_thread: LoopThread | None = None
_connections: Final[dict[tuple[str, str], Connection]] = {}


def _loop() -> LoopThread:
    global _thread
    with engines.lock:
        if _thread is None:
            _thread = LoopThread("perdure-workflow")
        return _thread


def init(
    storage: str | os.PathLike[str] | None = None,
    *,
    address: str | None = None,
    max_running_workflows: int | None = None,
    max_pending_workflows: int | None = None,
) -> None:
    """Connect now, with settings. Optional: the first call of any other function connects.

    `address` (host:port) or PERDURE_ADDRESS names a running engine. Otherwise the engine of this Ray cluster is found
    or started, and Ray too if it does not run. For an engine that is started, `storage` (a folder or URL),
    PERDURE_STORAGE or RAY_WORKFLOW_STORAGE says where runs are kept, `max_running_workflows` how many run at a time,
    and `max_pending_workflows` how many more may wait (-1: any number; None: unchanged).

    A second call with the same settings has no effect; with other settings it raises ValueError. Raises
    perdure.errors.ServiceUnavailableError if no service answers at the address for a minute.
    """
    wanted = engines.Wanted.of(address, storage, max_running_workflows, max_pending_workflows)
    with engines.asking_for(wanted):
        connection = connect()
        connection.ask(connection.client.info())


def connect() -> Connection:
    """The connection of this process, made by the first call."""
    with engines.lock:
        told = context().engine if is_bound() else ""
        where = (told or engines.address(), _namespace())
        if where not in _connections:
            _connections[where] = Connection(*where)
        return _connections[where]


def _namespace() -> str:
    if is_bound():
        return context().namespace
    return os.environ.get("PERDURE_NAMESPACE") or DEFAULT_NAMESPACE


def in_main_thread_of_a_worker() -> bool:
    """Whether a `ray.get` here gives back the CPU of the Ray task while it waits."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or threading.current_thread() is not threading.main_thread():
        return False
    return bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)
