"""Commands about runs: start, look, wait, watch, end."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from typing import Any, Final, TextIO

import click

from perdure.batches import ID_CONFLICTS, ID_REUSES, IdConflict, IdReuse, RunItem
from perdure.cli.exits import in_own_words
from perdure.cli.session import SessionCommand, first
from perdure.cli.tables import show_table
from perdure.cli.values import as_json, duration, load_graph, look_here, moment, parse_json, run_fields
from perdure.client import Client
from perdure.errors import BatchError, PerdureError
from perdure.handle import Handle
from perdure.infos import RunInfo, TaskInfo, Update
from perdure.model import RunStatus

Session = Any


@click.command(cls=SessionCommand, name="run")
@click.argument("place", metavar="MODULE:GRAPH")
@click.option("--input", "text", help='JSON object: inputs by name, such as \'{"name": "Ana"}\'')
@click.option("--id", "workflow_id", help="workflow id; default: random")
@click.option("--id-reuse", type=click.Choice(ID_REUSES), default="reject", help="if a run of this id has ended")
@click.option("--id-conflict", type=click.Choice(ID_CONFLICTS), default="fail", help="if a run of this id is active")
@click.option("--inputs-file", type=click.File(), help="JSON objects, one a line: a run for each; - is the input")
@click.option("--wait/--no-wait", default=True, help="wait for the output and print it")
@click.pass_obj
def run(
    session: Session,
    place: str,
    text: str | None,
    workflow_id: str | None,
    id_reuse: IdReuse,
    id_conflict: IdConflict,
    inputs_file: TextIO | None,
    wait: bool,
) -> int | None:
    """Run a graph: a node, a task, or a function that returns a node.

    MODULE is looked for in this folder, too. Inputs are the keyword arguments of the task or the function, and the
    values of perdure.input() in the graph. An input that neither of them takes is refused.

    With --inputs-file each line names the inputs of one run; the number of its line follows the id if there is one.
    """
    policies: dict[str, Any] = {"id_reuse": id_reuse, "id_conflict": id_conflict}
    if inputs_file is not None:
        if text is not None:
            raise click.UsageError("--input and --inputs-file exclude each other")
        return _run_many(session, place, workflow_id, inputs_file, policies, wait=wait)
    inputs = parse_json("{}" if text is None else text, "--input")
    if not isinstance(inputs, dict):
        raise click.ClickException(f"--input is a JSON object, not {_kind_of(inputs)}")
    loaded = load_graph(place, inputs)

    async def start(client: Client) -> tuple[str, Any]:
        handle = await client.start(loaded.graph, workflow_id=workflow_id, inputs=loaded.inputs, **policies)
        return handle.workflow_id, await handle.output() if wait else None

    started, value = session.call(start)
    shown = {"workflow_id": started, "output": as_json(value)} if wait else {"workflow_id": started}
    session.show(shown, lambda: click.echo(value if wait else started))
    return None


def _kind_of(value: Any) -> str:
    return {list: "an array", str: "a text", type(None): "null"}.get(type(value), "a number or a truth value")


def _run_many(
    session: Session, place: str, workflow_id: str | None, lines: TextIO, policies: dict[str, Any], *, wait: bool
) -> int:
    """1 if some of the runs were refused or failed."""
    items: list[RunItem] = []
    for number, line in enumerate(lines, 1):
        inputs = parse_json(line, f"line {number}") if line.strip() else None
        if inputs is None:
            continue
        if not isinstance(inputs, dict):
            raise click.ClickException(f"line {number} is a JSON object, not {_kind_of(inputs)}")
        try:
            loaded = load_graph(place, inputs, is_shared=True)
        except click.ClickException as error:
            raise click.ClickException(f"line {number}: {error.message}") from error
        named = f"{workflow_id}-{number}" if workflow_id is not None else None
        items.append(RunItem(loaded.graph, workflow_id=named, inputs=loaded.inputs, **policies))

    async def start(client: Client) -> tuple[list[Any], list[Any]]:
        started = await _results(client.start_many(items))
        if not wait:
            return started, started
        handles = [one for one in started if isinstance(one, Handle)]
        values = iter(await _results(client.outputs(handles)))
        return started, [next(values) if isinstance(one, Handle) else one for one in started]

    started, values = session.call(start)
    for one, value in zip(started, values, strict=True):
        name = one.workflow_id if isinstance(one, Handle) else ""
        if isinstance(value, Exception):
            text = in_own_words(value) if isinstance(value, PerdureError) else str(value)
            session.show({"workflow_id": name, "error": text}, lambda text=text: click.echo(f"error: {text}"))
        elif wait:
            session.show({"workflow_id": name, "output": as_json(value)}, lambda value=value: click.echo(value))
        else:
            session.show({"workflow_id": name}, lambda name=name: click.echo(name))
    return 1 if any(isinstance(value, Exception) for value in values) else 0


async def _results(batch: Awaitable[list[Any]]) -> list[Any]:
    try:
        return await batch
    except BatchError as error:
        return error.results


@click.command(cls=SessionCommand, name="list")
@click.option("--filter", "filter_", default="", help='such as: status = FAILED AND labels.team = "pay"')
@click.option(
    "--status", type=click.Choice([str(status) for status in RunStatus], case_sensitive=False), help="only those"
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="list at most so many")
@click.pass_obj
def list_(session: Session, filter_: str, status: str | None, limit: int) -> None:
    """List workflows, the newest first."""
    if status:
        filter_ = f"({filter_}) AND status = {status}" if filter_ else f"status = {status}"

    async def read(client: Client) -> list[RunInfo]:
        return await first(client.list(filter_, page_size=min(limit, 1000)), limit)

    found = session.call(read)

    def text() -> None:
        rows = [
            (info.workflow_id, str(info.status), info.name, moment(info.created), moment(info.ended)) for info in found
        ]
        show_table(("workflow", "status", "name", "created", "ended"), rows)

    session.show([run_fields(info) for info in found], text)


@click.command(cls=SessionCommand)
@click.argument("workflow_id")
@click.pass_obj
def status(session: Session, workflow_id: str) -> None:
    """Show a workflow's state."""
    info = session.call(lambda client: client.handle(workflow_id).status())

    def text() -> None:
        click.echo(f"{info.workflow_id}  {info.status}  {info.name}")
        counts = f"{info.tasks_successful} successful, {info.tasks_running} running, {info.tasks_failed} failed"
        click.echo(f"tasks: {info.tasks}, {counts}")
        click.echo(f"created {moment(info.created)}  ended {moment(info.ended) or '-'}  resumed {info.resumes} times")
        if info.error:
            click.echo(f"reason: {info.error}")
        if info.waiting:
            click.echo(f"waiting: {info.waiting}")

    session.show(run_fields(info), text)


