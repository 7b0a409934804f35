"""What modules have registered, as a process that imports them says it."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import Sequence
from typing import Final

from perdure.v1 import function_service_pb2

log = logging.getLogger(__name__)

TOLD: Final = "perdure: "
"""Begins lines on the standard error that are for the user of the service."""
DONE: Final = b"done\n"
"""Begins a complete answer."""
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
    named = ", ".join(modules)
    command = [sys.executable, "-m", "perdure.worker.announce", *modules]
    # Files, since processes that a module starts may hold pipes open for ever.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=answer, stderr=said
        )
        try:
            async with asyncio.timeout(IMPORT_S):
                code = await process.wait()
        except TimeoutError:
            raise ImportFailed(f"importing {named} takes more than {IMPORT_S:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        answer.seek(0)
        said.seek(0)
        data, lines = answer.read(), said.read().decode(errors="replace").splitlines()
    told = [line.removeprefix(TOLD) for line in lines if line.startswith(TOLD)]
    if code or not data.startswith(DONE):
        why = told[-1] if told else f"the process that did ended with exit code {code}"
        raise ImportFailed(f"{named} cannot be imported: {why[:REASON_MAX]}")
    for line in told:
        log.warning("%s", line[:REASON_MAX])
    return list(function_service_pb2.ListFunctionsResponse.FromString(data.removeprefix(DONE)).functions)
