"""The command line by itself: help, usage, exit codes, and what it makes of values. No service is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import perdure
from perdure import errors
from perdure.cli import root, runs, session, values
from perdure.codec import CodecError
from perdure.model import Failure, FailureKind
from perdure.service.common.settings import Settings

NOWHERE = "127.0.0.1:1"
COMMANDS = [
    "run",
    "list",
    "status",
    "tasks",
    "output",
    "watch",
    "cancel",
    "resume",
    "delete",
    "event",
    "actor",
    "serve",
    "agent",
]
ACTOR_COMMANDS = {
    "list": [],
    "get": ["a"],
    "call": ["a", "m"],
    "query": ["a", "m"],
    "calls": ["a"],
    "drop": ["a", "c"],
    "delete": ["a"],
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of ours, and the path for imports as it was."""
    for name in ("PERDURE_ADDRESS", "PERDURE_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", sys.path[:])


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(root.root, arguments)


# ------------------------------------------------------------------------------ help and usage


def test_help_lists_every_command() -> None:
    for flag in ("--help", "-h"):
        answer = invoke(flag)
        assert answer.exit_code == 0
        assert set(COMMANDS) <= {line.split()[0] for line in answer.output.splitlines() if line.startswith("  ")}


@pytest.mark.parametrize("command", [*COMMANDS, "event send", *(f"actor {name}" for name in ACTOR_COMMANDS)])
def test_every_command_and_option_has_help(command: str) -> None:
    answer = invoke(*command.split(), "--help")
    assert answer.exit_code == 0
    found: Any = root.root
    for word in command.split():
        found = found.commands[word]
    assert found.help
    context = click.Context(found)
    assert all(option.help for option in found.get_params(context) if isinstance(option, click.Option))


def test_serve_has_an_option_for_every_knob() -> None:
    text = invoke("serve", "--help").output
    for knob in fields(Settings):
        assert f"--{knob.metadata['flag'] or knob.name.replace('_', '-')}" in text
        assert f"PERDURE_{knob.name.upper()}" in text.replace("\n", "")


