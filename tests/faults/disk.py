"""A disk that can be cut off at any call, and that loses at a power failure what was not flushed.

Knows what the blob store calls: open, write, fsync, mkdir, replace, unlink. The files are real; what is
kept here is which names and which bytes of them are on the disk for good.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
from pathlib import Path
from typing import Any, Literal

import pytest

When = Literal["before", "in", "after"]


class Crash(BaseException):
    """The process ends here: nothing after it happens, no clean-up either."""


class Disk:
    """Counts the calls, and ends the process at the one numbered `crash_at` (0: at none)."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.crash_at = 0
        self.when: When = "before"
        self.is_dead = False
        self._loose: set[Path] = set()  # names that no flush of their folder has seen
        self._unflushed: set[int] = set()  # inodes with bytes that were not flushed
        self._real = {name: getattr(os, name) for name in ("fsync", "mkdir", "replace", "unlink")}
        self._open = Path.open
        patch.setattr(Path, "open", lambda path, *args, **kwargs: self._opened(path, *args, **kwargs))
        for name in self._real:
            patch.setattr(os, name, self._intercept(name))

    def arm(self, crash_at: int, when: When) -> None:
        self.calls, self.crash_at, self.when, self.is_dead = [], crash_at, when, False

    def heal(self) -> None:
        """A new process."""
        self.arm(0, "before")

    @property
    def has_crashed(self) -> bool:
        return self.is_dead

    def _intercept(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.step(name)
            try:
                answer = self._real[name](*args, **kwargs)
                self._note(name, *args)
            except OSError:
                self.stepped()
                raise
            self.stepped()
            return answer

        return call

    def step(self, name: str) -> None:
        """A call is about to happen."""
        if self.is_dead:
            raise Crash(name)
        self.calls.append(name)
        if self.when == "before":
            self._die_if_due()

    def stepped(self) -> None:
        """It has happened."""
        if self.when != "before":
            self._die_if_due()

    def is_due(self) -> bool:
        return len(self.calls) == self.crash_at

    def _die_if_due(self) -> None:
        if self.is_due():
            self.is_dead = True
            raise Crash(self.calls[-1])

    def _opened(self, path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode != "xb":
            return self._open(path, mode, *args, **kwargs)
        self.step("open")
        file = _File(self, path)
        self._loose.add(path)
        try:
            self.stepped()
        except Crash:
            file.close()
            raise
        return file

    def _note(self, name: str, *args: Any) -> None:
        match name:
            case "mkdir":
                self._loose.add(Path(args[0]))
            case "replace":
                self._loose.discard(Path(args[0]))
                self._loose.add(Path(args[1]))
            case "unlink":
                self._loose.discard(Path(args[0]))
            case _:
                status = os.fstat(args[0])
                if stat.S_ISDIR(status.st_mode):
                    self._loose -= {path for path in self._loose if os.path.samestat(path.parent.stat(), status)}
                else:
                    self._unflushed.discard(status.st_ino)

    def written(self, file: io.FileIO) -> None:
        self._unflushed.add(os.fstat(file.fileno()).st_ino)

    def lose_power(self, root: Path, *, keep_names: bool) -> None:
        """Lose everything that was not flushed. Names may have reached the disk without a flush, or not."""
        for path in root.rglob("*"):
            if path.is_file() and path.stat().st_ino in self._unflushed:
                os.truncate(path, path.stat().st_size // 2)
        if not keep_names:
            for path in sorted(self._loose, key=lambda path: len(path.parts)):
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.exists():
                    self._real["unlink"](path)
        self._loose.clear()
        self._unflushed.clear()


class _File(io.FileIO):
    def __init__(self, disk: Disk, path: Path) -> None:
        super().__init__(path, "xb")
        self._disk = disk

    def write(self, data: Any) -> int:
        self._disk.step("write")
        if self._disk.when == "in" and self._disk.is_due():
            data = data[: len(data) // 2]
        count = super().write(data)
        self._disk.written(self)
        self._disk.stepped()
        return count
