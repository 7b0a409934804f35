"""Programs that bring a Ray cluster of their own, for tests that kill all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from patience import PATIENCE_S

SAID = "said: "
"""Begins the lines that `said` reads; JSON follows."""


def program(what: str, folder: Path) -> subprocess.Popen[str]:
    """Starts `program.py` of the folder, with this argument and the folder, on the storage of the folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    environment |= {"RAY_AUTH_MODE": "disabled", "PERDURE_STORAGE": str(folder / "storage")}
    with (folder / f"{what}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, str(folder / "program.py"), what, str(folder)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def kill_all(process: subprocess.Popen[str]) -> None:
    """The driver and every process of its cluster, the engine among them: by id, none gets to say goodbye."""
    with suppress(psutil.NoSuchProcess):
        found = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in found:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGSTOP)  # so that no process reacts to the end of another
        for one in found:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(found, timeout=PATIENCE_S)
    process.communicate()


def said(process: subprocess.Popen[str], log: Path) -> Any:
    """What the program says next. Ray writes lines of its own beside it."""
    assert process.stdout is not None
    heard = []
    for line in process.stdout:
        if line.startswith(SAID):
            return json.loads(line.removeprefix(SAID))
        heard.append(line)
    pytest.fail("".join([*heard, log.read_text()[-3000:]]))