def test_the_version_is_that_of_the_package() -> None:
    answer = invoke("--version")
    assert answer.exit_code == 0
    assert "perdure, version 0." in answer.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["fly"], "No such command 'fly'"),
        (["status"], "Missing argument 'WORKFLOW_ID'"),
        (["status", "a", "b"], "unexpected extra argument"),
        (["list", "--status", "BROKEN"], "'BROKEN' is not one of"),
        (["list", "--limit", "0"], "0 is not in the range x>=1"),
        (["output", "x", "--timeout", "soon"], "'soon' is not a valid float"),
        (["-o", "yaml", "list"], "'yaml' is not one of"),
        (["serve", "--executor", "dask"], "'dask' is not one of"),
        (["serve", "--no-such-knob", "1"], "No such option"),
        (["event", "send", "x"], "Missing argument 'KEY'"),
        (["actor", "call", "a"], "Missing argument 'METHOD'"),
        (["actor", "fly"], "No such command 'fly'"),
        (["agent"], "Missing option '--address'"),
        (["run", "json:dumps", "--input", "{}", "--inputs-file", "-"], "--input and --inputs-file exclude each other"),
        (["run", "json:dumps", "--id-reuse", "sometimes"], "'sometimes' is not one of 'reject'"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert root.run(arguments) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "json:dumps", "--input", "{"], "--input is not JSON: Expecting property name"),
        (["run", "json:dumps", "--input", "[1]"], "--input is a JSON object"),
        (["run", "json:dumps", "--input", "[" * 100_000], "--input is not JSON"),
        (["run", "json:dumps", "--input", ""], "--input is not JSON: Expecting value"),
        (
            ["run", "json:dumps", "--input", '{"a": 1, "b": {"c": 1, "c": 2}}'],
            "--input is not JSON: it has the key 'c' twice",
        ),
        (["run", "json:dumps", "--input", '{"a": NaN}'], "--input is not JSON: NaN is no number of JSON"),
        (["run", "json:dumps", "--input", '{"a": 1e999}'], "--input is not JSON: 1e999 is too large"),
        (["run", "json"], "'json': expected module:name"),
        (["run", ":x"], "':x': expected module:name"),
        (["run", "no_such_module:x"], "no_such_module:x: ModuleNotFoundError: No module named 'no_such_module'"),
        (["run", "json:no_such_name"], "json:no_such_name: AttributeError: module 'json' has no attribute"),
        (["run", "json:__name__"], "json:__name__ is a str, and not a node, a task or a function that makes one"),
        (["run", "json:dumps"], "json:dumps: TypeError: dumps() missing 1 required positional argument"),
        (["run", "os:getcwd"], "os:getcwd gives a str, and not a node; make it a task with @perdure.task"),
        (["run", "os:getpid"], "os:getpid gives an int, and not a node"),
        (["event", "send", "x", "k", "{"], "PAYLOAD is not JSON"),
        (["actor", "call", "a", "m", "1", "{"], "argument 2 is not JSON"),
        (["actor", "call", "a", "m", "pen"], """a text has quotes, which the shell must leave: '"text"'"""),
        (["actor", "call", "a", "m", "--input", "[1]"], "--input is a JSON object: keyword arguments by name"),
        (["actor", "query", "a", "m", "--input", "{"], "--input is not JSON"),
        (["serve", "--listen", "nowhere"], "listen is host:port, not 'nowhere'"),
        (["serve", "--storage", "mysql://x"], "'mysql://x' is no storage"),
        (["serve", "--drain-s", "-1"], "drain_s must be 0 or more"),
    ],
)
def test_a_wrong_value_is_2_and_one_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert root.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("perdure: ")
    assert captured.err.count("\n") == 1
    assert text in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def broken(:", "SyntaxError"),
        ("raise OSError('while importing')", "OSError: while importing"),
        ("import perdure\ngraph = perdure.input('x')", "TypeError: a graph ends in a node"),
        ("import perdure\n@perdure.task\ndef graph(x): ...", "TypeError: graph(): missing a required argument: 'x'"),
        ("def graph():\n    raise LookupError('inside')", "LookupError: inside"),
        (
            "import perdure, threading\n@perdure.task\ndef f(x): ...\ngraph = f.bind(threading.Lock())",
            "CodecError: the arguments cannot be pickled",
        ),
    ],
)
def test_what_is_wrong_with_a_module_is_one_line(
    source: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"wrong_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert root.run(["run", f"{name}:graph"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"perdure: {name}:graph: ")
    assert text in captured.err
    assert captured.err.count("\n") == 1
    sys.modules.pop(name, None)


GRAPHS = """
import perdure


@perdure.task
def join(left: str, right: str = "b") -> str:
    return left + right


node = join.bind(perdure.input("x"), perdure.input("y"))


def made(left: str):
    return join.bind(left, perdure.input("y"))


def greedy(**inputs: str):
    return join.bind(perdure.input("y"))
"""


@pytest.fixture
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "graphs_of_inputs.py").write_text(GRAPHS)
    monkeypatch.chdir(tmp_path)
    yield "graphs_of_inputs"
    sys.modules.pop("graphs_of_inputs", None)


@pytest.mark.parametrize(
    ("name", "given", "used"),
    [
        ("node", {"x": "1", "y": "2"}, {"x", "y"}),
        ("join", {"left": "1"}, set()),
        ("made", {"left": "1", "y": "2"}, {"y"}),
        ("greedy", {"a": "1", "y": "2"}, {"y"}),
    ],
)
def test_inputs_go_to_parameters_and_to_the_graph(
    graphs: str, name: str, given: dict[str, str], used: set[str]
) -> None:
    assert values.load_graph(f"{graphs}:{name}", given).inputs.keys() == used


