"""Objects of Ray: stores their contents as blobs of an engine, once, and makes objects of stored contents.

The blob is authoritative. In each cluster an actor, the keeper, puts the bytes of blobs into Ray's object store. It
owns these objects, so they outlive the task that asked for them, and all tasks share them in memory. When the keeper
or the cluster is gone, the bytes are put again. The keeper never decodes; the process that gets an object does. Ray is
used only if the program has loaded it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import pickle
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

from perdure import codec, failures, wire
from perdure.bounded import Bounded, SharedBounded
from perdure.model import BlobRef, Payload

T = TypeVar("T")

CONTENTS_INLINE_BYTES_MAX: Final = 1024
"""Smaller contents travel inside the value that refers to the object."""
KNOWN_MAX: Final = 10_000
KEEPER: Final = "objects"
NAMESPACE: Final = "perdure"
KEEPER_TRIES: Final = 5
KEPT_SHARE: Final = 4
"""The keeper uses at most a quarter of the cluster's object store."""


class ContentBlobs(Protocol):
    """Blobs with the contents of objects, for synchronous code."""

    def load(self, blob: BlobRef) -> memoryview:
        """All bytes."""
        ...

    def store(self, encoded: codec.Encoded) -> BlobRef:
        """Store a value. It is durable when this returns."""
        ...

    def renew(self, blob: BlobRef) -> bool:
        """Renew the grace period of a blob. False: there is no such blob."""
        ...


class ObjectFailed(codec.Unresolved):
    """The Ray task that makes the object has failed. The object holds its error."""

    def __init__(self, error: BaseException, trace: str) -> None:
        super().__init__(failures.text_of(error))
        self.error = error
        self.trace = trace


class ObjectUnavailable(codec.Unresolved):
    """Contents could not be fetched or stored this time. `__cause__` says why."""


def _ray() -> Any:
    return sys.modules["ray"]


def is_connected() -> bool:
    """Whether this process is part of a Ray cluster."""
    ray = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and bool(ray.is_initialized())


def is_loss(error: BaseException) -> bool:
    """Whether the error means that an object was lost with a worker or a node. That is not a fault of the program."""
    exceptions: Any = sys.modules.get("ray.exceptions")
    return exceptions is not None and isinstance(_users_own(error), exceptions.ObjectLostError)


def _users_own(error: BaseException) -> BaseException:
    """The user's error inside Ray's wrappers."""
    kind: Any = sys.modules["ray.exceptions"].RayTaskError
    own: Any = error
    while isinstance(own, kind) and isinstance(own.cause, BaseException) and own.cause is not own:
        own = own.cause
    return own  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------ in every process


