"""The engine that a cluster gets by itself: one for all drivers, in the place and with the limits asked for, and none
when the cluster has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from patience import PATIENCE_S
from rays import start_cluster

pytestmark = [pytest.mark.ray]

DRIVER = """
import queue, sys, time
import ray
from perdure import workflow
from perdure.workflow.connection import connect
from beside import one

workflow.init(max_running_workflows=1, max_pending_workflows=0)
print(connect().address)
named = sys.argv[1]
try:
    workflow.run(workflow.wait_for_event(key="never"), workflow_id=named) if named == "holds" else None
    while not workflow.list_all("RUNNING"):
        time.sleep(0.05)
    workflow.run(one.bind(), workflow_id=named)
except (queue.Full, workflow.exceptions.WorkflowCancellationError) as error:
    print(isinstance(error, queue.Full))
if named != "holds":
    workflow.cancel("holds")
    print(workflow.run(one.bind()))
    try:
        workflow.init(max_running_workflows=2)
    except ValueError as error:
        print(error)
"""
BESIDE = """
import ray

@ray.remote
def one():
    return 1
"""


def engines(folder: Path) -> list[psutil.Process]:
    """Those that keep their runs below a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "serve" in command and any(part.startswith(str(folder)) for part in command):
            found.append(process)
    return found


def test_two_drivers_race_for_one_engine_which_ends_with_the_cluster(tmp_path: Path) -> None:
    cluster = start_cluster(num_cpus=2)
    try:
        engine = race(cluster.address, tmp_path)
        family = [engine, *engine.children(recursive=True)]
    finally:
        cluster.shutdown()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert alive == []
    assert engines(tmp_path) == []


def race(address: str, tmp_path: Path) -> psutil.Process:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "driver.py").write_text(DRIVER)
    (folder / "beside.py").write_text(BESIDE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    environment |= {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    drivers = [
        subprocess.Popen(
            [sys.executable, str(folder / "driver.py"), name],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("holds", "waits")
    ]
    said = [driver.communicate(timeout=PATIENCE_S) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    (holds, waits) = (out.splitlines() for out, _ in said)
    (engine,) = engines(tmp_path)
    assert str(tmp_path / ".perdure") in engine.cmdline()  # where the drivers run
    assert holds[0] == waits[0]
    assert holds[0].startswith("127.0.0.1:")
    assert holds[-1] == "False"
    assert waits[1:3] == ["True", "1"]
    assert "max_running_workflows" in waits[3]
    return engine
