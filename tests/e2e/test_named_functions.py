"""`perdure serve --import`: functions by name, while engines and agents come, go and change."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

import perdure
from patience import PATIENCE_S
from perdure.v1 import spec_pb2, workflow_pb2, workflow_service_pb2, workflow_service_pb2_grpc
from services import Process, Service, running

pytestmark = pytest.mark.timeout(600)

MODULE = """
import datetime
import pathlib

import perdure


@perdure.task(name="when", version="{version}")
def when(day: datetime.date, folder: str) -> datetime.date:
    with open(pathlib.Path(folder, "lines"), "a") as file:
        file.write("{version}\\n")
    return day + datetime.timedelta({version})


@perdure.task(name="later")
def later(day: datetime.date, folder: str):
    return when.bind(perdure.event("go"), folder)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "named.py").write_text(MODULE.format(version=3))
    return tmp_path


class Calls:
    """Raw calls, as other languages make them."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.stub: Any = workflow_service_pb2_grpc.WorkflowServiceStub(self.channel)

    def start(self, workflow_id: str, name: str, arguments: Any, version: str = "", wait_s: int = 0) -> Any:
        entrypoint = spec_pb2.Entrypoint(name=name, version=version, arguments=json.dumps(arguments))
        request = workflow_service_pb2.RunRequest(
            workflow_id=workflow_id, source=spec_pb2.WorkflowSource(entrypoint=entrypoint)
        )
        if wait_s:
            request.wait.CopyFrom(Duration(seconds=wait_s))
        return self.stub.Run(request, wait_for_ready=True, timeout=PATIENCE_S)

    def output(self, workflow_id: str) -> Any:
        while True:
            request = workflow_service_pb2.GetOutputRequest(workflow_id=workflow_id, wait=Duration(seconds=20))
            answer = self.stub.GetOutput(request, wait_for_ready=True, timeout=PATIENCE_S)
            if answer.done:
                assert answer.outcome.WhichOneof("kind") == "output", answer
                return json.loads(answer.outcome.output.data)

    def waiting(self, workflow_id: str) -> Any:
        request = workflow_service_pb2.GetStatusRequest(workflow_id=workflow_id)
        return self.stub.GetStatus(request, wait_for_ready=True, timeout=PATIENCE_S).workflow.waiting


def known(service: Service, *names: str) -> None:
    """Until the service knows these functions, served now."""
    with perdure.SyncClient(service.address, patience=PATIENCE_S) as client:
        for _ in range(PATIENCE_S * 20):
            served = {f"{info.name}@{info.version}" for info in client.functions(all_versions=True) if info.is_served}
            if set(names) <= served:
                return
            pause()
    raise AssertionError(f"not served: {names}")


def pause() -> None:
    """Between two looks at another process."""
    import time

    time.sleep(0.05)


def waits_for(calls: Calls, workflow_id: str, reason: int) -> None:
    for _ in range(PATIENCE_S * 20):
        if calls.waiting(workflow_id).reason == reason:
            return
        pause()
    raise AssertionError(calls.waiting(workflow_id))


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    service = Service(folder, "--executor", "local", "--import", "named", cwd=folder)
    with running(service):
        service.up()
        known(service, "when@3")
        yield service


def test_a_run_keeps_its_version_and_waits_for_a_worker_that_has_it(folder: Path, service: Service) -> None:
    calls = Calls(service.address)
    arguments = {"day": "2026-01-01", "folder": str(folder)}
    calls.start("held", "later", arguments)
    assert calls.start("now", "when", arguments, wait_s=25).outcome.output.data == b'"2026-01-04"'
    with perdure.SyncClient(service.address, patience=PATIENCE_S) as client:
        (folder / "named.py").write_text(MODULE.format(version=4))
        service.kill()
        service.up()
        known(service, "when@4")
        assert calls.start("new", "when", arguments, wait_s=25).outcome.output.data == b'"2026-01-05"'
        calls.start("old", "when", arguments, "3")
        waits_for(calls, "old", workflow_pb2.WAIT_REASON_NO_FUNCTION)
        assert "'when' version '3'" in calls.waiting("old").text
        (folder / "named.py").write_text(MODULE.format(version=3))
        service.kill()
        service.up()
        assert calls.output("old") == "2026-01-04"
        client.send_event("held", "go", datetime.date(2026, 2, 1))
        assert calls.output("held") == "2026-02-04"
    assert (folder / "lines").read_text().split() == ["3", "4", "3", "3"]


def test_names_are_known_and_refused_before_a_worker_is_there(folder: Path, service: Service) -> None:
    calls = Calls(service.address)
    service.stop()
    (folder / "named.py").write_text("raise RuntimeError('not today')\n")
    service.up()
    calls.start("waits", "when", {"day": "2026-01-01", "folder": str(folder)})
    waits_for(calls, "waits", workflow_pb2.WAIT_REASON_NO_FUNCTION)
    with pytest.raises(grpc.RpcError) as info:
        calls.start("unknown", "whenever", {})
    assert info.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    with pytest.raises(grpc.RpcError) as info:
        calls.start("wrong", "when", {"day": "tomorrow", "folder": ""})
    assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    assert "not today" in service.log_path.read_text()


def test_agents_announce_what_their_workers_have(tmp_path: Path, folder: Path) -> None:
    """Two agents, each with a Ray of its own: one has the old version, one the new."""
    service = Service(folder, "--executor", "agents")
    arguments = {"day": "2026-01-01", "folder": str(folder)}
    agents = []
    for version in (3, 4):
        program = tmp_path / f"program{version}"
        program.mkdir()
        (program / "named.py").write_text(MODULE.format(version=version))
        command = ("-m", "perdure.cli", "agent", "--address", service.address, "--ray-address", "local")
        agents.append(Process(*command, "--ray-cpus", "1", "--import", "named", log=program / "agent.log", cwd=program))
    with running(service), running(agents[0]), running(agents[1]):
        service.up()
        calls = Calls(service.address)
        agents[0].start()
        known(service, "when@3")
        assert calls.start("a", "when", arguments, wait_s=25).workflow.workflow_id == "a"
        assert calls.output("a") == "2026-01-04"
        agents[1].start()
        known(service, "when@4")
        assert calls.start("b", "when", arguments, wait_s=25).workflow.workflow_id == "b"
        assert calls.output("b") == "2026-01-05"
        calls.start("c", "when", arguments, "3")
        assert calls.output("c") == "2026-01-04"
    assert sorted((folder / "lines").read_text().split()) == ["3", "3", "4"]


def test_changed_modules_are_served_at_once(folder: Path) -> None:
    service = Service(folder, "--executor", "local", "--import", "named", "--watch", cwd=folder)
    arguments = {"day": "2026-01-01", "folder": str(folder)}
    with running(service):
        service.up()
        known(service, "when@3")
        calls = Calls(service.address)
        calls.start("held", "later", arguments)
        (folder / "named.py").write_text(MODULE.format(version=5))
        known(service, "when@5")
        assert calls.start("new", "when", arguments, wait_s=25).outcome.output.data == b'"2026-01-06"'
        with perdure.SyncClient(service.address, patience=PATIENCE_S) as client:
            client.send_event("held", "go", datetime.date(2026, 2, 1))
        assert calls.output("held") == "2026-02-06"