class RayObjects:
    """Implements codec.Objects for the cluster that this process is connected to. Safe to use from threads.

    Ray is not called before there is an object.
    """

    def __init__(self, blobs: ContentBlobs) -> None:
        self._blobs = blobs
        self._known: SharedBounded[tuple[str, bytes], tuple[Payload, bool]] = SharedBounded(KNOWN_MAX)
        self._storing: dict[tuple[str, bytes], threading.Lock] = {}
        self._lock = threading.Lock()
        self._keeper: tuple[str, Any] | None = None

    def store(self, ref: Any, *, innermost: bool = False) -> Payload:
        """See codec.Objects; waits for the object. With `innermost`, references are followed until the contents are a
        value."""
        # Ids may recur in another cluster.
        key = (_node_id(), ref.binary())
        with self._lock:
            storing = self._storing.setdefault(key, threading.Lock())
        try:
            with storing:
                known = self._known.get(key)
                if known is not None and not (innermost and known[1]) and self._is_there(known[0]):
                    return known[0]
                value = self.contents(ref)
                is_chain = codec.is_object(value)
                if not (innermost and is_chain):
                    payload = self._put_away(value)
                    self._known.keep(key, (payload, is_chain))
                    return payload
        finally:
            with self._lock:
                self._storing.pop(key, None)
        return self.store(value, innermost=True)

    def _is_there(self, payload: Payload) -> bool:
        """Whether the stored contents still exist: blobs are removed after the last run that uses them. Renews them."""
        try:
            return all(self._blobs.renew(blob) for blob in payload.blobs())
        except Exception as error:
            raise ObjectUnavailable(f"a blob cannot be renewed: {error}") from error

    def _put_away(self, value: Any) -> Payload:
        encoded = codec.encode_value(value, self)
        if encoded.size <= CONTENTS_INLINE_BYTES_MAX:
            return encoded.inline()
        try:
            return encoded.stored(self._blobs.store(encoded))
        except Exception as error:
            raise ObjectUnavailable(f"the contents of an object cannot be stored: {failures.text_of(error)}") from error

    def contents(self, ref: Any) -> Any:
        """The value of an object, by `ray.get`. Raises ObjectFailed, ObjectUnavailable."""
        exceptions: Any = sys.modules["ray.exceptions"]
        try:
            return _ray().get(ref)
        except exceptions.RayTaskError as error:
            if is_loss(error):
                raise ObjectUnavailable(failures.text_of(error)) from error
            raise ObjectFailed(_users_own(error), failures.text_of(error)) from error
        except Exception as error:
            raise ObjectUnavailable(f"an object cannot be had: {failures.text_of(error)}") from error

    def put(self, value: Any) -> Any:
        """A ray.ObjectRef of a value; the value itself if it is one."""
        return value if codec.is_object(value) else _ray().put(value)

    def load(self, payload: Payload) -> Any:
        """See codec.Objects. Small contents are put by this process, others by the keeper."""
        if payload.blob is None:
            inner = [self.load(nested) for nested in codec.nested_objects(payload, payload.data)]
            return _ray().put(Contents(payload, payload.data, inner))
        key = f"{payload.encoding} {payload.blob.sha256}"
        found = self._ask("find", key)
        if found is None:
            data = self._load_blob(payload.blob)
            inner = [self.load(nested) for nested in codec.nested_objects(payload, data)]
            found = self._ask("keep", key, bare(payload), pickle.PickleBuffer(data), inner)
        (ref,) = found
        return ref

    def load_all(self, payloads: Sequence[Payload]) -> list[Any]:
        """Like `load` for many small contents at once, which takes a tenth of the time per object."""
        if any(payload.blob is not None or payload.encoding == codec.OBJECTS for payload in payloads):
            return [self.load(payload) for payload in payloads]
        return list(self._ask("put_all", [(bare(payload), payload.data) for payload in payloads]))

    def value(self, payload: Payload) -> Any:
        """See codec.Objects."""
        data = payload.data if payload.blob is None else self._load_blob(payload.blob)
        return codec.decode(payload, data, self)

    def _load_blob(self, blob: BlobRef) -> memoryview:
        try:
            return self._blobs.load(blob)
        except Exception as error:
            raise ObjectUnavailable(f"blob {blob.sha256} cannot be read: {error}") from error

    def _ask(self, method: str, *args: Any) -> Any:
        """Call the keeper. If it is gone, call a new one, which has no objects yet. Its methods are idempotent."""
        ray = _ray()
        last: Exception | None = None
        for _ in range(KEEPER_TRIES):
            try:
                keeper = self._known_keeper()
                if method != "put_all":
                    return ray.get(getattr(keeper, method).remote(*args))
                *refs, done = keeper.put_all.options(num_returns=len(args[0]) + 1).remote(*args)
                ray.get(done)
                return refs
            except ray.exceptions.RayActorError as error:
                last, self._keeper = error, None
            except Exception as error:
                raise ObjectUnavailable(f"Ray's object store cannot be used: {error}") from error
        raise ObjectUnavailable(f"the keeper of objects cannot be reached: {last}") from last

    def _known_keeper(self) -> Any:
        node_id, known = _node_id(), self._keeper
        if known is None or known[0] != node_id:
            known = self._keeper = (node_id, _find_keeper())
        return known[1]


def _node_id() -> str:
    """The id of this node, which also identifies the cluster."""
    return str(_ray().get_runtime_context().get_node_id())


# ------------------------------------------------------------------------------ in the object store


class Contents:
    """A stored value in transit through Ray: it is pickled as its stored bytes and unpickles to the value. `inner` are
    the objects in it."""

    def __init__(self, payload: Payload | bytes, data: bytes | memoryview, inner: list[Any]) -> None:
        self._parts = (bare(payload) if isinstance(payload, Payload) else payload, data, inner)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        kind, data, inner = self._parts
        return decoded, (kind, pickle.PickleBuffer(data), inner)


def contents(
    payload: Payload, data: bytes | memoryview | None = None, objects: codec.Objects | None = None
) -> Contents:
    """A stored value that is decoded by the process that unpickles it. Takes the arguments of codec.decode."""
    data = payload.data if data is None else data
    return Contents(
        payload, data, [codec.known(objects).load(nested) for nested in codec.nested_objects(payload, data)]
    )


def bare(payload: Payload) -> bytes:
    """The serialized payload without its bytes: it says how to decode them."""
    return wire.encode_payload(Payload(payload.encoding, type=payload.type, codecs=payload.codecs))


def decoded(kind: bytes, data: Any, inner: list[Any]) -> Any:
    """The value of contents, whose own objects are `inner`."""
    view = memoryview(data)
    payload = wire.decode_payload(kind)
    nested = codec.nested_objects(payload, view)
    return codec.decode(payload, view, _Inner(dict(zip(nested, inner, strict=True))))


class _Inner:
    """Implements codec.Objects for reading contents whose objects are known."""

    def __init__(self, refs: dict[Payload, Any]) -> None:
        self._refs = refs

    def store(self, ref: Any) -> Payload:
        raise codec.CodecError("objects are not stored while one is read")

    def load(self, payload: Payload) -> Any:
        return self._refs[payload]

    def value(self, payload: Payload) -> Any:
        return _ray().get(self._refs[payload])


