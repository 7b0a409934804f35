"""The functions that clients may call by name.

Workers announce what they have (`Executor.functions`). The store keeps it, so that a function stays known while no
worker is there, and to the other engines of the database.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from perdure import errors
from perdure.service.common.clocks import elapsed_s as since_some_moment_s
from perdure.service.executors.port import Functions
from perdure.service.journal.loops import Loop
from perdure.storage.ports import FunctionStore, StorageError
from perdure.storage.rows import FunctionRow
from perdure.v1.function_service_pb2 import FunctionInfo

Name: TypeAlias = tuple[str, str]
"""Name and version."""
LOOK_S: Final = 1.0
"""The pause between two looks at what workers have. A name that is not known is looked for in the store at most this
often."""
_NUMBER: Final = re.compile(r"([0-9]+)")
_NEVER: Final = frozenset({"builtins"})


class Catalogue:
    """`served` returns what workers have now. `allowed` are the modules whose functions may be called as
    "module:function", with the modules inside of them."""

    def __init__(
        self,
        store: FunctionStore,
        served: Callable[[], Functions],
        clock: Callable[[], int],
        *,
        allowed: tuple[str, ...] = (),
        elapsed_s: Callable[[], float] = since_some_moment_s,
    ) -> None:
        self._store = store
        self._served = served
        self._clock = clock
        self._allowed = allowed
        self._elapsed_s = elapsed_s
        self._known: dict[Name, FunctionInfo] = {}
        self._seen: Functions | None = None
        self._newest_of: dict[str, Name] | None = None  # by name; None: to be made anew
        self._unwritten: dict[Name, FunctionInfo] = {}
        self._read_s = 0.0
        self._looking = Loop("catalogue", self._look, trouble="announced functions cannot be stored")

    async def start(self) -> None:
        """Read what is known. Raises StorageError."""
        await self._read()
        self._looking.start()

    async def stop(self) -> None:
        """Store what is not stored yet, if that is possible at once."""
        await self._looking.stop()
        with suppress(StorageError):
            await self._look()

    # -------------------------------------------------------------------------- asking

    async def find(self, name: str, version: str = "") -> FunctionInfo:
        """A function. Without a version: the newest one that workers have, else the newest that is known. It is stored
        when this returns, so that it stays known as long as a run that names it. Raises FunctionNotFoundError, and
        StorageError."""
        found = self._find(name, version)
        if found is None and self._elapsed_s() - self._read_s >= LOOK_S:
            await self._read()  # another engine may have learnt of it
            found = self._find(name, version)
        if found is None:
            raise self._unknown(name, version)
        if (found.name, found.version) in self._unwritten:
            await self._write()
        return found

    def is_served(self, info: FunctionInfo) -> bool:
        """Whether a worker of this engine has it."""
        return (info.name, info.version) in self._served()

    async def list(self, prefix: str, *, all_versions: bool) -> list[FunctionInfo]:
        """Functions by name, then from the newest version to the oldest."""
        await self._read()
        self._take()
        named = [name for name in self._known if name[0].startswith(prefix)]
        if not all_versions:
            named = [name for name in named if self._newest(name[0]) == name]
        named.sort(key=lambda name: age_of(name[1]), reverse=True)
        named.sort(key=lambda name: name[0])
        return [self._known[name] for name in named]

    def check_module(self, name: str) -> None:
        """Raise FunctionNotFoundError unless "module:function" may be called."""
        module = name.partition(":")[0]
        if module.partition(".")[0] in _NEVER or not any(
            module == allowed or module.startswith(f"{allowed}.") for allowed in self._allowed
        ):
            raise errors.FunctionNotFoundError(
                f"{name!r} may not be called: the service allows no functions of the module {module!r}. Register the "
                "function (@perdure.task(name=...) in a module that workers import), or start the service with "
                f"--allow-modules {module}",
                function=name,
            )

    # -------------------------------------------------------------------------- what is known

    def _find(self, name: str, version: str) -> FunctionInfo | None:
        self._take()
        if version:
            return self._known.get((name, version))
        newest = self._newest(name)
        return None if newest is None else self._known[newest]

    def _newest(self, name: str) -> Name | None:
        """The version that a run without one gets."""
        if self._newest_of is None:
            self._newest_of = {}
            served = self._seen or {}
            for each in sorted(self._known, key=lambda each: (each in served, age_of(each[1]))):
                self._newest_of[each[0]] = each
        return self._newest_of.get(name)

    def _unknown(self, name: str, version: str) -> errors.FunctionNotFoundError:
        versions = sorted((each[1] for each in self._known if each[0] == name), key=age_of)
        if versions:
            others = ", ".join(repr(each) for each in versions[-10:])
            text = f"there is no version {version!r} of the function {name!r}; known are {others}"
        else:
            text = (
                f"there is no function {name!r}. Workers announce the functions of the modules that they are told to "
                "import: perdure serve --import MODULE"
            )
        return errors.FunctionNotFoundError(text, function=name, version=version)

    def _take(self) -> None:
        """Learn what workers have now."""
        served = self._served()
        if served is self._seen:
            return
        self._seen = served
        self._newest_of = None
        for name, announced in served.items():
            known = self._known.get(name)
            if known is not None and _content(known) == _content(announced):
                continue
            info = FunctionInfo()
            info.CopyFrom(announced)
            info.announce_time.FromMilliseconds(self._clock())
            self._known[name] = self._unwritten[name] = info

    async def _look(self) -> float:
        self._take()
        await self._write()
        return LOOK_S

    async def _write(self) -> None:
        if self._unwritten:
            written = dict(self._unwritten)
            await self._store.write_functions([_row(info) for info in written.values()])
            for name, info in written.items():
                if self._unwritten.get(name) is info:
                    del self._unwritten[name]

    async def _read(self) -> None:
        self._read_s = self._elapsed_s()
        for row in await self._store.read_functions():
            name = row.name, row.version
            if name not in self._unwritten and (info := _info(row)) is not None:
                self._known[name] = info
        self._newest_of = None


def age_of(version: str) -> tuple[tuple[int, int, str], ...]:
    """Orders versions: numbers in them count as numbers, so "9" is before "10"."""
    parts = _NUMBER.split(version)
    return tuple((1, int(part), "") if _NUMBER.fullmatch(part) else (0, 0, part) for part in parts if part)


def _content(info: FunctionInfo) -> bytes:
    """What workers say of it."""
    if not info.HasField("announce_time"):
        return info.SerializeToString(deterministic=True)
    said = FunctionInfo()
    said.CopyFrom(info)
    said.ClearField("announce_time")
    return said.SerializeToString(deterministic=True)


def _row(info: FunctionInfo) -> FunctionRow:
    data = info.SerializeToString(deterministic=True)
    return FunctionRow(info.name, info.version, data, info.announce_time.ToMilliseconds())


def _info(row: FunctionRow) -> FunctionInfo | None:
    try:
        return FunctionInfo.FromString(row.info)
    except DecodeError:
        return None
