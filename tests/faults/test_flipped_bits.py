"""A bit flips in a small database at rest: the runs concerned fail and name the place, all others end as they
would have, the doctor finds it, and an engine that cannot start says why.

PERDURE_TEST_ALL_ROWS=1 damages every row instead of one of each table.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from faults.small_database import ABSENT, CORRUPT, IDS, copy, make, outcomes
from perdure.storage.examine import examine_rows
from perdure.storage.ports import StorageError

ALL_ROWS = os.environ.get("PERDURE_TEST_ALL_ROWS") == "1"
NAMED_BY = {("runs", "workflow_id"), ("runs", "namespace"), ("runs", "is_current"), ("runs", "run_id")}
"""Columns by which a run is found: one that was changed together with its index is not found any more."""
UNSEALED = {("runs", "owner")}
"""In an embedded database it says nothing."""
HARMLESS = {"counters", "migrations", "labels", "blob_uses", "blob_marks", "mail", "tombstones", "functions"}
"""Tables without which every run goes on."""


@dataclass(frozen=True)
class Small:
    folder: Path
    expected: Mapping[str, str]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small") / "made"
    asyncio.run(make(folder))
    copy(folder, folder.with_name("untouched"))
    expected = asyncio.run(outcomes(folder.with_name("untouched")))
    assert set(expected.values()).isdisjoint({CORRUPT, ABSENT})
    return Small(folder, expected)


def columns() -> Iterator[tuple[str, str]]:
    """Those of the tables that have rows."""
    connection = sqlite3.connect(":memory:")
    from perdure.storage.sqlite.schema import migrate as migrate_sqlite

    migrate_sqlite(connection, Path(":memory:"))
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
        if table not in ("engines", "sqlite_sequence", "mail", "blob_marks"):
            for _, name, *_ in connection.execute(f"PRAGMA table_info({table})"):
                yield table, name
    connection.close()


def flipped(value: object, kind: str) -> object:
    """A value with one bit flipped, or None if it has none of that kind."""
    match value, kind:
        case int(), "low":
            return value ^ 1
        case int(), "high":
            return value ^ (1 << 52)
        case bytes() | str(), _ if value:
            data = bytearray(value.encode() if isinstance(value, str) else value)
            data[len(data) // 2] ^= 2 if kind == "low" else 128
            return bytes(data)
        case _:
            return None


@pytest.mark.parametrize(("table", "column"), list(columns()))
def test_a_flipped_bit_in_a_row_fails_the_run_concerned_alone(
    tmp_path: Path, small: Small, table: str, column: str
) -> None:
    chance = random.Random(f"{table}.{column}")
    connection = sqlite3.connect(small.folder / "perdure.db")
    rows = [row for (row,) in connection.execute(f"SELECT {_key(table)} FROM {table}")]
    connection.close()
    for number, row in enumerate(rows if ALL_ROWS else chance.sample(rows, 1)):
        for kind in ("low", "high"):
            folder = tmp_path / f"{number}-{kind}"
            path = copy(small.folder, folder)
            concerned = damage(path, table, column, row, kind)
            if concerned is not None:
                asyncio.run(check(folder, small.expected, table, column, concerned, f"{row} {kind}"))


def _key(table: str) -> str:
    return {"counters": "name", "labels": "key || value || run_id", "blob_uses": "run_id || task_id || sha256"}.get(
        table, "rowid"
    )


def damage(path: Path, table: str, column: str, row: Any, kind: str) -> set[str] | None:
    """Flip a bit; gives the workflow ids concerned. None: there is nothing to flip."""
    connection = sqlite3.connect(path)
    where = f"{_key(table)} = ?"
    value, is_text = connection.execute(
        f"SELECT CASE typeof({column}) WHEN 'text' THEN CAST({column} AS BLOB) ELSE {column} END, "
        f"typeof({column}) = 'text' FROM {table} WHERE {where}",
        (row,),
    ).fetchone()
    changed = flipped(value, kind)
    if changed is None:
        connection.close()
        return None
    concerned = _concerned(connection, table, where, row)
    new = "CAST(? AS TEXT)" if is_text else "?"
    try:
        with connection:
            connection.execute(f"UPDATE {table} SET {column} = {new} WHERE {where}", (changed, row))
    except sqlite3.IntegrityError:  # another row has that value
        return None
    finally:
        connection.close()
    return concerned


def _concerned(connection: sqlite3.Connection, table: str, where: str, row: Any) -> set[str]:
    if table in HARMLESS:
        return set()
    if table == "specs":
        statement = (
            "SELECT workflow_id FROM runs WHERE spec_key = (SELECT key FROM specs WHERE rowid = ?1) OR run_id IN "
            "(SELECT run_id FROM tasks WHERE spec_key = (SELECT key FROM specs WHERE rowid = ?1))"
        )
    else:
        statement = f"SELECT workflow_id FROM runs WHERE run_id = (SELECT run_id FROM {table} WHERE {where})"
    return {name for (name,) in connection.execute(statement, (row,))}


async def check(
    folder: Path, expected: Mapping[str, str], table: str, column: str, concerned: set[str], what: str
) -> None:
    damages = await examine_rows(str(folder))
    if (table, column) not in UNSEALED:
        assert damages, f"the doctor does not find {table}.{column} {what}"
        assert any(table in damage for damage in damages), damages
    try:
        found = await outcomes(folder)
    except StorageError:
        if table != "migrations":
            raise
        return
    for name in IDS:
        allowed = {expected[name]}
        if name in concerned:
            allowed |= {CORRUPT, ABSENT} if (table, column) in NAMED_BY else {CORRUPT}
        assert found[name] in allowed, f"{table}.{column} {what}: {name} {damages}"


# ------------------------------------------------------------------------------ pages


def places(path: Path) -> dict[str, list[int]]:
    """Offsets in the file by what is there."""
    data = path.read_bytes()
    size = int.from_bytes(data[16:18], "big")
    found: dict[str, list[int]] = {"file header": list(range(100))}
    for start in range(0, len(data), size):
        head = start + (100 if start == 0 else 0)
        kind = {2: "index inner", 5: "table inner", 10: "index leaf", 13: "table leaf"}.get(data[head], "overflow")
        if kind == "overflow":
            found.setdefault(kind, []).extend(range(start, start + size))
            continue
        length = 12 if "inner" in kind else 8
        cells = int.from_bytes(data[head + 3 : head + 5], "big")
        content = start + int.from_bytes(data[head + 5 : head + 7], "big")
        pointers = head + length
        found.setdefault(f"{kind} head", []).extend(range(head, pointers))
        found.setdefault(f"{kind} pointers", []).extend(range(pointers, pointers + 2 * cells))
        found.setdefault("free", []).extend(range(pointers + 2 * cells, content))
        found.setdefault(f"{kind} cells", []).extend(range(content, start + size))
    return found


CLASSES = (
    "file header", "table leaf head", "table leaf pointers", "table leaf cells", "index leaf head",
    "index leaf pointers", "index leaf cells", "table inner cells", "overflow", "free",
)  # fmt: skip
FLIPS = int(os.environ.get("PERDURE_TEST_FLIPS", "3"))
"""Of each class of places."""


@pytest.mark.parametrize("which", CLASSES)
def test_a_flipped_bit_in_a_page_is_no_wrong_answer(tmp_path: Path, small: Small, which: str) -> None:
    chance = random.Random(which)
    offsets = places(small.folder / "perdure.db").get(which, [])
    for number in range(FLIPS if offsets else 0):
        offset, bit = chance.choice(offsets), chance.randrange(8)
        folder = tmp_path / str(number)
        path = copy(small.folder, folder)
        data = bytearray(path.read_bytes())
        data[offset] ^= 1 << bit
        path.write_bytes(data)
        asyncio.run(check_page(folder, small.expected, f"{which} {offset} bit {bit}"))


@pytest.mark.parametrize(
    ("table", "beside"),
    [
        ("runs", ""),
        ("tasks", ""),
        ("events", ""),
        ("inputs", ""),
        ("runs", "labels"),
        ("tasks", "runs"),
        ("events", "runs"),
    ],
)
def test_flipped_bits_in_the_index_of_a_primary_key_hide_no_row(
    tmp_path: Path, small: Small, table: str, beside: str
) -> None:
    """A hidden record of a task would let the task run again. The table `beside` has a damaged row."""
    path = copy(small.folder, tmp_path / "copy")
    connection = sqlite3.connect(path)
    (page,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND sql IS NULL AND tbl_name = ?", (table,)
    ).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    runs = [run for (run,) in connection.execute(f"SELECT DISTINCT run_id FROM {table} NOT INDEXED")]
    done = "(SELECT run_id FROM runs WHERE workflow_id = 'done')"
    with connection:
        if beside == "labels":
            connection.execute(f"UPDATE labels SET value = 'x' WHERE run_id = {done}")
        elif beside == "runs":
            connection.execute(f"UPDATE runs SET update_ms = update_ms + 1 WHERE run_id = {done}")
    connection.close()
    data = bytearray(path.read_bytes())
    start = (page - 1) * size
    offsets = [offset for run in runs if (offset := data.find(run.encode(), start, start + size)) >= 0]
    assert offsets
    for offset in offsets:
        data[offset + 20] ^= 2
    path.write_bytes(data)

    found = asyncio.run(outcomes(path.parent))

    names = [name for name in IDS if not (name == "done" and beside == "runs")]
    assert {name: found[name] for name in names} == {name: small.expected[name] for name in names}


def test_sixty_flipped_bytes_are_no_wrong_answer(tmp_path: Path, small: Small) -> None:
    for seed in range(FLIPS):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        path = copy(small.folder, folder)
        data = bytearray(path.read_bytes())
        for _ in range(60):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        asyncio.run(check_page(folder, small.expected, f"seed {seed}"))


async def check_page(folder: Path, expected: Mapping[str, str], what: str) -> None:
    """Every run ends as it would have, or fails for its damage; or nothing starts, and the message says what to do."""
    try:
        damages = await examine_rows(str(folder))
    except StorageError as error:
        damages = [str(error)]
    said = ""
    try:
        found = await outcomes(folder)
    except StorageError as error:
        found, said = dict.fromkeys(IDS, CORRUPT), str(error)
    assert not said or ("perdure.db" in said and "restore a backup" in said), f"{what}: {said}"
    wrong = {name: found[name] for name in IDS if found[name] not in (expected[name], CORRUPT)}
    assert not wrong, f"{what}: {damages}"
    if CORRUPT in found.values():
        assert damages, what


@pytest.mark.parametrize(
    "change",
    ["number = 0 WHERE number = {last}", "number = -3 WHERE number = 2", "number = {last} + 64 WHERE number = {last}"],
)
def test_a_damaged_number_of_a_migration_is_not_that_of_a_newer_version(
    small: Small, tmp_path: Path, change: str
) -> None:
    path = copy(small.folder, tmp_path / "copy")
    with sqlite3.connect(path) as connection:
        (last,) = connection.execute("SELECT max(number) FROM migrations").fetchone()
        connection.execute(f"UPDATE migrations SET {change.format(last=last)}")
    connection.close()
    with pytest.raises(StorageError, match=r"perdure\.db is damaged: .*restore a backup"):
        asyncio.run(outcomes(path.parent))
    assert any("migrations" in damage for damage in asyncio.run(examine_rows(str(path.parent))))
