"""Answers that every client can read: how much goes into one message.

Clients read messages of up to 4 MiB if they were told nothing else. Lists and streams are cut by `Page` and
`Filling`, by count and by bytes; answers about one thing are made to fit by the functions below. The first item of a
page is always taken, whatever its size (none is larger than a message), so that whoever reads on gets on.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from perdure.service.common import limits
from perdure.storage.ports import BlobStore
from perdure.v1 import failure_pb2, payload_pb2, workflow_pb2

ITEM_BYTES_MAX: Final = 512 * 1024
"""Of a failure. With an inline payload it leaves room for the rest of a message."""
FRAME_BYTES: Final = 6
"""The tag and the length of an item inside a message, at most."""

I = TypeVar("I", bound=Message)  # noqa: E741  # an item
T = TypeVar("T")


class Page:
    """The room in one answer."""

    def __init__(self, count_max: int = limits.PAGE_MAX, bytes_max: int = limits.ANSWER_BYTES) -> None:
        self._count_max = count_max
        self._bytes_left = bytes_max
        self.count = 0

    def takes(self, item: Message) -> bool:
        """Whether there is room for one more; if so it is taken up."""
        size = item.ByteSize() + FRAME_BYTES
        if self.count and (size > self._bytes_left or self.count >= self._count_max):
            return False
        self.count += 1
        self._bytes_left -= size
        return True


class Filling(Generic[I, T]):
    """Items, each with a mark, gathered for one message after the other."""

    def __init__(self) -> None:
        self._page = Page()
        self.items: list[I] = []
        self._mark: T | None = None

    def add(self, item: I, mark: T) -> tuple[list[I], T] | None:
        """Take an item. If it did not fit beside those before it: those, and the mark of the last of them."""
        full: tuple[list[I], T] | None = None
        if not self._page.takes(item):
            assert self._mark is not None
            full = self.items, self._mark
            self._page, self.items = Page(), []
            self._page.takes(item)
        self.items.append(item)
        self._mark = mark
        return full


def shorten_failure(failure: failure_pb2.Failure) -> None:
    """Leave out what is farthest from the surface: the last causes, then the object, then the trace."""
    while failure.ByteSize() > ITEM_BYTES_MAX:
        link = failure
        while link.HasField("cause") and link.cause.HasField("cause"):
            link = link.cause
        if link.HasField("cause"):
            link.ClearField("cause")
        elif link.HasField("error"):
            link.ClearField("error")
        elif link.stack_trace:
            link.ClearField("stack_trace")
        else:
            return


def shorten_metadata(metadata: workflow_pb2.Metadata) -> None:
    """Leave out upstream tasks from the end, then the options, then what the user said: tasks that other tasks made
    may have any number and size of them."""
    upstream = metadata.upstream_task_ids
    while upstream and metadata.ByteSize() > limits.ANSWER_BYTES:
        del upstream[len(upstream) * 9 // 10 :]
    for field in ("task_options", "user_metadata"):
        if metadata.ByteSize() > limits.ANSWER_BYTES:
            metadata.ClearField(field)


async def store_large(outcome: workflow_pb2.Outcome, blobs: BlobStore, bytes_max: int) -> None:
    """Put an output that is larger than that into a blob."""
    data = outcome.output.data
    if len(data) > bytes_max:
        blob = await blobs.put([data])
        outcome.output.blob.CopyFrom(payload_pb2.BlobRef(sha256=blob.sha256, size_bytes=blob.size))
