"""Checks the dependencies of an engine with these settings, and gives advice on problems.

The checks are independent. They change nothing, except that they write, read and remove a small blob and write a file
to time the disk. They make no folder that stays.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import grpc.aio

from perdure.connection import probe_channel
from perdure.service.common.settings import Settings
from perdure.service.kernel import KINDS
from perdure.storage.examine import examine_metadata, examine_rows
from perdure.storage.ports import StorageError
from perdure.storage.urls import blob_folder, blob_store
from perdure.v1 import system_service_pb2, system_service_pb2_grpc

Status = Literal["ok", "warning", "failed"]

FREE_BYTES_LEAST: Final = 1024**3
DURABLE_MS_MOST: Final = 50.0
SKEW_MS_MOST: Final = 2000.0
CHECK_S: Final = 30.0
ROWS_S: Final = 3600.0
"""Reading every row of a large database takes a while."""
SHOWN_MAX: Final = 20
RAY_S: Final = 60.0
ANSWER_S: Final = 3.0
DISTRIBUTIONS: Final = ("perdure", "ray", "grpcio", "protobuf", "cloudpickle", "asyncpg", "aioboto3", "uvloop")
RAY_LEAST: Final = (2, 48)
_JOIN: Final = """
import json, ray, sys
ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
print(json.dumps({"resources": ray.cluster_resources(), "nodes": len([n for n in ray.nodes() if n["Alive"]])}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `advice` is set if there is something to do."""

    check: str
    status: Status
    text: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


async def examine(settings: Settings) -> list[Finding]:
    """All findings, dependencies first. Never raises."""
    checks: tuple[tuple[str, Callable[[Settings], Awaitable[list[Finding]]], float], ...] = (
        ("versions", _versions, CHECK_S),
        ("storage", _storage, CHECK_S),
        ("rows", _rows, ROWS_S),
        ("blobs", _blobs, CHECK_S),
        ("ports", _ports, CHECK_S),
        ("ray", _ray, RAY_S + 5),
    )
    found: list[Finding] = []
    for name, check, most_s in checks:
        try:
            found += await asyncio.wait_for(check(settings), most_s)
        except TimeoutError:
            found.append(Finding(name, "failed", f"no answer within {most_s:.0f} s", "look whether it is overloaded"))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            found.append(Finding(name, "failed", text, "this is unexpected; please report it"))
    return found


async def _versions(_settings: Settings) -> list[Finding]:
    facts = {name: found for name in DISTRIBUTIONS if (found := _version_of(name)) is not None}
    facts["python"] = platform.python_version()
    text = ", ".join(f"{name} {version}" for name, version in facts.items())
    return [Finding("versions", "ok", f"{text} on {platform.platform()}", facts=facts)]


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ------------------------------------------------------------------------------ storage


async def _storage(settings: Settings) -> list[Finding]:
    try:
        facts = await examine_metadata(settings.storage)
    except (StorageError, ValueError) as error:
        return [Finding("storage", "failed", str(error), "see --storage and PERDURE_STORAGE")]
    kind = facts["kind"]
    text = " ".join(filter(None, (kind, facts.get("path") or facts.get("url"))))
    if "schema" in facts:
        text += f", schema {facts['schema']} of {facts['schema_known']}"
    if "note" in facts:
        text += f": {facts['note']}"
    elif facts.get("is_in_use"):
        text += ", in use by an engine"
    found = [Finding("storage", "ok", text, facts=facts)]
    found += _of_room(facts)
    found += _of_speed(facts)
    found += _of_clock(facts)
    if facts.get("has_checksums") is False:
        text = "the database keeps no checksums of its pages, so a bit that flips on its disk goes unnoticed"
        found.append(Finding("checksums", "warning", text, "end the database and run `pg_checksums --enable`"))
    if facts.get("unsafe"):
        text = f"the database may lose what it acknowledged: {', '.join(facts['unsafe'])}"
        found.append(Finding("durability", "failed", text, "turn it on in postgresql.conf"))
    return found


async def _rows(settings: Settings) -> list[Finding]:
    """Whether stored rows are undamaged."""
    try:
        damages = await examine_rows(settings.storage, KINDS.names)
    except (StorageError, ValueError):
        return []  # reported by the storage check
    if damages is None:
        return []
    if not damages:
        return [Finding("rows", "ok", "no row is damaged")]
    shown = "\n    ".join(damages[:SHOWN_MAX])
    more = f"\n    and {len(damages) - SHOWN_MAX} more" if len(damages) > SHOWN_MAX else ""
    return [Finding("rows", "failed", f"damaged:\n    {shown}{more}", _RESTORE, {"damages": damages})]


_RESTORE: Final = (
    "the runs concerned fail with CORRUPT_DATA, others go on; to have them back, restore a backup "
    "(see Damage in docs/how-to/operations.md)"
)


def _of_room(facts: Mapping[str, Any]) -> list[Finding]:
    if "free_bytes" not in facts:
        return []
    free = facts["free_bytes"]
    text = f"{free / 1024**3:.1f} GiB are free"
    if free < FREE_BYTES_LEAST:
        advice = "make room, or delete finished workflows (--keep-finished)"
        return [Finding("room", "warning" if free else "failed", text, advice)]
    return [Finding("room", "ok", text)]


def _of_speed(facts: Mapping[str, Any]) -> list[Finding]:
    if "milliseconds" not in facts:
        return []
    took_ms = facts["milliseconds"]
    text = f"making something durable takes {took_ms} ms"
    if took_ms > DURABLE_MS_MOST:
        return [Finding("speed", "warning", text, "every step of a chain waits for that; use a faster disk or network")]
    return [Finding("speed", "ok", text)]


def _of_clock(facts: Mapping[str, Any]) -> list[Finding]:
    if "skew_ms" not in facts:
        return [Finding("clock", "ok", "the storage is on this machine and has its clock")]
    skew_ms = facts["skew_ms"]
    text = f"the clock of the database is {abs(skew_ms):.0f} ms {'ahead' if skew_ms >= 0 else 'behind'}"
    if abs(skew_ms) - facts["round_trip_ms"] > SKEW_MS_MOST:
        advice = "timers fire by the engine's clock, so they are that late or early; run NTP on both machines"
        return [Finding("clock", "warning", text, advice)]
    return [Finding("clock", "ok", text)]


async def _blobs(settings: Settings) -> list[Finding]:
    url = settings.blob_url
    shown = url.partition("?")[0]
    try:
        with _blobs_to_try(url) as tried:
            return [await _try_blobs(tried, shown)]
    except ValueError as error:
        return [Finding("blobs", "failed", str(error), "see --blobs and PERDURE_BLOBS")]
    except OSError as error:
        return [Finding("blobs", "failed", f"{shown}: {error.strerror}: {error.filename}", _BLOB_RIGHTS)]


@contextmanager
def _blobs_to_try(url: str) -> Iterator[str]:
    """A folder that does not exist is not made: another one is, and removed again, where it would be."""
    folder = blob_folder(url)
    if folder is None or folder.exists():
        yield url
        return
    above = next(above for above in folder.absolute().parents if above.exists())
    with tempfile.TemporaryDirectory(prefix=".perdure-doctor-", dir=above) as place:
        yield Path(place).as_uri()


_BLOB_RIGHTS: Final = "blobs must be written, read, listed and removed; engines and workers need the same rights"


async def _try_blobs(url: str, shown: str) -> Finding:
    store = blob_store(url)
    data = b"written by perdure doctor " + secrets.token_bytes(16)
    start_s = time.perf_counter()
    try:
        blob = await store.put([data])
        try:
            if bytes(await store.get(blob.sha256)) != data:
                raise StorageError("what was read is not what was written")
        finally:
            await store.delete(blob.sha256)
        if await store.size(blob.sha256) is not None:
            raise StorageError("what was removed is still there")
    except StorageError as error:
        return Finding("blobs", "failed", f"{shown}: {error}", _BLOB_RIGHTS)
    finally:
        await store.close()
    took_ms = (time.perf_counter() - start_s) * 1000
    text = f"{shown}: written, read and removed in {took_ms:.0f} ms"
    return Finding("blobs", "ok", text, facts={"url": shown, "milliseconds": round(took_ms, 1)})


# ------------------------------------------------------------------------------ around


async def _ports(settings: Settings) -> list[Finding]:
    found = [await _port("port", settings.listen)]
    if settings.http_listen:
        found.append(await _port("http port", settings.http_listen))
    return found


async def _port(name: str, address: str) -> Finding:
    host, _, port = address.rpartition(":")
    if port == "0":
        return Finding(name, "ok", f"{host}: a free port is taken at the start")
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, kind, _, _, place = addresses[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        version = await _engine_at(address) if name == "port" else None
        if version is not None:
            return Finding(name, "ok", f"{address}: an engine of version {version} serves here")
        advice = "another program has it, or the address is not this machine's: choose another one"
        return Finding(name, "failed", f"{address} cannot be listened on: {error}", advice)
    return Finding(name, "ok", f"{address} is free")


async def _engine_at(address: str) -> str | None:
    async with probe_channel(address) as channel:
        stub = system_service_pb2_grpc.SystemServiceStub(channel)
        try:
            answer = await stub.GetSystemInfo(system_service_pb2.GetSystemInfoRequest(), timeout=ANSWER_S)
        except grpc.aio.AioRpcError:
            return None
        return str(answer.server_version)


async def _ray(settings: Settings) -> list[Finding]:
    if settings.executor != "ray":
        return [Finding("ray", "ok", f"not needed here: the executor is {settings.executor}")]
    version = _version_of("ray")
    if version is None:
        return [Finding("ray", "failed", "Ray is not installed", "pip install 'perdure[ray]', or --executor agents")]
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < RAY_LEAST:
        least = ".".join(map(str, RAY_LEAST))
        return [Finding("ray", "failed", f"Ray {version} is too old", f"install Ray {least} or newer")]
    if settings.ray_address == "local":
        text = f"Ray {version} starts with the engine, with Python {platform.python_version()}"
        return [Finding("ray", "ok", text, facts={"version": version})]
    return [await _cluster(settings.ray_address, version)]


async def _cluster(address: str, version: str) -> Finding:
    """Check a Ray cluster. A separate process joins it, so that Ray leaves nothing in this one."""
    environment = {**os.environ, "RAY_DEDUP_LOGS": "0"}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _JOIN, address, stdout=pipe, stderr=pipe, env=environment
    )
    try:
        output, said = await asyncio.wait_for(process.communicate(), RAY_S)
    except TimeoutError:
        return Finding("ray", "failed", f"the cluster at {address} does not answer within {RAY_S:.0f} s", _ADVICE)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended
                process.kill()
            await process.wait()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        return Finding("ray", "failed", f"the cluster at {address}: {lines[-1] if lines else 'no answer'}", _ADVICE)
    facts = {"version": version, **json.loads(output.decode().strip().splitlines()[-1])}
    text = f"Ray {version} at {address}: {facts['nodes']} nodes, {facts['resources'].get('CPU', 0):g} CPUs"
    return Finding("ray", "ok", text, facts=facts)


_ADVICE: Final = "look at `ray status` there; Ray and Python must be of the same versions on both sides"