@click.command(cls=SessionCommand)
@click.argument("workflow_id")
@click.pass_obj
def tasks(session: Session, workflow_id: str) -> None:
    """List the tasks of a workflow."""

    async def read(client: Client) -> list[TaskInfo]:
        return [task async for task in client.handle(workflow_id).tasks()]

    found = session.call(read)

    def text() -> None:
        rows = [
            (
                str(task.status),
                task.task_id,
                str(task.attempts),
                moment(task.started),
                duration(task),
                task.waiting or task.error,
            )
            for task in found
        ]
        show_table(("status", "task", "attempts", "started", "took", "why"), rows)

    session.show([run_fields(task) for task in found], text)


@click.command(cls=SessionCommand)
@click.argument("workflow_id")
@click.option("--task", "task_id", help="the output of this task")
@click.option("--timeout", type=click.FloatRange(min=0), help="seconds to wait; default: as long as it takes")
@click.pass_obj
def output(session: Session, workflow_id: str, task_id: str | None, timeout: float | None) -> None:
    """Wait for the output of a workflow and print it. Classes of the value are looked for in this folder, too."""
    look_here()
    value = session.call(lambda client: client.handle(workflow_id).output(task_id, timeout=timeout))
    session.show({"output": as_json(value)}, lambda: click.echo(value))


