"""The command line against `perdure serve` as a process of its own; tasks run in its threads."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from patience import PATIENCE_S
from perdure.cli.root import run
from services import Service, running

MODULE = """
import threading

import perdure


@perdure.task
def add(left: int, right: int) -> int:
    return left + right


@perdure.task
def double(number: int) -> int:
    return 2 * number


@perdure.task
def fail(text: str) -> None:
    raise ValueError(text)


class Box:
    def __repr__(self) -> str:
        return "<box>"


@perdure.task
def box() -> Box:
    return Box()


@perdure.task
def shape() -> object:
    class Strange:
        def __repr__(self) -> str:
            return "<strange>"
    return Strange()


node = double.bind(double.bind(1))
waiting = double.bind(perdure.event("go"))


def twice(number: int):
    return double.bind(double.bind(perdure.input("number")))
"""

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "flows.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    service = Service(folder, "--executor", "local", cwd=folder)
    with running(service):
        service.up()
        yield service


@pytest.fixture
def cli(
    service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    """Runs a command line in this process, which is faster; what it prints is what a process would."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("PERDURE_ADDRESS", service.address)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    yield call
    sys.modules.pop("flows", None)


def as_json(answer: tuple[int, str, str]) -> Any:
    code, out, err = answer
    assert (code, err) == (0, "")
    return json.loads(out)


def one_line(answer: tuple[int, str, str], code: int, text: str) -> None:
    assert answer[0] == code
    assert answer[1] == ""
    assert answer[2].startswith("perdure: ")
    assert answer[2].count("\n") == 1
    assert text in answer[2]


# ------------------------------------------------------------------------------ running


def test_an_output_of_a_class_of_this_folder_is_shown(cli: Cli) -> None:
    assert cli("run", "flows:box", "--id", "box")[:2] == (0, "<box>\n")
    sys.modules.pop("flows")
    sys.path.pop(0)
    assert cli("output", "box") == (0, "<box>\n", "")


def test_a_task_a_node_and_a_function_can_be_run(cli: Cli) -> None:
    assert cli("run", "flows:add", "--input", '{"left": 1, "right": 2}') == (0, "3\n", "")
    assert cli("run", "flows:node") == (0, "4\n", "")
    assert cli("run", "flows:twice", "--input", '{"number": 5}') == (0, "20\n", "")


def test_a_file_of_inputs_is_a_run_a_line(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"left": 1, "right": 2}\n\n{"left": 3, "right": 4}\n')
    assert cli("run", "flows:add", "--inputs-file", str(file)) == (0, "3\n7\n", "")
    assert cli("run", "flows:add", "--inputs-file", str(file), "--id", "line", "--no-wait") == (
        0,
        "line-1\nline-3\n",
        "",
    )
    code, out, err = cli("-o", "json", "run", "flows:add", "--inputs-file", str(file), "--id", "line")
    assert (code, err) == (1, "")
    assert all("in use" in json.loads(line)["error"] for line in out.splitlines())
    file.write_text('{"text": "no good"}\n')
    code, out, err = cli("run", "flows:fail", "--inputs-file", str(file))
    assert (code, err) == (1, "")
    assert "no good" in out
    file.write_text("{}\n[1]\n")
    assert cli("run", "flows:node", "--inputs-file", str(file))[0] == 2


def test_answers_in_json(cli: Cli) -> None:
    answer = as_json(cli("-o", "json", "run", "flows:node", "--id", "json-1"))
    assert answer == {"workflow_id": "json-1", "output": 4}
    assert as_json(cli("-o", "json", "output", "json-1")) == {"output": 4}
    state = as_json(cli("-o", "json", "status", "json-1"))
    assert (state["workflow_id"], state["status"], state["tasks"]) == ("json-1", "SUCCESSFUL", 2)
    assert [task["status"] for task in as_json(cli("-o", "json", "tasks", "json-1"))] == ["SUCCESSFUL"] * 2
    listed = as_json(cli("-o", "json", "list", "--filter", "workflow_id:json-"))
    assert [info["workflow_id"] for info in listed] == ["json-1"]
    assert as_json(cli("-o", "json", "cancel", "json-1")) == {"status": "SUCCESSFUL"}
    assert as_json(cli("-o", "json", "delete", "json-1")) == {"deleted": "json-1"}


