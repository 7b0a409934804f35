"""Blobs as objects of an S3-compatible service.

The objects of one blob are under `<prefix>/<sha256>/`:

- `data`: its bytes;
- `put`: an empty object; its age is the time since the last repeated put;
- `going-<token>`: exists while a process deletes the blob.

There are no locks. The order of requests excludes puts from deletions:

- A put of a blob that exists writes `put`, then looks for `going-*`.
- A deletion writes its `going-<token>`, then looks at the ages of `data` and `put`.

So at least one of the two sees the other. A put that sees a `going-*` writes the bytes anew as `data-<token>`, which
the deletion does not know and so does not delete. This needs read-after-write consistency, as S3, MinIO, Ceph, R2 and
Google Cloud Storage have it.

Times are those of the service, from the ages of objects and the date of answers, and never of our own clock.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import mmap
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from perdure.model import BlobRef
from perdure.storage.blobs.hashing import sha256_of
from perdure.storage.blobs.s3_client import MISSING, Clients, Endpoint, code_of, meaning, status_of
from perdure.storage.ports import BlobNotFound, BlobWriter, CorruptData, StorageUnavailable

PART: Final = 8 * 1024 * 1024
"""Larger blobs travel in parts of this size, several at once."""
AT_ONCE: Final = 8
READ_TRIES: Final = 5
"""An answer may break off this many times without a byte."""
READ_PAUSE_S: Final = 0.1
CHUNK: Final = 256 * 1024
DELETE_S: Final = 60.0
"""A deletion that takes longer than this gives up, because the ages that it read are too old."""
GOING_S: Final = 24 * 3600.0
"""The `going-*` of a dead process is removed after this time."""
DATA: Final = "data"
PUT: Final = "put"
GOING: Final = "going-"

Allocate = Callable[[int], memoryview]
"""Gives writable memory of so many bytes."""


@dataclass(frozen=True, slots=True)
class _Object:
    key: str
    size: int
    changed: datetime


@dataclass(frozen=True, slots=True)
class _Folder:
    """The objects of one blob, at one time by the service's clock."""

    now: datetime
    data: tuple[_Object, ...]
    put: tuple[_Object, ...]
    going: tuple[_Object, ...]

    def idle_s(self) -> float:
        """Seconds since the last put. Ages have a precision of a second, so one is subtracted."""
        last = max((each.changed for each in (*self.data, *self.put)), default=datetime.min.replace(tzinfo=UTC))
        return (self.now - last).total_seconds() - 1


