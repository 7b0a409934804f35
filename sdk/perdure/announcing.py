"""What modules have registered, as a process that imports them says it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from perdure.v1 import function_service_pb2

IMPORT_S: Final = 120.0
"""Modules may import large packages."""
REASON_MAX: Final = 1_000


class ImportFailed(Exception):
    """The modules cannot be imported, or what they register cannot be described. The text is for people."""


def listed(modules: str) -> tuple[str, ...]:
    """Names of modules from a text that has commas between them."""
    return tuple(filter(None, (module.strip() for module in modules.split(","))))


async def announced(modules: Sequence[str]) -> list[function_service_pb2.FunctionInfo]:
    """Import the modules in another process, and describe what they register. Raises ImportFailed."""
    if not modules:
        return []
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "perdure.worker.announce",
        *modules,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    named = ", ".join(modules)
    try:
        async with asyncio.timeout(IMPORT_S):
            answer, said = await process.communicate()
    except TimeoutError:
        raise ImportFailed(f"importing {named} takes more than {IMPORT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise ImportFailed(f"{named} cannot be imported: {lines[-1][:REASON_MAX]}")
    try:
        return list(function_service_pb2.ListFunctionsResponse.FromString(answer).functions)
    except DecodeError as error:
        raise ImportFailed(f"{named} cannot be imported: the process that did says nothing that can be read") from error