def test_a_value_that_is_no_json_is_shown_as_text(cli: Cli) -> None:
    assert as_json(cli("-o", "json", "run", "flows:shape"))["output"] == "<strange>"


def test_a_run_that_waits_for_an_event(cli: Cli) -> None:
    assert cli("run", "flows:waiting", "--id", "waits", "--no-wait") == (0, "waits\n", "")
    assert "waits for the event 'go'" in cli("tasks", "waits")[1]
    code, out, _ = cli("status", "waits")
    assert code == 0
    assert out.startswith("waits  RUNNING")
    code, out, _ = cli("list", "--status", "running")
    assert code == 0
    assert "waits" in out
    one_line(cli("output", "waits", "--timeout", "0"), 4, "workflow 'waits' had no output after 0.0 s")
    assert cli("event", "send", "waits", "go", "21", "--event-id", "e1") == (0, "sent\n", "")
    assert cli("output", "waits") == (0, "42\n", "")
    code, out, _ = cli("watch", "waits")
    assert code == 0
    assert out.splitlines()[-1].split() == ["SUCCESSFUL", "waits"]
    code, out, err = cli("-o", "json", "watch", "waits")
    assert (code, err) == (0, "")
    assert {json.loads(line)["status"] for line in out.splitlines()} == {"SUCCESSFUL"}
    one_line(cli("event", "send", "waits", "go", "1"), 5, "[WORKFLOW_ALREADY_FINAL]")


def test_the_same_event_is_taken_once(cli: Cli) -> None:
    cli("run", "flows:waiting", "--id", "once", "--no-wait")
    assert as_json(cli("-o", "json", "event", "send", "once", "other", '{"a": 1}', "--event-id", "e")) == {"new": True}
    assert cli("event", "send", "once", "other", '{"a": 1}', "--event-id", "e") == (0, "was sent before\n", "")
    assert cli("cancel", "once", "--reason", "enough") == (0, "CANCELED\n", "")


def test_a_run_that_is_canceled(cli: Cli) -> None:
    cli("run", "flows:waiting", "--id", "ends", "--no-wait")
    assert cli("cancel", "ends", "--reason", "enough") == (0, "CANCELED\n", "")
    cli("run", "flows:node", "--id", "ended")
    assert cli("cancel", "ended") == (0, "nothing to cancel: it had ended already, SUCCESSFUL\n", "")
    code, _, err = cli("output", "ends")
    assert code == 1
    assert "enough" in err
    code, out, _ = cli("watch", "ends")
    assert code == 1
    assert out.splitlines()[-1].split() == ["CANCELED", "ends"]
    assert "reason: perdure.Canceled: enough\n" in cli("status", "ends")[1]
    assert json.loads(cli("-o", "json", "list", "--status", "CANCELED")[1])[0]["tasks"] is None
    assert cli("resume", "ends")[0] == 5


def test_a_list_in_a_pipe_is_not_broken(cli: Cli) -> None:
    name = "n" * 200
    cli("run", "flows:waiting", "--id", name, "--no-wait")
    lines = cli("list")[1].splitlines()
    assert lines[0].split() == ["workflow", "status", "name", "created", "ended"]
    assert [line.split()[:2] for line in lines if name in line] == [[name, "RUNNING"]]
    cli("cancel", name)


def test_a_run_that_fails_shows_the_remote_traceback_and_can_be_resumed(cli: Cli) -> None:
    code, out, err = cli("run", "flows:fail", "--input", '{"text": "no good"}', "--id", "fails")
    assert (code, out) == (1, "")
    assert err.startswith("perdure: workflow 'fails' failed in task 'flows.fail': builtins.ValueError: no good\n")
    assert "Remote traceback (most recent call last):\n" in err
    assert "in fail\n    raise ValueError(text)" in err
    assert "root.py" not in err
    code, out, _ = cli("tasks", "fails")
    assert code == 0
    names, fields = out.splitlines()
    assert names.split() == ["status", "task", "attempts", "started", "took", "why"]
    assert fields.split()[:3] == ["FAILED", "flows.fail", "1"]
    assert fields.endswith("builtins.ValueError: no good")
    assert "reason: builtins.ValueError: no good\n" in cli("status", "fails")[1]
    assert cli("resume", "fails") == (0, "resumed\n", "")
    assert cli("output", "fails")[0] == 1


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("command", ["status", "tasks", "output", "watch", "cancel", "resume", "delete"])
def test_an_unknown_id_is_3(cli: Cli, command: str) -> None:
    one_line(cli(command, "nobody"), 3, "[WORKFLOW_NOT_FOUND]")


