"""Resume that names modules: what is refused, and what a repeat gives."""

from __future__ import annotations

import hashlib
import io
import zipfile

import grpc
import pytest

import perdure
from integration.wire_calls import Stubs
from perdure import errors, snapshots
from perdure.model import BlobRef
from perdure.v1 import workflow_service_pb2 as pb


@perdure.task
def ident(value: object) -> object:
    return value


def package() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("steps.py", "")
    return out.getvalue()


async def resume(stubs: Stubs, workflow_id: str, modules: str) -> pb.ResumeResponse:
    try:
        answer: pb.ResumeResponse = await stubs.workflows.Resume(
            pb.ResumeRequest(workflow_id=workflow_id, modules=modules)
        )
    except grpc.RpcError as error:
        raise errors.from_rpc_error(error) from None
    return answer


@pytest.mark.storages("sqlite")
async def test_modules_are_those_of_a_stored_package(client: perdure.Client, stubs: Stubs) -> None:
    data = package()
    blob = BlobRef(hashlib.sha256(data).hexdigest(), len(data))
    with pytest.raises(errors.InvalidFieldError, match="modules"):
        await resume(stubs, "w", "https://host/code.zip")
    with pytest.raises(errors.BlobNotFoundError):
        await resume(stubs, "w", snapshots.snapshot_uri(blob, "modules.zip"))
    await client._values.blobs.upload((data,))
    with pytest.raises(errors.WorkflowNotFoundError):
        await resume(stubs, "w", snapshots.snapshot_uri(blob, "modules.zip"))


@pytest.mark.storages("sqlite")
async def test_a_run_that_is_at_work_keeps_its_modules(client: perdure.Client, stubs: Stubs) -> None:
    blob = await client._values.blobs.upload((package(),))
    handle = await client.start(ident.bind(perdure.event("go")))
    with pytest.raises(errors.WorkflowStillActiveError, match="keeps its modules"):
        await resume(stubs, handle.workflow_id, snapshots.snapshot_uri(blob, "modules.zip"))
    assert not (await resume(stubs, handle.workflow_id, "")).resumed


@pytest.mark.storages("sqlite")
async def test_new_code_is_refused_for_a_run_whose_code_travelled_by_value(client: perdure.Client) -> None:
    handle = await client.start(ident.bind(perdure.event("go")))
    with pytest.raises(ValueError, match="code that travels by value stays as it is"):
        await handle.resume(code="new")
    with pytest.raises(ValueError, match="code is 'same' or 'new'"):
        await handle.resume(code="newer")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
