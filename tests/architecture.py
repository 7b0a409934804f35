"""The rooms of the code as data, and the parts of ARCHITECTURE.md that are made of data.

`python tests/architecture.py` writes those parts anew; `test_architecture.py` holds the code and the page to the data.
"""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path
from typing import Final

from perdure.engine.graph_run import transitions

PAGE: Final = Path(__file__).parent.parent / "ARCHITECTURE.md"

SDK_BASE = {
    "model",
    "ids",
    "parent",
    "bounded",
    "v1",
    "errors",
    "texts",
    "wire",
    "optionwire",
    "snapshots",
    "graphwire",
    "codec",
    "functions",
    "arguments",
    "rayobjects",
    "failures",
    "told",
    "context",
    "options",
    "raydag",
    "graph",
    "conversion",
    "folders",
    "modules",
    "runtimeenv",
    "tracebacks",
    "actorwire",
    "reminders",
    "selfcalls",
    "registry",
    "announcing",
}
ROOMS = {
    # room: what of Perdure it may import
    "model": set[str](),
    "context": set[str](),
    "logs": set[str](),
    "ids": set[str](),
    "parent": set[str](),
    "bounded": set[str](),
    "errors": {"model", "v1"},
    "texts": {"model", "errors"},
    "wire": {"model", "v1"},
    "optionwire": {"model", "v1", "wire"},
    "snapshots": {"model"},
    "graphwire": {"model", "v1", "wire", "optionwire", "snapshots"},
    "actorwire": {"model", "v1", "wire", "optionwire", "graphwire"},
    "reminders": {"model", "texts", "options"},
    "tracebacks": set[str](),
    "registry": {"texts"},
    "announcing": {"v1"},
    "told": {"texts", "wire"},
    "codec": {"model", "wire", "told", "tracebacks"},
    "functions": {"bounded", "model", "registry", "texts", "told", "codec", "tracebacks"},
    "failures": {"model", "v1", "wire", "told", "codec", "errors", "tracebacks"},
    "arguments": {"model", "v1", "wire", "codec", "failures"},
    "rayobjects": {"bounded", "model", "wire", "codec", "failures"},
    "options": {"bounded", "model", "texts", "codec", "failures"},
    "raydag": {"bounded", "model", "options"},
    "graph": {"model", "texts", "options", "raydag", "registry", "tracebacks"},
    "selfcalls": {"model", "options", "graph"},
    "conversion": {
        "model",
        "wire",
        "codec",
        "functions",
        "arguments",
        "options",
        "raydag",
        "graph",
        "modules",
        "actorwire",
        "selfcalls",
    },
    "folders": set[str](),
    "modules": {"bounded", "codec", "functions", "folders"},
    "runtimeenv": {"bounded", "model", "snapshots", "folders", "modules", "options"},
    "connection": {"v1"},
    "callstream": {"v1", "errors", "connection"},
    "transport": {"v1", "errors", "connection", "callstream", "context", "texts"},
    "blobs": {"model", "bounded", "v1", "errors", "transport"},
    "values": {
        "model",
        "v1",
        "graphwire",
        "codec",
        "arguments",
        "graph",
        "rayobjects",
        "conversion",
        "runtimeenv",
        "transport",
        "blobs",
    },
    "infos": {"model", "v1", "wire"},
    "batches": {
        "model",
        "bounded",
        "ids",
        "v1",
        "wire",
        "errors",
        "options",
        "texts",
        "connection",
        "transport",
        "values",
    },
    "handle": SDK_BASE | {"transport", "blobs", "values", "infos"},
    "ambient": {"context", "loopthread", "transport", "values"},
    "actorcalls": SDK_BASE | {"transport", "values", "infos"},
    "references": {"errors", "texts", "values", "actorcalls", "ambient", "loopthread"},
    "actors": {"graph", "model", "options", "registry", "tracebacks", "values", "actorcalls", "references"},
    "client": SDK_BASE | {"transport", "values", "infos", "batches", "handle", "actorcalls", "actors"},
    "loopthread": set[str](),
    "syncactors": {"infos", "actorcalls", "loopthread"},
    "sync": SDK_BASE | {"values", "infos", "batches", "handle", "client", "loopthread", "references", "syncactors"},
    "workflow": SDK_BASE | {"values", "infos", "batches", "handle", "client", "loopthread", "actorcalls", "actors"},
    "engine": {"model"},
    "storage": {"model", "bounded"},
    "worker": SDK_BASE | {"connection", "storage", "logs"},
    "service": {
        "bounded",
        "connection",
        "parent",
        "ids",
        "engine",
        "storage",
        "wire",
        "optionwire",
        "graphwire",
        "actorwire",
        "announcing",
        "registry",
        "snapshots",
        "v1",
        "model",
        "errors",
        "texts",
    },
}
EXCEPTIONS = {
    "service/executors/local.py": {"worker", "functions", "failures", "context", "tracebacks"},
    "client.py": {"workflow"},  # late, by `Client.local`
}
RAY_FOLDERS = ("workflow/",)
RAY_ROOMS = {"worker/agent.py", "worker/cluster.py", "worker/children.py", "worker/rayoptions.py"}
GRPC_PLACES = ("rpc/", "app.py", "doctor.py")
"""Of the service. All else can be used by other transports as well."""
PURE = {
    "engine": {"__future__", "collections", "dataclasses", "itertools", "typing", "zlib"},
    "model": {"__future__", "collections", "dataclasses", "enum", "json", "typing"},
}
NOBODY_IMPORTS = {"cli", "testing", "pytest_plugin"}
MACHINE_ROOM = "service/machines/"
"""The only room of the service that imports the machines of runs, which stand in folders of the engine."""
SERVICE_LAYERS = (
    # Rooms of one layer may not import each other. A module outside all folders is part of the root, which may import
    # all.
    {"common"},
    {"journal"},
    {"executors"},
    {"catalogue"},
    {"machines"},
    {"runs"},
    {"queue"},
    {"housekeeping"},
    {"operations"},
    {"fleet"},
    {"api"},
    {"rpc", "http"},
)
STORAGE_LAYERS = (
    # an upper one may import lower ones; those of one layer do not know each other
    {"rows", "addresses", "steps", "queries"},
    {"writes"},
    {"ports", "damage"},
    {"storable"},
    {"sqlite", "postgres", "memory", "blobs"},
    {"urls"},
    {"migrate", "examine"},
)


