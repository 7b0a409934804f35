"""Perdure as one of the peers of a comparison: an adapter to a harness that runs other systems, too.

python benchmarks/peer_perdure.py FOLDER --out results.json [--only W1,W3]

FOLDER is the harness's; it has to have a module `workloads` with a class `Peer` and `run_peer`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import steps
from service import Service

import perdure


def graph_of(kind: str, arg: dict[str, Any]) -> Any:
    match kind:
        case "one":
            return steps.step.bind(0)
        case "chain":
            return steps.chain(arg["n"], arg["path"] or "")
        case "fan":
            return steps.fan_out(arg["n"])
        case "payload":
            return steps.payload(arg["mib"])
        case "event":
            return perdure.event("event")
        case "sleep":
            return perdure.sleep(arg["seconds"])
        case _:
            raise ValueError(f"unknown kind {kind!r}")


def adapter(harness: Any, folder: Path) -> Any:
    """The adapter, as a subclass of the harness's Peer."""

    class Perdure(harness.Peer):  # type: ignore[misc]
        name = "perdure"
        durability = "SQLite in WAL mode, synchronous=FULL: group commit, at least one flush a step in a chain"
        crash_modes = ("everything",)

        def versions(self) -> dict[str, str]:
            return {name: importlib.metadata.version(name) for name in ("perdure", "ray", "grpcio")}

        async def up(self) -> None:
            self.service = Service(Path(tempfile.mkdtemp(dir=folder)))
            await asyncio.to_thread(self.service.start)
            self.client = perdure.Client(self.service.address, patience=120)
            await self.client.run(steps.fan_out(100))

        async def down(self) -> None:
            await self.client.close()
            await asyncio.to_thread(self.service.stop)

        async def start(self, kind: str, arg: dict[str, Any], wid: str) -> perdure.Handle:
            return await self.client.start(graph_of(kind, arg), workflow_id=wid)

        async def wait(self, handle: perdure.Handle) -> Any:
            return await handle.output()

        async def signal(self, wid: str, value: Any) -> None:
            await self.client.send_event(wid, "event", value)

        async def attach(self, wid: str) -> perdure.Handle:
            return self.client.handle(wid)

        async def crash(self, mode: str) -> None:
            await asyncio.to_thread(self.service.kill)

        async def recover(self, mode: str) -> None:
            await asyncio.to_thread(self.service.start)

    return Perdure()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default="W1,W2,W3,W4,W5,W6,W8,W7")
    given = parser.parse_args()
    sys.path.append(str(given.folder))  # for the modules that the harness imports itself
    found = importlib.util.spec_from_file_location("harness", given.folder / "workloads.py")
    assert found is not None
    assert found.loader is not None
    harness = importlib.util.module_from_spec(found)
    found.loader.exec_module(harness)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        asyncio.run(harness.run_peer(adapter(harness, Path(folder)), given.out, given.only))


if __name__ == "__main__":
    main()
