"""Which engine the functions of this package talk to, and how they wait for it.

In a task of a workflow it is the one that runs the task, and the namespace is that of the run. Elsewhere
PERDURE_ADDRESS or `init(address=)` names one; otherwise it is the engine of the Ray cluster that this process is part
of, which is started when it is first needed. PERDURE_NAMESPACE names a namespace. One loop thread, and one client for
each engine and namespace, serve every thread of the process.
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
"""An engine that died is back well before that."""


class Connection:
    """One engine and a namespace of it."""

    def __init__(self, address: str, namespace: str) -> None:
        self.address = address
        self.namespace = namespace

        async def make() -> Client:
            return Client(address, namespace=namespace, patience=PATIENCE_S)

        self.client = _loop().wait(make())

    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for an answer. What the engine refuses is raised by the names of `exceptions`."""
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
    """Connect now, and say to what. Not needed: the first call of any other function connects.

    `address` (host:port) or PERDURE_ADDRESS: an engine that runs. Otherwise the engine of this Ray cluster is found
    or started; Ray is started too if need be. For one that is started, `storage` (a folder or URL) or
    PERDURE_STORAGE says where runs are kept, `max_running_workflows` how many run at a time and
    `max_pending_workflows` how many more may wait (-1: any number; None: as it is).

    Calling it again with the same settings does nothing, with others it is a ValueError. Raises
    perdure.errors.ServiceUnavailableError if nothing answers at the address for a minute.
    """
    wanted = engines.Wanted.of(address, storage, max_running_workflows, max_pending_workflows)
    with engines.asking_for(wanted):
        connection = connect()
        connection.ask(connection.client.info())


def connect() -> Connection:
    """The connection of this process, made when it is first needed."""
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
    """Whether a `ray.get` here gives the CPU of the Ray task back while it waits."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or threading.current_thread() is not threading.main_thread():
        return False
    return bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)
