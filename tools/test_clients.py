"""`make test-clients`: every client in clients/ does what clients/conformance.yaml lists, against a real service.

python tools/test_clients.py [CLIENT ...]. A client is a folder with a conformance.json:

    needs   commands without which the client is skipped
    build   command lines that are run first
    run     the command line of its conformance program

Commands are run in the client's folder. `{build}` in them is an empty folder, which is removed in the end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import grpc
import yaml  # type: ignore[import-untyped]

from perdure.v1.function_service_pb2 import ListFunctionsRequest
from perdure.v1.function_service_pb2_grpc import FunctionServiceStub

CLIENTS: Final = Path(__file__).parent.parent / "clients"
CASES: Final = CLIENTS / "conformance.yaml"
FUNCTIONS: Final = CLIENTS / "conformance"
READY: Final = " serves on "
START_S: Final = 60.0
STOP_S: Final = 30.0
PROGRAM_S: Final = 300.0
POLL_S: Final = 0.05
LOG_LINES: Final = 40


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def environment(**more: str) -> dict[str, str]:
    """That of this process, without settings of another service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")} | more


def end(process: subprocess.Popen[str]) -> None:
    """SIGKILL, to a process that leads a group and to all of the group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Engine:
    """`perdure serve` with its workers, which can be killed and started again on the same ports and storage.

    One thread does all of that, one thing at a time. It lives as long as the engine is needed: with --with-parent, an
    engine ends with the thread that started it.
    """

    def __init__(self, folder: Path) -> None:
        self.address = free_address()
        self.http_address = free_address()
        self.log: list[str] = []
        self._folder = folder
        self._keeper = ThreadPoolExecutor(1)
        self._is_over = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Returns when it serves, and its workers have announced their functions."""
        self._keeper.submit(self._start).result()
        self._wait_for_functions()

    def restart(self) -> None:
        """Kill it; returns when it serves again."""
        self._keeper.submit(self._kill).result()
        self._keeper.submit(self._start).result()

    def leave(self, seconds: float) -> None:
        """Kill it, and start it again that many seconds later. Returns in between."""
        self._keeper.submit(self._kill).result()
        self._keeper.submit(self._come_back, seconds)

    def stop(self) -> None:
        self._is_over.set()
        self._keeper.submit(self._end).result()
        self._keeper.shutdown()

    def _start(self) -> None:
        command = [sys.executable, "-m", "perdure.cli", "serve", "--executor", "local", "--import", "functions"]
        command += ["--listen", self.address, "--http-listen", self.http_address]
        command += ["--storage", str(self._folder / "storage"), "--with-parent", str(os.getpid())]
        self._process = subprocess.Popen(
            command,
            cwd=FUNCTIONS,
            # Workers that are killed leave their temporary folders behind.
            env=environment(PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1", TMPDIR=str(self._folder)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        ready = threading.Event()
        since = len(self.log)
        self._reader = threading.Thread(target=self._read, args=(self._process, ready))
        self._reader.start()
        if not ready.wait(START_S) or not any(READY in line for line in self.log[since:]):
            raise RuntimeError("the engine did not start")

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.log.append(line)
            if READY in line:
                ready.set()
        ready.set()  # it has ended

    def _wait_for_functions(self) -> None:
        """They are announced a moment after the first start. After another one they are known at once."""
        deadline = time.monotonic() + START_S
        with grpc.insecure_channel(self.address) as channel:
            functions: Any = FunctionServiceStub(channel)
            while not functions.ListFunctions(ListFunctionsRequest()).functions:
                if time.monotonic() > deadline:
                    raise RuntimeError("the workers announced no functions")
                time.sleep(POLL_S)

    def _kill(self) -> None:
        """SIGKILL, also to the workers."""
        if self._process is not None:
            end(self._process)
        if self._reader is not None:
            self._reader.join()

    def _come_back(self, seconds: float) -> None:
        if not self._is_over.wait(seconds):
            self._start()

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self._kill()


@contextmanager
def control(engine: Engine) -> Iterator[str]:
    """The URL at which programs have the engine killed."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            url = urlsplit(self.path)
            match url.path:
                case "/restart":
                    engine.restart()
                case "/away":
                    engine.leave(float(parse_qs(url.query)["seconds"][0]))
                case _:
                    self.send_error(404)
                    return
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


@dataclass(frozen=True)
class Client:
    name: str
    needs: Sequence[str]
    build: Sequence[Sequence[str]]
    run: Sequence[str]

    @classmethod
    def read(cls, name: str) -> Client:
        return cls(name, **json.loads((CLIENTS / name / "conformance.json").read_text()))

    @property
    def folder(self) -> Path:
        return CLIENTS / self.name

    def missing(self) -> list[str]:
        return [command for command in self.needs if shutil.which(command) is None]

    def test(self, cases: Sequence[str]) -> list[str]:
        """Print what becomes of each case; gives what is wrong."""
        with tempfile.TemporaryDirectory(prefix="perdure-") as folder:
            build = Path(folder, "build")
            build.mkdir()

            def placed(command: Sequence[str]) -> list[str]:
                return [word.replace("{build}", str(build)) for word in command]

            for command in self.build:
                built = subprocess.run(placed(command), cwd=self.folder, env=environment(), check=False)
                if built.returncode:
                    return [f"{' '.join(command)} ended with {built.returncode}"]
            engine = Engine(Path(folder))
            try:
                engine.start()
                with control(engine) as url:
                    told = {
                        "PERDURE_ADDRESS": engine.address,
                        "PERDURE_HTTP_ADDRESS": engine.http_address,
                        "PERDURE_CONTROL": url,
                        "PERDURE_CONFORMANCE": str(CASES),
                    }
                    wrong = self._run(placed(self.run), told, cases)
            except (RuntimeError, grpc.RpcError) as error:
                wrong = [str(error)]
            finally:
                engine.stop()
            if wrong:
                sys.stdout.writelines(["the end of the engine's log:\n", *engine.log[-LOG_LINES:]])
            return wrong

    def _run(self, command: Sequence[str], told: Mapping[str, str], cases: Sequence[str]) -> list[str]:
        wrong: list[str] = []
        seen: list[str] = []
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment(**told),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        limit = threading.Timer(PROGRAM_S, end, (process,))
        limit.start()
        try:
            assert process.stdout is not None
            for line in map(str.strip, process.stdout):
                print(f"{self.name}: {line}", flush=True)
                verdict, _, rest = line.partition(" ")
                if verdict == "failed":
                    wrong.append(line)
                if verdict in ("ok", "failed"):
                    seen.append(rest.partition(":")[0])
            if code := process.wait():
                wrong.append(f"the program ended with {code}")
        finally:
            limit.cancel()
            end(process)
        wrong += [f"{case} was told {seen.count(case)} times" for case in cases if seen.count(case) != 1]
        wrong += [f"{case} is no case" for case in sorted({*seen} - {*cases})]
        return wrong


def main(names: Sequence[str]) -> int:
    cases = [case["id"] for case in yaml.safe_load(CASES.read_text())["cases"]]
    wrong: dict[str, list[str]] = {}
    for name in names or sorted(path.parent.name for path in CLIENTS.glob("*/conformance.json")):
        client = Client.read(name)
        if missing := client.missing():
            print(f"{name}: skipped, because there is no {', '.join(missing)}", flush=True)
        elif found := client.test(cases):
            wrong[name] = found
        else:
            print(f"{name}: all {len(cases)} cases", flush=True)
    for name, found in wrong.items():
        sys.stdout.writelines(f"{name}: wrong: {what}\n" for what in found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
