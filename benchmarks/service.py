"""`perdure serve` as a process of its own, with a Ray of its own, that can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

START_S = 90
STOP_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """An engine, an agent, and a local Ray. `flags` are of `perdure serve`; without any the engine is on SQLite
    (synchronous=FULL) and files in `folder`, which has its log in any case."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.pid = 0
        self._flags = flags or ("--storage", str(folder / "storage"))
        self._log = folder / "serve.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it takes calls. Workers may still be on their way."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        folders = [str(Path(__file__).parent), environment.get("PYTHONPATH", "")]
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "PYTHONUNBUFFERED": "1"}
        environment.setdefault("RAY_AUTH_MODE", "disabled")
        command = [sys.executable, "-m", "perdure.cli", "serve", "--listen", self.address]
        command += [*self._flags, "--log-level", "warning"]
        said = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pid = self._process.pid
        deadline = time.monotonic() + START_S
        while b" serves on " not in self._log.read_bytes()[said:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to the engine, its agent, Ray and all workers, each by its id, the engine first."""
        processes = self._tree()
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=STOP_S)
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """In good order; what is left after a while is killed."""
        if self._process is None:
            return
        processes = self._tree()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _, alive = psutil.wait_procs(processes, timeout=20)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive)

    def _tree(self) -> list[psutil.Process]:
        try:
            engine = psutil.Process(self.pid)
            return [engine, *engine.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
