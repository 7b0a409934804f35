"""A member of a PostgreSQL store as a process of its own, to be stopped and woken: commits until it is fenced.

Arguments: the URL, the engine's id, the length of its lease in milliseconds. Says how many commits were
acknowledged, one line each, and "fenced" at the end.
"""

from __future__ import annotations

import asyncio
import sys

from perdure.model import RunStatus, TaskStatus
from perdure.storage.ports import Fenced, StorageUnavailable
from perdure.storage.postgres.store import PostgresMetadataStore
from perdure.storage.rows import EngineRow, RunRow, TaskRow
from perdure.storage.writes import AddRun, PutTask, SetRun


async def main(url: str, engine_id: str, lease_ms: int) -> None:
    store = PostgresMetadataStore(url)
    await store.open()
    await store.join(EngineRow(engine_id), lease_ms)
    row = RunRow("run", "default", "wf", RunStatus.RUNNING, "spec", create_ms=1, update_ms=1, owner=engine_id)
    await store.commit([(AddRun(row, b"graph"),)])
    number = 0
    try:
        while True:
            task = TaskRow("run", f"t{number}", number, TaskStatus.SUCCESSFUL, 1, output=b"x", output_bytes=1)
            # every other one takes several round trips, so that it can be stopped between them
            state = (SetRun("run", RunStatus.RUNNING, number),) if number % 2 else ()
            try:
                await store.commit([(PutTask(task), *state)])
            except StorageUnavailable:
                continue
            number += 1
            print(number, flush=True)
    except Fenced:
        print("fenced", flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