def test_an_event_for_an_unknown_workflow_exits_with_3(cli: Cli) -> None:
    one_line(cli("event", "send", "nobody", "k"), 3, "[WORKFLOW_NOT_FOUND]")


def test_a_task_that_is_not_there_is_3(cli: Cli) -> None:
    cli("run", "flows:node", "--id", "no-task")
    one_line(cli("output", "no-task", "--task", "nothing"), 3, "[TASK_NOT_FOUND]")


def test_an_id_in_use_is_5(cli: Cli) -> None:
    cli("run", "flows:node", "--id", "used")
    one_line(cli("run", "flows:node", "--id", "used"), 5, "[WORKFLOW_ALREADY_EXISTS]")
    assert cli("run", "flows:node", "--id", "used", "--id-reuse", "allow") == (0, "4\n", "")


def test_a_filter_that_is_wrong_is_5(cli: Cli) -> None:
    one_line(cli("list", "--filter", "colour = red"), 5, "unknown field 'colour'")


# ------------------------------------------------------------------------------ processes


EXITING = """
import os
import sys
import perdure


@perdure.task(max_retries=1)
def leave(folder: str) -> None:
    with open(os.path.join(folder, "began"), "a") as journal:
        journal.write(f"{perdure.context().attempt} {os.getpid()}\\n")
    os._exit(3)


@perdure.task
def stay(number: int) -> int:
    return number + 1


if __name__ == "__main__":
    with perdure.SyncClient() as client:
        handle = client.start(leave.bind(sys.argv[1]), workflow_id="leaves")
        found = [client.run(stay.bind(number)) for number in range(3)]
        try:
            handle.output()
        except perdure.WorkflowExecutionError as error:
            print(found, type(error.__cause__).__name__)
"""


def test_a_task_that_ends_its_process_costs_its_own_attempts_alone(
    service: Service, folder: Path, tmp_path: Path
) -> None:
    """Its function comes with no modules, as those of scripts do."""
    (folder / "exiting.py").write_text(EXITING)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    command = [sys.executable, "exiting.py", str(tmp_path)]
    environment = clean | {"PERDURE_ADDRESS": service.address}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.stdout == "[1, 2, 3] TaskLostError\n", ended.stderr
    attempts = [line.split() for line in (tmp_path / "began").read_text().splitlines()]
    assert [number for number, _ in attempts] == ["1", "2"]
    assert str(service.pid) not in {process for _, process in attempts}
    assert service.code() is None