class Keeper:
    """The actor: an LRU cache of shared objects, bounded by a share of the object store."""

    def __init__(self, bytes_max: int = 0) -> None:
        store_bytes = int(_ray().cluster_resources().get("object_store_memory", 0))
        self._bytes_max = bytes_max or store_bytes // KEPT_SHARE
        self._kept: Bounded[str, tuple[Any, int]] = Bounded(self._bytes_max, lambda entry: entry[1])

    def find(self, key: str) -> list[Any] | None:
        """The object in a list, so that Ray does not resolve it; None if it is not kept."""
        found = self._kept.get(key)
        return None if found is None else [found[0]]

    def keep(self, key: str, kind: bytes, data: Any, inner: list[Any]) -> list[Any]:
        """Put contents, unless they are kept already."""
        if (found := self.find(key)) is not None:
            return found
        view = memoryview(data)
        ref = _ray().put(Contents(kind, view, inner))
        if view.nbytes <= self._bytes_max:  # the cache keeps its newest entry however large it is
            self._kept.keep(key, (ref, view.nbytes))
        return [ref]

    def put_all(self, parts: list[tuple[bytes, bytes]]) -> list[Any]:
        """An object for each of these contents, owned by the caller, and one more that shows success. `num_returns`
        must be their number."""
        return [*[Contents(kind, data, []) for kind, data in parts], None]


def _find_keeper() -> Any:
    options = {
        "name": KEEPER,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": -1,
    }
    return _ray().remote(Keeper).options(**options).remote()


# ------------------------------------------------------------------------------ for asynchronous clients


Upload = Callable[[tuple[bytes | memoryview, ...]], Coroutine[Any, Any, BlobRef]]
Download = Callable[[BlobRef], Coroutine[Any, Any, memoryview]]
Has = Callable[[BlobRef], Coroutine[Any, Any, bool]]


class _BlockingBlobs:
    """Implements ContentBlobs by those of a client, for threads other than its loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, upload: Upload, download: Download, has: Has) -> None:
        self._loop = loop
        self._upload = upload
        self._download = download
        self._has = has

    def load(self, blob: BlobRef) -> memoryview:
        return self._wait(self._download(blob))

    def store(self, encoded: codec.Encoded) -> BlobRef:
        return self._wait(self._upload(encoded.chunks))

    def renew(self, blob: BlobRef) -> bool:
        return self._wait(self._has(blob))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@contextlib.contextmanager
def as_ray_raises() -> Iterator[None]:
    """Turns Unresolved into the error that `ray.get` raises."""
    try:
        yield
    except codec.Unresolved as unresolved:
        raise unresolved.__cause__ or unresolved from None


class LaterObjects:
    """Implements codec.Objects by another one, which is made when the first object is met."""

    def __init__(self, made: Callable[[], codec.Objects]) -> None:
        self._made = made

    @functools.cached_property
    def _objects(self) -> codec.Objects:
        return self._made()

    def store(self, ref: Any) -> Payload:
        return self._objects.store(ref)

    def load(self, payload: Payload) -> Any:
        return self._objects.load(payload)

    def value(self, payload: Payload) -> Any:
        return self._objects.value(payload)


class _Met(codec.Unresolved):
    """A value contains an object."""


class _Scout:
    """Implements codec.Objects: raises _Met at the first object."""

    def store(self, ref: Any) -> Payload:
        raise _Met

    def load(self, payload: Payload) -> Any:
        raise _Met

    def value(self, payload: Payload) -> Any:
        raise _Met


class AsyncObjects:
    """Encodes and decodes values that may contain objects, for an asynchronous client."""

    def __init__(self, upload: Upload, download: Download, has: Has) -> None:
        self._blobs = (upload, download, has)
        self._objects: RayObjects | None = None

    def blocking(self) -> RayObjects:
        """Objects for threads other than the loop's. Call this on the loop."""
        if self._objects is None:
            self._objects = RayObjects(_BlockingBlobs(asyncio.get_running_loop(), *self._blobs))
        return self._objects

    async def apply(self, work: Callable[[codec.Objects | None], T]) -> T:
        """The result of `work`. If it meets objects, it is repeated in a thread, which can wait for them. Raises the
        errors that `ray.get` would raise."""
        if not is_connected():
            return work(None)
        try:
            return work(_Scout())
        except _Met:
            objects = self.blocking()
        with as_ray_raises():
            return await _in_thread(lambda: work(objects))


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run in a daemon thread, which does not keep the process alive if an object never comes."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(settle: Callable[[], None]) -> None:
        if not future.done():
            settle()

    def run() -> None:
        try:
            settle = functools.partial(future.set_result, work())
        except BaseException as error:
            settle = functools.partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, settle)

    threading.Thread(target=run, name="perdure-objects", daemon=True).start()
    return future
