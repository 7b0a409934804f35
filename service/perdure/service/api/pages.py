"""Limits the size of answers, so that every client can read them.

gRPC clients accept messages of up to 4 MiB by default. `Page` and `Filling` cut lists and streams by count and by
bytes. The functions below shorten answers about one run or task. The first item of a page is always taken, whatever
its size (none is larger than a message), so that every page makes progress.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from perdure.service.common import limits
from perdure.storage.ports import BlobStore
from perdure.v1 import failure_pb2, payload_pb2, workflow_pb2

ITEM_BYTES_MAX: Final = 512 * 1024
"""Largest size of a failure. Together with an inline payload it leaves room for the rest of a message."""
FRAME_BYTES: Final = 6
"""Largest size of the tag and the length of an item inside a message."""

I = TypeVar("I", bound=Message)  # noqa: E741  # an item
T = TypeVar("T")


class Page:
    """The room in one answer."""

    def __init__(self, count_max: int = limits.PAGE_MAX, bytes_max: int = limits.ANSWER_BYTES) -> None:
        self._count_max = count_max
        self._bytes_left = bytes_max
        self.count = 0

    def fits(self, item: Message) -> bool:
        """Whether the item fits; if so, its room is reserved."""
        size = item.ByteSize() + FRAME_BYTES
        if self.count and (size > self._bytes_left or self.count >= self._count_max):
            return False
        self.count += 1
        self._bytes_left -= size
        return True


class Filling(Generic[I, T]):
    """Gathers items, each with a mark, into messages."""

    def __init__(self) -> None:
        self._page = Page()
        self.items: list[I] = []
        self._mark: T | None = None

    def add(self, item: I, mark: T) -> tuple[list[I], T] | None:
        """Add an item. If it does not fit beside the earlier ones, returns those and the mark of the last of them."""
        full: tuple[list[I], T] | None = None
        if not self._page.fits(item):
            assert self._mark is not None
            full = self.items, self._mark
            self._page, self.items = Page(), []
            self._page.fits(item)
        self.items.append(item)
        self._mark = mark
        return full


def shorten_failure(failure: failure_pb2.Failure) -> None:
    """Shorten a failure to fit: drop the innermost causes first, then the error object, then the stack trace."""
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
    """Shorten metadata to fit: drop upstream tasks from the end, then the options, then the user's metadata. Tasks made
    by other tasks have no limit on these."""
    upstream = metadata.upstream_task_ids
    while upstream and metadata.ByteSize() > limits.ANSWER_BYTES:
        del upstream[len(upstream) * 9 // 10 :]
    for field in ("task_options", "user_metadata"):
        if metadata.ByteSize() > limits.ANSWER_BYTES:
            metadata.ClearField(field)


async def store_large(outcome: workflow_pb2.Outcome, blobs: BlobStore, bytes_max: int) -> None:
    """Move an output that is larger than `bytes_max` into a blob."""
    data = outcome.output.data
    if len(data) > bytes_max:
        blob = await blobs.put([data])
        outcome.output.blob.CopyFrom(payload_pb2.BlobRef(sha256=blob.sha256, size_bytes=blob.size))
