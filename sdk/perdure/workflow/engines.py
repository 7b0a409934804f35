"""Finds the engine of a program: the one it named, or that of its Ray cluster, which is started if it does not run."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from perdure import texts
from perdure.workflow import host

PASSED_ON: Final = "PERDURE_"
CLIENTS_OWN: Final = frozenset({"PERDURE_ADDRESS", "PERDURE_NAMESPACE", "PERDURE_STORAGE"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """The settings that a program wants of its engine; "" and None: any."""

    address: str = ""
    storage: str = ""
    max_running_workflows: int | None = None
    max_pending_workflows: int | None = None

    @classmethod
    def of(
        cls,
        address: object = None,
        storage: object = None,
        max_running_workflows: object = None,
        max_pending_workflows: object = None,
    ) -> Wanted:
        """Checked. Raises TypeError and ValueError."""
        return cls(
            address=_address(address),
            storage=_storage(storage),
            max_running_workflows=_limit("max_running_workflows", max_running_workflows, least=1),
            max_pending_workflows=_limit("max_pending_workflows", max_pending_workflows, least=0),
        )

    def over(self, other: Wanted) -> Wanted:
        """These settings, completed by the other ones. ValueError if they contradict each other."""
        for name in self.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine not in ("", None) and theirs not in ("", None, mine):
                raise ValueError(
                    f"this program is connected to an engine with {name}={theirs!r}; {name}={mine!r} needs another: "
                    "another process or another Ray cluster"
                )
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return replace(other, **{name: value for name, value in given.items() if value not in ("", None)})


lock: Final = threading.RLock()
"""Held while an engine is looked for, so that a program uses one engine."""
_wanted = Wanted()
_cluster: object = None
_found = ""
"""The address of the engine of `_cluster`."""


@contextmanager
def asking_for(wanted: Wanted) -> Iterator[None]:
    """Set the wanted settings, while a connection is made inside. If that fails, the earlier settings are restored.
    ValueError if they contradict earlier ones."""
    global _wanted, _found
    with lock:
        _notice_cluster()
        engine = wanted.address or _wanted.address or os.environ.get("PERDURE_ADDRESS", "")
        if engine and wanted != Wanted(address=wanted.address):
            raise ValueError(f"storage and limits are settings of the engine at {engine}: give them to `perdure serve`")
        before = (_wanted, _found)
        _wanted = wanted.over(_wanted)
        if _wanted != before[0]:
            _found = ""  # compare the settings of the engine again
        try:
            yield
        except BaseException:
            _wanted, _found = before
            raise


def address() -> str:
    """The address of the wanted engine, or of that of this Ray cluster, which is started if it does not run."""
    with lock:
        return _wanted.address or os.environ.get("PERDURE_ADDRESS", "") or _engine_of_the_cluster()


def local_address() -> str:
    """The address of the engine of this Ray cluster, which is started if it does not run."""
    with lock:
        return _engine_of_the_cluster()


def _engine_of_the_cluster() -> str:
    global _found
    start_ray()
    ray: Any = sys.modules["ray"]
    _notice_cluster()
    if not _found:
        environment = {
            name: value for name, value in os.environ.items() if name.startswith(PASSED_ON) and name not in CLIENTS_OWN
        }
        wanted = host.EngineSettings(
            storage=_wanted.storage or storage_of_environment(),
            max_running_workflows=_wanted.max_running_workflows,
            max_pending_workflows=_wanted.max_pending_workflows,
            namespace=ray.get_runtime_context().namespace,
            folder=os.getcwd(),
            paths=_import_paths(),
            environment=environment,
        )
        _found = host.find_or_start(wanted)
    return _found


def forget(address: str) -> None:
    """Look for the engine again at the next call, if this is its address."""
    global _found
    with lock:
        if address == _found:
            _found = ""


def _import_paths() -> tuple[str, ...]:
    """The folders in which workers look for the modules of the script, as Ray's workers do."""
    script = os.path.dirname(os.path.realpath(sys.argv[0])) if sys.argv and sys.argv[0] else ""
    return (script,) if script in sys.path else ()


def start_ray() -> None:
    """Start Ray with its defaults, unless the program has started it. RuntimeError for a program outside of the
    cluster."""
    import ray

    if _is_ray_client():
        raise RuntimeError(
            "this program is connected by Ray Client (ray://), and so is no part of the cluster: start it in the "
            "cluster, with `ray job submit` say; or have PERDURE_ADDRESS name a service, and do without references"
        )
    if not ray.is_initialized():
        ray.init()


def _notice_cluster() -> None:
    """If this process has joined another cluster, forget the engine of the earlier one and its wanted settings."""
    global _cluster, _found, _wanted
    cluster = _cluster_identity()
    if cluster != _cluster:
        if _cluster is not None:
            _wanted = Wanted()
        _cluster, _found = cluster, ""


def _is_ray_client() -> bool:
    client = sys.modules.get("ray.util.client")
    return client is not None and bool(client.ray.is_connected())


def _cluster_identity() -> object:
    ray = sys.modules.get("ray")
    if ray is None or _is_ray_client() or not ray.is_initialized():
        return None
    worker = ray.get_runtime_context().worker
    return (worker.gcs_client.address, worker.gcs_client.cluster_id.hex())


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a string, not {texts.kind_of(value)}")
    return value


def _address(value: object) -> str:
    text = _text("address", value)
    if text and not text.rpartition(":")[2].isdecimal():
        raise ValueError(f"address is host:port, unlike {text!r:.300}")
    return text


def _storage(value: object) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    text = _text("storage", value)
    return os.path.abspath(text) if text and not urlsplit(text).scheme else text


def storage_of_environment() -> str:
    """The storage that a variable names, "" for none. The second one was Ray's, up to 1.13."""
    return _storage(os.environ.get("PERDURE_STORAGE") or os.environ.get("RAY_WORKFLOW_STORAGE"))


def _limit(name: str, value: object, *, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is an integer or None, not {texts.kind_of(value)}")
    if value != -1 and value < least:
        raise ValueError(f"{name} is {least} or more, or -1 for no limit; not {value}")
    return value
