"""A lease as a process without Ray, for an engine on the same machine. Its argument is JSON."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from perdure import registry, tracebacks
from perdure.model import BlobRef
from perdure.snapshots import MODULES_GONE, snapshot_of
from perdure.storage.ports import BlobNotFound, CorruptData
from perdure.storage.urls import blob_store
from perdure.worker.lease import run_lease


def main() -> None:
    given = json.loads(sys.argv[1])
    environment = ""
    if given["modules"] is not None:
        environment = json.dumps({"modules": given["modules"]})
        found = snapshot_of(given["modules"])
        assert found is not None
        try:
            folder = _unpacked(found[0], given["blob_url"], Path(given["folder"]))
        except (BlobNotFound, CorruptData, zipfile.BadZipFile) as error:  # no other try finds it otherwise
            print(f"the modules of a run are lost: {error}", file=sys.stderr)
            sys.exit(MODULES_GONE)
        tracebacks.is_unpacked_at(str(folder))
        sys.path.insert(0, str(folder))  # before the working directory, which may have modules of the same names
    registry.look_in(given["imports"])
    run_lease(
        given["address"],
        given["engine_id"],
        given["lease_id"],
        given["blob_url"],
        environment=environment,
        has_others=given["has_others"],
    )


def _unpacked(blob: BlobRef, blob_url: str, folder: Path) -> Path:
    """The folder of a package. The first process that needs it unpacks it."""
    place = folder / blob.sha256
    if place.is_dir():
        return place
    made = tempfile.mkdtemp(dir=folder)
    with zipfile.ZipFile(io.BytesIO(asyncio.run(_read(blob, blob_url)))) as archive:
        archive.extractall(made)
    try:
        os.rename(made, place)
    except OSError:  # another process was first
        shutil.rmtree(made)
    return place


async def _read(blob: BlobRef, blob_url: str) -> bytes:
    store = blob_store(blob_url)
    try:
        return bytes(await store.get(blob.sha256))
    finally:
        await store.close()


if __name__ == "__main__":
    main()