def perdure(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    command = [sys.executable, "-m", "perdure.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=PATIENCE_S)


def test_the_command_is_a_process_with_an_exit_code(service: Service, folder: Path) -> None:
    ended = perdure("-o", "json", "run", "flows:add", "--input", '{"left": 1}', cwd=folder)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert json.loads(ended.stderr) == {
        "error": {"message": "flows:add: TypeError: add(): missing a required argument: 'right'"}
    }
    ended = perdure("-o", "json", "status", "nobody", cwd=folder, PERDURE_ADDRESS=service.address)
    assert (ended.returncode, ended.stdout) == (3, "")
    refused = json.loads(ended.stderr)["error"]
    assert (refused["reason"], refused["workflow_id"]) == ("WORKFLOW_NOT_FOUND", "nobody")


def test_a_port_in_use_is_one_line(service: Service, folder: Path) -> None:
    ended = perdure("serve", "--listen", service.address, "--storage", "memory:", "--executor", "local", cwd=folder)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"perdure: cannot listen on {service.address}: Address already in use; ")
    assert ended.stderr.count("\n") == 1


def test_a_storage_that_is_in_use_or_no_folder_is_one_line(service: Service, folder: Path) -> None:
    file = folder / "flows.py"
    for storage in (folder / "storage", file):
        ended = perdure(
            "serve", "--listen", "127.0.0.1:0", "--storage", str(storage), "--executor", "local", cwd=folder
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith("perdure: ")
        assert ended.stderr.count("\n") == 1


def test_a_second_service_is_refused_while_the_first_one_serves(service: Service, folder: Path) -> None:
    storage = str(folder / "storage")
    ended = perdure("serve", "--listen", service.address, "--storage", storage, "--executor", "local", cwd=folder)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"perdure: another engine (process {service.pid}) uses {storage}/perdure.db; ")
    assert ended.stderr.count("\n") == 1


def test_a_service_waits_for_one_that_ends(tmp_path: Path) -> None:
    """A paused process has the storage and the port, and answers nothing, as one whose end takes long."""
    first = Service(tmp_path, "--executor", "local")
    second = Service(tmp_path, "--executor", "local", "--listen", first.address, "--drain-s", "1000")
    with running(first), running(second):
        first.up()
        first.pause()
        second.start()
        second.wait_for("waiting for the engine before to end")
        since = first.said()
        first.stop()
        second.wait_for(f" serves on {first.address}", since=since)
    assert (tmp_path / "serve.log").read_text().count("waiting for the engine before to end") == 1


def test_a_service_that_is_stopped_while_it_waits_says_that_it_never_served(tmp_path: Path) -> None:
    first = Service(tmp_path, "--executor", "local")
    second = Service(tmp_path, "--executor", "local", "--listen", first.address, "--drain-s", "1000")
    with running(first), running(second):
        first.up()
        first.pause()
        second.start()
        second.wait_for("waiting for the engine before to end")
        second.stop()
    assert "stopped before it served" in (tmp_path / "serve.log").read_text()


def test_a_misspelt_variable_is_one_line(folder: Path) -> None:
    ended = perdure("serve", cwd=folder, PERDURE_LISEN="x")
    assert ended.returncode == 2
    assert ended.stderr.startswith("perdure: unknown variable PERDURE_LISEN; there are ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    service = Service(tmp_path, "--executor", "local")
    with running(service):
        service.up()
        process = psutil.Process(service.pid)
        process.send_signal(number)
        assert service.wait_for_end() == 0
    assert (tmp_path / "serve.log").read_text().endswith("stopped; runs go on when the service starts again\n")
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


def test_a_signal_ends_a_service_that_has_no_store_yet(tmp_path: Path) -> None:
    """A database that takes the connection and says nothing, as one that hangs does."""
    with socket.create_server(("127.0.0.1", 0)) as database:
        url = f"postgresql://nobody@127.0.0.1:{database.getsockname()[1]}/nothing"
        service = Service(tmp_path, "--executor", "local", "--storage", url, "--blobs", (tmp_path / "blobs").as_uri())
        with running(service):
            service.start()
            connection, _ = database.accept()
            with connection:
                psutil.Process(service.pid).send_signal(signal.SIGTERM)
                assert service.wait_for_end() == 0
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


SLOW = """
import perdure, time

@perdure.task
def slow() -> None:
    time.sleep(1000)
"""


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """The first one waits for a call that is open; nothing is lost by not waiting."""
    service = Service(tmp_path, "--executor", "local", "--drain-s", "1000", cwd=tmp_path)
    (tmp_path / "slow.py").write_text(SLOW)
    with running(service):
        service.up()
        started = perdure("run", "slow:slow", "--no-wait", cwd=tmp_path, PERDURE_ADDRESS=service.address)
        assert started.returncode == 0, started.stderr
        process = psutil.Process(service.pid)
        process.send_signal(signal.SIGTERM)
        service.wait_for("draining")
        process.send_signal(signal.SIGTERM)
        assert service.wait_for_end() == -signal.SIGTERM


def test_a_program_ends_when_the_reader_of_its_output_does(service: Service, folder: Path) -> None:
    script = folder / "head.sh"
    script.write_text(
        f"{sys.executable} -m perdure.cli --address {service.address} list | head -n 0; exit ${{PIPESTATUS[0]}}\n"
    )
    ended = subprocess.run(["bash", str(script)], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
    assert "Traceback" not in ended.stderr
