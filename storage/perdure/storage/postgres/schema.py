"""The schema of a PostgreSQL store: migrates it, and checks whether this version can use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perdure.storage.addresses import shown
from perdure.storage.ports import StorageError
from perdure.storage.postgres.connections import CONNECT_ONCE_S, Connection, connect, meaning
from perdure.storage.steps import Migration, Phase, migrations

SCHEMA_LOCK: Final = 7_233_000
"""The key of the advisory lock that a migration holds."""
_MIGRATIONS: Final = """
    CREATE TABLE IF NOT EXISTS migrations (
        number integer PRIMARY KEY, name text NOT NULL, phase text NOT NULL, applied_at timestamptz NOT NULL
    )"""


def known(steps: Sequence[Migration] | None = None) -> int:
    """The last migration that this version knows."""
    return max(step.number for step in steps or migrations("postgres"))


async def migrate(url: str, phase: Phase | None = None, *, steps: Sequence[Migration] | None = None) -> list[str]:
    """Apply the missing steps, all or those of one phase. Returns the names of the applied steps.

    A second call at the same time waits, and then finds nothing to do. Raises StorageError if the phase would have to
    skip a step of the other phase, or if live engines could not go on. `steps` replaces those of this version, for
    tests.
    """
    steps = steps or migrations("postgres")
    with meaning(url):
        connection = await connect(url, timeout_s=CONNECT_ONCE_S)
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", SCHEMA_LOCK)
            await connection.execute(_MIGRATIONS)
            applied = await _applied(connection)
            check_not_newer(url, applied, steps)
            missing = [step for step in steps if step.number not in applied]
            chosen = _chosen(missing, phase, is_new=not applied)
            await _check_engines(connection, chosen)
            for step in chosen:
                async with connection.transaction():
                    await connection.execute(step.sql)
                    await connection.execute(
                        "INSERT INTO migrations (number, name, phase, applied_at) VALUES ($1, $2, $3, now())",
                        step.number,
                        step.name,
                        step.phase,
                    )
            if not chosen:
                await _follow_to_this_server(connection)
            return [step.name for step in chosen]
        finally:
            connection.terminate()


def _chosen(missing: Sequence[Migration], phase: Phase | None, *, is_new: bool) -> Sequence[Migration]:
    """The missing steps of a phase, up to the first one of the other phase. Raises StorageError if more of the phase
    come after that. A new database has no engines that could not go on, so its pre phase has all steps up to the last
    one of the phase."""
    if phase is None:
        return missing
    if is_new and phase == "pre":
        return missing[: max((place for place, step in enumerate(missing, 1) if step.phase == "pre"), default=0)]
    count = next((count for count, step in enumerate(missing) if step.phase != phase), len(missing))
    if late := next((step for step in missing[count:] if step.phase == phase), None):
        blocking = missing[count]
        raise StorageError(
            f"{blocking.name} comes before {late.name}: run `perdure migrate --phase {blocking.phase}` first"
            + (", once no engine of the version before it runs" if blocking.phase == "post" else "")
        )
    return missing[:count]


async def _check_engines(connection: Connection, chosen: Sequence[Migration]) -> None:
    """Raises StorageError if engines live that could not go on after the chosen post steps."""
    last = max((step.number for step in chosen if step.phase == "post"), default=0)
    if not last or not await connection.fetchval("SELECT to_regclass('engines') IS NOT NULL"):
        return
    behind = await connection.fetch(
        "SELECT engine_id, version FROM engines WHERE NOT is_dead AND knows < $1 "
        "AND expires_ms > extract(epoch FROM clock_timestamp()) * 1000 ORDER BY engine_id",
        last,
    )
    if behind:
        names = ", ".join(f"{engine_id} (version {version or 'unknown'})" for engine_id, version in behind)
        raise StorageError(f"engines of an older version still run: {names}; end them, then migrate")


async def verify(connection: Connection, url: str) -> None:
    """Raises StorageError, saying what to do, if this version cannot use the schema."""
    steps = migrations("postgres")
    advice = f"run `perdure migrate --storage {shown(url)}`"
    if not await connection.fetchval("SELECT to_regclass('migrations') IS NOT NULL"):
        raise StorageError(f"{shown(url)} has no tables of Perdure yet; {advice}")
    applied = await _applied(connection)
    if missing := [step for step in steps if step.phase == "pre" and step.number not in applied]:
        raise StorageError(
            f"{shown(url)} is older than this version of Perdure ({missing[0].name} is missing); {advice}"
        )
    check_not_newer(url, applied, steps)
    await _follow_to_this_server(connection)


async def _applied(connection: Connection) -> dict[int, str]:
    return dict(await connection.fetch("SELECT number, phase FROM migrations"))


def check_not_newer(url: str, applied: dict[int, str], steps: Sequence[Migration]) -> None:
    """Raises StorageError after post steps of a newer version. This version can work with its pre steps."""
    newer = [number for number, phase in applied.items() if phase == "post" and number > known(steps)]
    if newer:
        raise StorageError(
            f"{shown(url)} belongs to a newer version of Perdure (migration {max(newer)}); install that version"
        )


async def _follow_to_this_server(connection: Connection) -> None:
    """If the data was restored on another server, shift commit numbers above those in the data."""
    here = "(SELECT system_identifier::text FROM pg_control_system())"
    if await connection.fetchval(f"SELECT system_id = {here} FROM numbering"):
        return
    async with connection.transaction():
        if await connection.fetchval(f"SELECT system_id = {here} FROM numbering FOR UPDATE"):
            return
        await connection.execute(
            f"UPDATE numbering SET system_id = {here}, shift = greatest(shift, "
            "coalesce((SELECT max(change) FROM runs), 0), coalesce((SELECT max(change) FROM tasks), 0), "
            "coalesce((SELECT max(change) FROM blob_marks), 0)) "
        )
