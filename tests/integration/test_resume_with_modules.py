"""Resume that names modules: what is refused, and what a repeat gives."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace

import grpc
import pytest

import perdure
from integration.wire_calls import Stubs
from perdure import errors, snapshots
from perdure.conversion import to_spec
from perdure.model import BlobRef
from perdure.options import with_environment
from perdure.v1 import workflow_service_pb2 as pb


@perdure.task
def ident(value: object) -> object:
    return value


def package(module: str = "steps") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(f"{module}.py", "")
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
    with pytest.raises(errors.InvalidFieldError) as caught:
        await handle.resume(code="new")
    assert caught.value.fields == {"field": "code"}
    with pytest.raises(ValueError, match="code is 'same' or 'new'"):
        await handle.resume(code="newer")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.storages("sqlite")
async def test_new_code_is_refused_for_a_run_that_has_succeeded_or_was_canceled(client: perdure.Client) -> None:
    done, canceled = await client.start(ident.bind(1)), await client.start(ident.bind(perdure.event("go")))
    await done.output()
    await canceled.cancel()
    for handle, status in ((done, "SUCCESSFUL"), (canceled, "CANCELED")):
        with pytest.raises(errors.WorkflowAlreadyFinalError) as caught:
            await handle.resume(code="new")
        assert caught.value.fields["status"] == status


@pytest.mark.storages("sqlite")
async def test_new_code_is_refused_where_the_modules_are_not(client: perdure.Client) -> None:
    blob = await client._values.blobs.upload((package("nowhere_to_be_found"),))
    environment = json.dumps({"modules": snapshots.snapshot_uri(blob, "modules.zip")})
    spec = to_spec(ident.bind(perdure.event("go")), names_modules=False)
    nodes = [replace(node, options=with_environment(node.options, environment)) for node in spec.nodes]
    handle = await client.start(replace(spec, nodes=tuple(nodes)))
    with pytest.raises(errors.InvalidFieldError, match="none of the run's modules is here: nowhere_to_be_found"):
        await handle.resume(code="new")
