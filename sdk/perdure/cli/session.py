"""The session of commands that call a service: its address, the form of output, and the options for these.

The options may stand before a command or after it; the latter wins.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import click

from perdure.client import Client
from perdure.transport import DEFAULT_ADDRESS

T = TypeVar("T")

PATIENCE_S: Final = 30.0


@dataclass(slots=True)
class Style:
    """The form of output and errors. Errors need it before there is a session."""

    is_json: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """The session of a command."""

    style: Style
    address: str = DEFAULT_ADDRESS
    namespace: str = ""
    patience: float = PATIENCE_S

    @property
    def is_json(self) -> bool:
        return self.style.is_json

    def call(self, work: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine with a client, on a new event loop."""

        async def with_client() -> Any:
            async with Client(self.address, namespace=self.namespace, patience=self.patience) as client:
                return await work(client)

        with _notes(self.style):
            return asyncio.run(with_client())

    def show(self, data: Any, text: Callable[[], None]) -> None:
        """Print the data as JSON with `-o json`, else the text."""
        if self.is_json:
            click.echo(json.dumps(data, default=str))
        else:
            text()


class _Notes(logging.Handler):
    """Prints on standard error what the client waits for."""

    def __init__(self, style: Style) -> None:
        super().__init__(logging.WARNING)
        self._style = style

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        print(json.dumps({"note": text}) if self._style.is_json else f"perdure: {text}", file=sys.stderr, flush=True)


async def first(items: AsyncIterable[T], count: int) -> list[T]:
    """The first items, at most so many."""
    found: list[T] = []
    async for item in items:
        if len(found) == count:
            break
        found.append(item)
    return found


@contextmanager
def _notes(style: Style) -> Iterator[None]:
    logger, handler = logging.getLogger("perdure"), _Notes(style)
    was, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = was


def _set(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is None:
        return
    session: Session = context.obj or Session(Style())
    if parameter.name == "style":
        session.style.is_json = value == "json"
        context.obj = session
    else:
        context.obj = replace(session, **{str(parameter.name): value})


def _option(*names: str, **how: Any) -> click.Option:
    return click.Option(names, callback=_set, expose_value=False, is_eager=True, **how)


def style_option() -> click.Option:
    return _option("-o", "--output", "style", type=click.Choice(["text", "json"]), help="how to answer; default: text")


def session_options(*, reads_environment: bool) -> list[click.Parameter]:
    """The options. Those after a command do not read the environment, so that it does not override options before the
    command."""

    def variable(name: str) -> str | None:
        return name if reads_environment else None

    return [
        _option(
            "--address",
            envvar=variable("PERDURE_ADDRESS"),
            help=f"host:port of the service (PERDURE_ADDRESS; default: {DEFAULT_ADDRESS})",
        ),
        _option(
            "--namespace",
            envvar=variable("PERDURE_NAMESPACE"),
            help="namespace of the workflows (PERDURE_NAMESPACE)",
        ),
        _option(
            "--patience",
            type=click.FloatRange(min=0),
            help=f"seconds to wait for a service that is away; default: {PATIENCE_S:g}",
        ),
        style_option(),
    ]


class SessionCommand(click.Command):
    """A command that calls the service. It also takes the options of a session."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self.params += session_options(reads_environment=False)
