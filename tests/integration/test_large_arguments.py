"""Arguments and code of any size: what is too large to travel with the graph is a blob."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import perdure
from perdure import conversion
from perdure.model import INLINE_BYTES_MAX, BlobRef, Call

LARGE = 3 * 1024 * 1024


@perdure.task
def length(data: bytes, more: Any = b"") -> int:
    return len(data) + len(more)


@perdure.task
def gather(*lengths: int) -> int:
    return sum(lengths)


@perdure.task
def grows(size: int) -> int:
    data = bytes(size)
    return length.bind(data, length_of.bind(data))


@perdure.task
def length_of(data: bytes) -> bytes:
    return data[:10]


async def test_large_arguments(client: perdure.Client) -> None:
    data = bytes(LARGE)
    assert await client.run(length.bind(data, length_of.bind(data))) == LARGE + 10


async def test_large_arguments_in_a_returned_graph(client: perdure.Client) -> None:
    assert await client.run(grows.bind(LARGE)) == LARGE + 10


async def test_large_code(client: perdure.Client) -> None:
    array = np.arange(LARGE // 8)
    last: Any = perdure.task(lambda: int(array[-1]))
    assert await client.run(last.bind()) == LARGE // 8 - 1


async def test_each_large_part_is_stored_once() -> None:
    data = bytes(LARGE)
    spec = conversion.to_spec(gather.bind(length.bind(data), length.bind(data), length.bind(b"")))
    (part,) = conversion.large_parts(spec, INLINE_BYTES_MAX)
    blob = BlobRef("0" * 64, part.size)
    changed = conversion.with_stored(spec, {part: replace(part, data=b"", blob=blob)})
    assert conversion.large_parts(changed, INLINE_BYTES_MAX) == set()
    calls = [node.action for node in changed.nodes if isinstance(node.action, Call)]
    assert [call.arguments.blob for call in calls] == [blob, blob, None, None]
    assert conversion.with_stored(spec, {}) is spec
