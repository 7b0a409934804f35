"""Checked by mypy and pyright, never run: what the API gives, and the calls that it refuses."""

from typing import assert_type

import perdure
from perdure import Client, SyncClient


@perdure.task
def length(text: str) -> int:
    return len(text)


@perdure.task(num_cpus=2, max_retries=5)
def double(number: int) -> int:
    return 2 * number


async def check(client: Client, sync: SyncClient) -> None:
    assert_type(length("called it is the function"), int)
    assert_type(length.bind("x"), int)
    assert_type(double.bind(length.bind("x")), int)
    assert_type(double.options(num_gpus=1).bind(1), int)
    assert_type(await client.run(double.bind(1)), int)
    assert_type(sync.run(length.bind("x")), int)
    assert_type(await client.cancel("id"), perdure.RunStatus)

    length.bind(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    length.bind()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    double.bind(number="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.start(length.bind("x"), workflow=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await client.start(length.bind("x"), id_reuse="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
