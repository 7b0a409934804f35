"""Calls of actors by a synchronous client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from perdure.actorcalls import ActorCalls, ActorDefinition, Defined
from perdure.infos import ActorCallInfo, ActorInfo
from perdure.loopthread import LoopThread


class SyncActorCalls:
    """`perdure.actorcalls.ActorCalls` without await."""

    def __init__(self, thread: LoopThread, calls: ActorCalls) -> None:
        self._thread = thread
        self._calls = calls

    def get_or_create(
        self,
        definition: ActorDefinition,
        actor_id: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        waits: bool = False,
    ) -> ActorInfo:
        """See ActorCalls.get_or_create."""
        work = self._calls.get_or_create(definition, actor_id, args, kwargs, labels=labels, waits=waits)
        return self._thread.wait(work)

    def info(self, actor_id: str, *, waits: bool = False) -> ActorInfo:
        """See ActorCalls.info."""
        return self._thread.wait(self._calls.info(actor_id, waits=waits))

    def list(self, filter: str = "", *, page_size: int = 100) -> Iterator[ActorInfo]:
        """See ActorCalls.list."""
        return self._thread.iterate(self._calls.list(filter, page_size=page_size))

    def replace_class(self, actor_class: Defined, actor_id: str) -> None:
        """See ActorCalls.replace_class."""
        self._thread.wait(self._calls.replace_class(actor_class, actor_id))

    def delete(self, actor_id: str, *, allow_missing: bool = False) -> None:
        """See ActorCalls.delete."""
        self._thread.wait(self._calls.delete(actor_id, allow_missing=allow_missing))

    def start(
        self,
        actor_id: str,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> str:
        """See ActorCalls.start."""
        work = self._calls.start(
            actor_id, method, args, kwargs, request_id=request_id, expected_revision=expected_revision
        )
        return self._thread.wait(work)

    def call(
        self,
        actor_id: str,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
        timeout: float | None = None,
    ) -> Any:
        """See ActorCalls.call."""
        work = self._calls.call(
            actor_id,
            method,
            args,
            kwargs,
            request_id=request_id,
            expected_revision=expected_revision,
            timeout=timeout,
        )
        return self._thread.wait(work)

    def output(self, actor_id: str, call_id: str, *, method: str = "the call", timeout: float | None = None) -> Any:
        """See ActorCalls.output."""
        return self._thread.wait(self._calls.output(actor_id, call_id, method=method, timeout=timeout))

    def query(
        self,
        actor_id: str,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> Any:
        """See ActorCalls.query."""
        work = self._calls.query(actor_id, method, args, kwargs, min_revision=min_revision, timeout=timeout)
        return self._thread.wait(work)

    def calls(self, actor_id: str, *, only_pending: bool = False) -> Iterator[ActorCallInfo]:
        """See ActorCalls.calls."""
        return self._thread.iterate(self._calls.calls(actor_id, only_pending=only_pending))

    def drop(self, actor_id: str, call_id: str) -> bool:
        """See ActorCalls.drop."""
        return self._thread.wait(self._calls.drop(actor_id, call_id))