@pytest.mark.parametrize(
    ("name", "takes"), [("node", "'x', 'y'"), ("join", "'left', 'right'"), ("made", "'left', 'y'")]
)
def test_an_input_without_a_use_is_refused(
    graphs: str, name: str, takes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = json.dumps({name.strip("'"): "1" for name in (*takes.split(", "), "typo")})
    text = f"{graphs}:{name} takes no input 'typo'; it takes {takes}\n"
    assert root.run(["run", f"{graphs}:{name}", "--input", given]) == 2
    assert capsys.readouterr().err == f"perdure: {text}"
    if name == "join":  # before it is said that another one is missing
        assert root.run(["run", f"{graphs}:{name}", "--input", '{"typo": "3"}']) == 2
        assert capsys.readouterr().err == f"perdure: {text}"
    (tmp_path / "lines").write_text(given)
    assert root.run(["run", f"{graphs}:{name}", "--inputs-file", "lines"]) == 2
    assert capsys.readouterr().err == f"perdure: line 1: {text}"


@pytest.mark.parametrize(("name", "given"), [("node", "x"), ("made", "left"), ("greedy", "x")])
def test_a_missing_input_is_wrong_usage_as_an_unused_one_is(
    graphs: str, name: str, given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"{graphs}:{name} needs the input 'y', which was not given\n"
    assert root.run(["run", f"{graphs}:{name}", "--input", json.dumps({given: "1"})]) == 2
    assert capsys.readouterr().err == f"perdure: {text}"
    (tmp_path / "lines").write_text(json.dumps({given: "1"}))
    assert root.run(["run", f"{graphs}:{name}", "--inputs-file", "lines"]) == 2
    assert capsys.readouterr().err == f"perdure: line 1: {text}"


# ------------------------------------------------------------------------------ exit codes

FAILURE = Failure(FailureKind.APPLICATION, "m.Bad", "no", task_id="t")
CAUSE = ValueError("v")
CAUSE.add_note("Remote traceback (most recent call last):\n  there")


def failed() -> errors.WorkflowExecutionError:
    error = errors.WorkflowExecutionError("w", FAILURE)
    error.__cause__ = CAUSE
    return error


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (failed(), 1, "perdure: workflow 'w' failed in task 't': m.Bad: no\nRemote traceback"),
        (errors.ActorCallError("a", "m", FAILURE), 1, "perdure: m of actor 'a' failed: m.Bad: no\n"),
        (errors.ActorNotFoundError("no such actor"), 3, "perdure: no such actor [ACTOR_NOT_FOUND]\n"),
        (errors.MailboxFullError("too many"), 5, "perdure: too many [MAILBOX_FULL]\n"),
        (errors.WorkflowCancellationError("w", FAILURE), 1, "perdure: workflow 'w' was canceled: no"),
        (CodecError("cannot be read"), 1, "perdure: cannot be read\n"),
        (KeyboardInterrupt(), 130, "perdure: interrupted\n"),
        (errors.WorkflowNotFoundError("no such workflow"), 3, "perdure: no such workflow [WORKFLOW_NOT_FOUND]\n"),
        (errors.TaskNotFoundError("no such task"), 3, "perdure: no such task [TASK_NOT_FOUND]\n"),
        (
            errors.ServiceUnavailableError("refused"),
            4,
            "perdure: the service does not answer: refused\n",
        ),
        (errors.PerdureError("gone", reason="NEW_REASON"), 5, "perdure: gone [NEW_REASON]\n"),
        (
            errors.PerdureError("UNIMPLEMENTED: no method"),
            5,
            "perdure: UNIMPLEMENTED: no method. Is this the address of a Perdure service, and of this version?\n",
        ),
        (errors.DrainingError("shutting down"), 4, "perdure: the service does not answer: shutting down [DRAINING]\n"),
        (TimeoutError("no output after 1 s"), 4, "perdure: no output after 1 s\n"),
        (errors.WorkflowAlreadyExistsError("in use"), 5, "perdure: in use [WORKFLOW_ALREADY_EXISTS]\n"),
        (
            errors.WorkflowAlreadyExistsError("'a' is in use; id_reuse 'allow_if_unsuccessful' or 'allow', or not"),
            5,
            "perdure: 'a' is in use; --id-reuse allow_if_unsuccessful or allow, or not [WORKFLOW_ALREADY_EXISTS]\n",
        ),
        (errors.InvalidFilterError("no filter"), 5, "perdure: no filter [INVALID_FILTER]\n"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(_session: root.Session, _work: object) -> None:
        raise error

    monkeypatch.setattr(root.Session, "call", call)
    assert root.run(["status", "w"]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback (most recent call last):\n  File" not in captured.err


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(_session: root.Session, _work: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(root.Session, "call", call)
    with pytest.raises(KeyError):
        root.run(["status", "w"])


def test_no_service_is_4_and_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert root.run(["--address", NOWHERE, "--patience", "0", "list"]) == 4
    captured = capfd.readouterr()
    assert captured.err.startswith(f"perdure: no service answers at {NOWHERE}: Connection refused")
    assert captured.err.endswith("[UNREACHABLE]\n")
    assert "`perdure serve`" in captured.err
    assert "PERDURE_ADDRESS" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("is_json", [False, True])
def test_a_command_says_what_it_waits_for(is_json: bool, capfd: pytest.CaptureFixture[str]) -> None:
    style = ["-o", "json"] if is_json else []
    assert root.run(["--address", NOWHERE, "output", "w", "--patience", "1", *style]) == 4
    note, last = capfd.readouterr().err.splitlines()
    waiting = f"waiting up to 1 s for the service at {NOWHERE}: "
    if is_json:
        assert json.loads(note)["note"].startswith(waiting)
        assert json.loads(last)["error"]["reason"] == "UNREACHABLE"
        assert json.loads(last)["error"]["address"] == NOWHERE
    else:
        assert note.startswith(f"perdure: {waiting}")
        assert "`perdure serve`" in note
        assert last.endswith("[UNREACHABLE]")


def test_the_address_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(root.Session, "call", lambda session, work: seen.append((session.address, session.namespace)))
    monkeypatch.setenv("PERDURE_ADDRESS", "there:1")
    monkeypatch.setenv("PERDURE_NAMESPACE", "pay")
    assert root.run(["delete", "w"]) == 0
    assert root.run(["--address", "here:2", "--namespace", "x", "delete", "w"]) == 0
    assert seen == [("there:1", "pay"), ("here:2", "x")]


@pytest.mark.parametrize(
    "command",
    [
        *(name for name in COMMANDS if name not in ("serve", "agent", "event", "actor")),
        "event send",
        *(f"actor {name}" for name in ACTOR_COMMANDS),
    ],
)
def test_options_of_a_session_may_follow_the_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[root.Session] = []

    def call(session: root.Session, _work: object) -> None:
        seen.append(session)
        raise errors.DrainingError("seen")

    monkeypatch.setattr(root.Session, "call", call)
    monkeypatch.setenv("PERDURE_ADDRESS", "environment:1")
    monkeypatch.setattr(runs, "load_graph", lambda *_args, **_how: values.Loaded(perdure.event("k"), {}))
    of_actors = {f"actor {name}": words for name, words in ACTOR_COMMANDS.items()}
    names = ({"event send": ["w", "k"], "list": [], "run": ["json:dumps"]} | of_actors).get(command, ["w"])
    words = [*command.split(), *names]
    assert root.run(["--namespace", "before", *words, "-o", "json", "--address", "there:1", "--patience", "2"]) == 4
    assert root.run(["--address", "first:1", "-o", "json", *words, "-o", "text"]) == 4
    found = [(one.address, one.namespace, one.patience, one.is_json) for one in seen]
    assert found == [("there:1", "before", 2.0, True), ("first:1", "", session.PATIENCE_S, False)]


def test_a_doctor_answers_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root.run(["doctor", "--storage", str(tmp_path), "--executor", "local", "-o", "json"])
    assert json.loads(capsys.readouterr().out)["findings"]


# ------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        ([1, "a", 2.5], [1, "a", 2.5]),
        ((1, 2), [1, 2]),
        ({"a": {1: 2}}, {"a": {"1": 2}}),
        (datetime(2026, 1, 1, tzinfo=UTC), "datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)"),
        (float("nan"), "nan"),
        ([float("inf")], "[inf]"),
        (b"x", "b'x'"),
    ],
)
def test_any_value_is_shown_as_json(value: object, shown: object) -> None:
    assert values.as_json(value) == shown
    json.dumps(values.as_json(value), allow_nan=False)


def test_a_value_that_holds_itself_is_shown() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert values.as_json(circle) == "[[...]]"


def test_moments_are_shown_in_local_time() -> None:
    assert values.moment(None) == ""
    assert values.moment(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).astimezone()).startswith("2026-01-0")