@click.command(cls=SessionCommand)
@click.argument("workflow_id")
@click.pass_obj
def watch(session: Session, workflow_id: str) -> int:
    """Follow a workflow to its end: a bar of its tasks, or a line for each change if this is no terminal."""
    is_live = sys.stdout.isatty() and not session.is_json

    async def follow(client: Client) -> RunStatus:
        if is_live:
            return await _follow_live(client, workflow_id)
        return await _follow_lines(client, workflow_id, session)

    final = session.call(follow)
    return 0 if final is RunStatus.SUCCESSFUL else 1


async def _follow_lines(client: Client, workflow_id: str, session: Session) -> RunStatus:
    final = RunStatus.RUNNING
    async for update in client.handle(workflow_id).watch():
        final = update.run.status if update.run is not None else final
        info: Any = update.run or update.task
        if info is None:
            session.show({"deleted": workflow_id}, lambda: click.echo(f"deleted {workflow_id}"))
            continue
        name = workflow_id if update.run is not None else info.task_id
        session.show(run_fields(info), lambda info=info, name=name: click.echo(f"{info.status:12} {name}"))
    return final


async def _follow_live(client: Client, workflow_id: str) -> RunStatus:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    handle = client.handle(workflow_id)
    total = {task.task_id async for task in handle.tasks()}
    done: set[str] = set()
    final = RunStatus.RUNNING
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(workflow_id, total=len(total))
        async for update in handle.watch():
            final = _note(update, total, done) or final
            name = update.task.task_id if update.task is not None else str(final)
            progress.update(bar, total=len(total), completed=len(done), description=f"{workflow_id}  {name}")
        progress.update(bar, description=f"{workflow_id}  {final}")
    return final


def _note(update: Update, total: set[str], done: set[str]) -> RunStatus | None:
    if update.task is not None:
        total.add(update.task.task_id)
        if update.task.ended is not None:
            done.add(update.task.task_id)
    return update.run.status if update.run is not None else None


@click.command(cls=SessionCommand)
@click.argument("workflow_id")
@click.option("--reason", default="", help="recorded and shown")
@click.pass_obj
def cancel(session: Session, workflow_id: str, reason: str) -> None:
    """End a workflow; its running tasks are killed."""
    state = session.call(lambda client: client.cancel(workflow_id, reason))
    text = str(state) if state is RunStatus.CANCELED else f"nothing to cancel: it had ended already, {state}"
    session.show({"status": str(state)}, lambda: click.echo(text))


@click.command(cls=SessionCommand)
@click.argument("workflow_id")
@click.option(
    "--code",
    type=click.Choice(["same", "new"]),
    default="same",
    show_default=True,
    help="which modules it goes on with",
)
@click.pass_obj
def resume(session: Session, workflow_id: str, code: Any) -> None:
    """Let a failed or resumable workflow go on from where it was.

    With --code new, tasks that have not succeeded take the workflow's modules as they are in this folder now.
    """
    look_here()
    try:
        resumed = session.call(lambda client: client.resume(workflow_id, code=code))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    session.show({"resumed": resumed}, lambda: click.echo("resumed" if resumed else "is at work already"))


@click.command(cls=SessionCommand)
@click.argument("workflow_id")
@click.pass_obj
def delete(session: Session, workflow_id: str) -> None:
    """Remove a workflow that has ended, with its outputs."""
    session.call(lambda client: client.delete(workflow_id))
    session.show({"deleted": workflow_id}, lambda: click.echo(f"deleted {workflow_id}"))


COMMANDS: Final = (run, list_, status, tasks, output, watch, cancel, resume, delete)