def import_table() -> str:
    """Which room may import which, rooms with the same answer in one line."""
    lines: dict[str, list[str]] = {}
    for room, allowed in ROOMS.items():
        lines.setdefault(_names(allowed), []).append(room)
    rows = [f"| {', '.join(rooms)} | {allowed} |" for allowed, rooms in lines.items()]
    rows += [f"| {place} | {_names(allowed)} as well |" for place, allowed in EXCEPTIONS.items()]
    rows.append(f"| {', '.join(sorted(NOBODY_IMPORTS))} | everything; no other module imports them |")
    return "\n".join(["| room | may import |", "| --- | --- |", *rows])


def _names(rooms: Set[str]) -> str:
    if len(rooms) <= len(SDK_BASE) or not rooms >= SDK_BASE:
        return ", ".join(sorted(rooms)) or "nothing of Perdure"
    return ", ".join(["the base of the SDK", *sorted(rooms - SDK_BASE)])


def service_diagram() -> str:
    """The layers of the service, from the top."""
    layers = [{"app, kernel, process, agent_process, doctor"}, *reversed(SERVICE_LAYERS)]
    lines = ["flowchart TB"]
    lines += [f'    L{number}["{" | ".join(sorted(rooms))}"]' for number, rooms in enumerate(layers)]
    lines.append("    " + " --> ".join(f"L{number}" for number in range(len(layers))))
    return "\n".join(lines)


def renewed(page: str) -> str:
    """The page with its generated parts as the data are now."""
    parts = {
        "service": f"```mermaid\n{service_diagram()}\n```",
        "imports": import_table(),
        "transitions": f"```mermaid\n{transitions.mermaid()}\n```",
    }
    for name, text in parts.items():
        pattern = rf"(<!-- begin {name} -->\n).*?(\n<!-- end {name} -->)"
        page, count = re.subn(pattern, lambda found, text=text: found[1] + text + found[2], page, flags=re.DOTALL)
        assert count == 1, f"ARCHITECTURE.md has {count} places for {name}"
    return page


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