class S3BlobStore:
    """Implements BlobStore. Any number of processes may share a bucket and prefix."""

    def __init__(self, bucket: str, prefix: str = "", endpoint: Endpoint | None = None) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._clients = Clients(endpoint or Endpoint())
        self._is_conditional = True  # until the service says that it does not know conditions

    async def close(self) -> None:
        await self._clients.close()

    # -------------------------------------------------------------------------- writing

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[BlobWriter]:
        writer = _Writer(self)
        try:
            yield writer
        finally:
            await asyncio.to_thread(writer.abandon)

    async def put(self, chunks: Iterable[bytes | memoryview]) -> BlobRef:
        views = [memoryview(chunk).cast("B") for chunk in chunks]
        return await self.put_views(await asyncio.to_thread(sha256_of, views), views)

    async def put_views(self, sha256: str, views: Sequence[memoryview]) -> BlobRef:
        """Write bytes whose hash is known."""
        blob = BlobRef(sha256, sum(view.nbytes for view in views))
        with meaning(f"blob {sha256} not written"):
            while True:
                folder = await self._look(sha256)
                if any(each.size == blob.size for each in folder.data):
                    await self._write_mark(self._key(sha256, PUT))
                    folder = await self._look(sha256)
                    if not folder.going and any(each.size == blob.size for each in folder.data):
                        return blob
                is_first = not folder.data and not folder.going
                name = DATA if is_first else f"{DATA}-{secrets.token_hex(8)}"
                if await self._write(self._key(sha256, name), views, blob.size):
                    return blob

    async def _write(self, key: str, views: Sequence[memoryview], size: int) -> bool:
        """Write an object. False: another process wrote it just now, or the service does not know conditions; try
        again."""
        condition = {"IfNoneMatch": "*"} if self._is_conditional else {}
        try:
            if size <= PART:
                body = b"".join(views)
                client = await self._clients.get()
                await client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentMD5=_md5(body), **condition)
            else:
                await self._write_parts(key, views, size, condition)
        except ClientError as error:
            if condition and (status_of(error) in (409, 412) or code_of(error) == "PreconditionFailed"):
                return False
            if condition and (status_of(error) == 501 or code_of(error) == "NotImplemented"):
                self._is_conditional = False
                return False
            raise
        return True

    async def _write_parts(self, key: str, views: Sequence[memoryview], size: int, condition: dict[str, str]) -> None:
        client = await self._clients.get()
        where = {"Bucket": self._bucket, "Key": key}
        upload = {**where, "UploadId": (await client.create_multipart_upload(**where))["UploadId"]}

        async def write(number: int) -> dict[str, Any]:
            body = await asyncio.to_thread(_cut, views, number * PART, PART)
            digest = await asyncio.to_thread(_md5, body)
            answer = await client.upload_part(**upload, PartNumber=number + 1, Body=body, ContentMD5=digest)
            return {"PartNumber": number + 1, "ETag": answer["ETag"]}

        try:
            parts = await _at_once(partial(write, number) for number in range(-(-size // PART)))
            # The age of a multipart object counts from the beginning of its upload, which may be long ago.
            await self._write_mark(f"{key.rpartition('/')[0]}/{PUT}")
            await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **condition)
        except BaseException:
            aborting = asyncio.ensure_future(self._abort(upload))
            with suppress(asyncio.CancelledError):
                await asyncio.shield(aborting)
            raise

    async def _abort(self, upload: dict[str, str]) -> None:
        client = await self._clients.get()
        with suppress(ClientError, BotoCoreError, aiohttp.ClientError, OSError, TimeoutError):
            await client.abort_multipart_upload(**upload)

    async def _write_mark(self, key: str) -> None:
        client = await self._clients.get()
        await client.put_object(Bucket=self._bucket, Key=key, Body=b"", ContentMD5=_md5(b""))

    # -------------------------------------------------------------------------- reading

    async def get(self, sha256: str) -> memoryview:
        return (await self.fetch(sha256, lambda size: memoryview(bytearray(size)))).toreadonly()

    async def fetch(self, sha256: str, allocate: Allocate) -> memoryview:
        """Read a blob into memory that the caller allocates. The hash is checked."""
        key = self._key(sha256, DATA)
        wrong: set[str] = set()
        while True:
            with meaning(f"blob {sha256} not read"):
                for _ in range(2):  # the bytes may have been damaged on the wire, once
                    view = await self._fetch_object(key, allocate)
                    if view is None:
                        break
                    if await asyncio.to_thread(sha256_of, [view]) == sha256:
                        return view
                else:
                    wrong.add(key)
                data = (await self._look(sha256)).data
            if others := [each.key for each in data if each.key not in wrong]:
                key = others[0]
            elif wrong:
                raise CorruptData(f"the bytes of blob {sha256} have another hash", subject=sha256)
            else:
                raise BlobNotFound(sha256)

    async def _fetch_object(self, key: str, allocate: Allocate) -> memoryview | None:
        """None: there is no such object, or it was replaced meanwhile."""
        try:
            return await self._read_whole(key, allocate)
        except ClientError as error:
            if code_of(error) in MISSING or status_of(error) == 412:
                return None
            raise

    async def _read_whole(self, key: str, allocate: Allocate) -> memoryview:
        """Read an object: the first part gives the length, the others are read in parallel."""
        client = await self._clients.get()
        try:
            answer = await client.get_object(Bucket=self._bucket, Key=key, Range=f"bytes=0-{PART - 1}")
        except ClientError as error:
            if status_of(error) == 416:  # the object is empty
                return allocate(0)
            raise
        view = allocate(_length(answer))
        same = {"IfMatch": answer["ETag"]} if "ETag" in answer else {}
        await self._read_part(key, view, 0, same, answer)
        await _at_once(partial(self._read_part, key, view, start, same) for start in range(PART, len(view), PART))
        return view

    async def _read_part(
        self, key: str, view: memoryview, start: int, same: dict[str, str], answer: Any = None
    ) -> None:
        """Read a part. The client repeats requests; an answer that breaks off is requested again from that byte on."""
        client = await self._clients.get()
        done, end, tries = start, min(start + PART, len(view)), 0
        while True:
            if answer is None:
                answer = await client.get_object(Bucket=self._bucket, Key=key, Range=f"bytes={done}-{end - 1}", **same)
            try:
                await _pour(answer["Body"], view, done, end)
                return
            except _Short as short:
                tries = 0 if short.done > done else tries + 1
                done, answer = short.done, None
                if tries >= READ_TRIES:
                    raise StorageUnavailable(f"the answer of S3 breaks off again and again ({short})") from short
                await asyncio.sleep(READ_PAUSE_S * 2**tries)

    async def size(self, sha256: str) -> int | None:
        with meaning(f"blob {sha256} not looked up"):
            data = (await self._look(sha256)).data
        return data[-1].size if data else None

    async def renew(self, sha256: str) -> int | None:
        with meaning(f"blob {sha256} not renewed"):
            if not (await self._look(sha256)).data:
                return None
            await self._write_mark(self._key(sha256, PUT))
            folder = await self._look(sha256)
            if not folder.data:
                return None
            if folder.going and not await self._copy(sha256, folder.data[-1]):
                return None
            return folder.data[-1].size

    async def _copy(self, sha256: str, data: _Object) -> bool:
        """The blob is being deleted: copy the bytes to a new name, if they still exist."""
        client = await self._clients.get()
        target = self._key(sha256, f"{DATA}-{secrets.token_hex(8)}")
        source = {"Bucket": self._bucket, "Key": data.key}
        try:
            await client.copy_object(Bucket=self._bucket, Key=target, CopySource=source)
        except ClientError as error:
            if code_of(error) in MISSING:
                return False
            raise
        return True

    # -------------------------------------------------------------------------- deleting

    async def delete(self, sha256: str, *, idle_s: float = 0) -> bool:
        with meaning(f"blob {sha256} not deleted"):
            since_s = time.monotonic()
            folder = await self._look(sha256)
            if not folder.data and not folder.put:
                await self._remove([each for each in folder.going if _age_s(folder, each) > GOING_S])
                return True
            if idle_s and folder.idle_s() - (time.monotonic() - since_s) < idle_s:
                return False
            going = self._key(sha256, f"{GOING}{secrets.token_hex(8)}")
            await self._write_mark(going)
            try:
                folder = await self._look(sha256)
                if idle_s and folder.idle_s() - (time.monotonic() - since_s) < idle_s:  # at the time of the request
                    return False
                for each in (*folder.data, *folder.put):
                    if time.monotonic() - since_s > DELETE_S:
                        return False
                    await self._remove([each])
            finally:
                await self._remove([_Object(going, 0, folder.now)])
            await self._remove([each for each in folder.going if _age_s(folder, each) > GOING_S])
            return True

    async def _remove(self, objects: Iterable[_Object]) -> None:
        client = await self._clients.get()
        for each in objects:
            await client.delete_object(Bucket=self._bucket, Key=each.key)

    # -------------------------------------------------------------------------- looking

    async def list(self) -> AsyncIterator[BlobRef]:
        found: BlobRef | None = None
        async for answer in self._pages(self._prefix):
            for item in answer.get("Contents", ()):
                sha256, _, name = item["Key"][len(self._prefix) :].partition("/")
                if not name.startswith(DATA):
                    continue
                with suppress(ValueError):  # a foreign object
                    blob = BlobRef(sha256, item["Size"])
                    if found is not None and found.sha256 != sha256:  # the last object of a blob is used, as in `size`
                        yield found
                    found = blob
        if found is not None:
            yield found

    async def _look(self, sha256: str) -> _Folder:
        start = self._key(sha256, "")
        found: dict[str, list[_Object]] = {DATA: [], PUT: [], GOING: []}
        now: datetime | None = None
        async for answer in self._pages(start):
            now = now or _date_of(answer)  # of the first page: ages come out too small rather than too large
            for item in answer.get("Contents", ()):
                kind = next((kind for kind in found if item["Key"].startswith(start + kind)), None)
                if kind is not None:
                    found[kind].append(_Object(item["Key"], item["Size"], item["LastModified"]))
        assert now is not None
        return _Folder(now, tuple(found[DATA]), tuple(found[PUT]), tuple(found[GOING]))

    async def _pages(self, start: str) -> AsyncIterator[Any]:
        more: dict[str, str] = {}
        while True:
            with meaning("blobs not listed"):
                client = await self._clients.get()
                answer = await client.list_objects_v2(Bucket=self._bucket, Prefix=start, **more)
            yield answer
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def _key(self, sha256: str, name: str) -> str:
        return f"{self._prefix}{sha256}/{name}"


class _Writer:
    """Implements BlobWriter. The name depends on all of the bytes, so they are spooled to this machine's disk."""

    def __init__(self, store: S3BlobStore) -> None:
        self._store = store
        self._file = tempfile.SpooledTemporaryFile(max_size=PART)  # noqa: SIM115
        self._hash = hashlib.sha256()

    async def write(self, chunk: bytes | memoryview) -> None:
        await asyncio.to_thread(self._add, memoryview(chunk).cast("B"))

    def _add(self, view: memoryview) -> None:
        with meaning("blob not kept before it is sent"):
            self._hash.update(view)
            self._file.write(view)

    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def commit(self) -> BlobRef:
        size = self._file.tell()
        if not size:
            return await self._store.put_views(self.sha256(), [])
        self._file.rollover()
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ)
        try:
            return await self._store.put_views(self.sha256(), [memoryview(mapped)])
        finally:
            with suppress(BufferError):
                mapped.close()

    def abandon(self) -> None:
        """Drop the spooled bytes. A committed blob was sent already."""
        self._file.close()


class _Short(Exception):
    """A body ended too early. The bytes that came are kept."""

    def __init__(self, done: int, cause: BaseException | None) -> None:
        super().__init__(str(cause or "it ended too early"))
        self.done = done


async def _pour(body: Any, view: memoryview, start: int, end: int) -> None:
    """Read a body into its place. Raises _Short if it ends too early."""
    done = start
    try:
        async with body as stream:
            async for chunk in stream.content.iter_chunked(CHUNK):
                if done + len(chunk) > end:
                    raise StorageUnavailable("S3 sends more bytes than it announced")
                view[done : done + len(chunk)] = chunk
                done += len(chunk)
    except (BotoCoreError, aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _Short(done, error) from error
    if done < end:
        raise _Short(done, None)


async def _at_once(works: Iterable[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Do all, several in parallel. Returns the results in order. The first error cancels the rest."""
    todo = list(works)
    results: list[Any] = [None] * len(todo)
    numbers = iter(range(len(todo)))

    async def work() -> None:
        for number in numbers:
            results[number] = await todo[number]()

    tasks = [asyncio.ensure_future(work()) for _ in range(min(AT_ONCE, len(todo)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return results


def _length(answer: Any) -> int:
    """The length of the whole object, from the answer to a range request."""
    total = str(answer.get("ContentRange", "")).rpartition("/")[2]
    return int(total) if total.isdigit() else int(answer["ContentLength"])


def _date_of(answer: Any) -> datetime:
    """The service's own time."""
    text = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if text is None:
        raise StorageUnavailable("S3 answers without a date")
    moment = parsedate_to_datetime(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _age_s(folder: _Folder, each: _Object) -> float:
    return (folder.now - each.changed).total_seconds()


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _cut(views: Iterable[memoryview], start: int, length: int) -> bytes:
    """A range of the concatenated pieces."""
    parts: list[memoryview] = []
    for view in views:
        if start < view.nbytes and length > 0:
            parts.append(view[start : start + length])
            length -= parts[-1].nbytes
        start = max(start - view.nbytes, 0)
    return b"".join(parts)
