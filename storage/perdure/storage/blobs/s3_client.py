"""Connections to an S3-compatible service, and the meaning of its errors.

A client belongs to the event loop that created it, so there is one for each loop. Credentials come from the
environment, by the usual chain.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
)

from perdure.storage.ports import StorageDenied, StorageError, StorageFull, StorageUnavailable

CONNECTIONS: Final = 32
CONNECT_S: Final = 5.0
READ_S: Final = 20.0
TRIES: Final = 4

MISSING: Final = frozenset({"NoSuchKey", "NotFound", "404"})
DENIED: Final = frozenset(
    {
        "403",
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidToken",
        "NoSuchBucket",
        "SignatureDoesNotMatch",
    }
)
FULL: Final = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "507"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of the service. `url` "": Amazon's. The seconds are for one try of one request."""

    url: str = ""
    region: str = ""
    connect_s: float = CONNECT_S
    read_s: float = READ_S
    tries: int = TRIES


class Clients:
    """One client for each event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._of_loop: dict[asyncio.AbstractEventLoop, tuple[AsyncExitStack, asyncio.Future[Any]]] = {}

    async def get(self) -> Any:
        """The client of this loop, created by the first call."""
        loop = asyncio.get_running_loop()
        if (known := self._of_loop.get(loop)) is not None:
            return await asyncio.shield(known[1])
        for other in [other for other in self._of_loop if other.is_closed()]:
            del self._of_loop[other]
        stack = AsyncExitStack()
        opening = asyncio.ensure_future(self._open(stack))
        self._of_loop[loop] = (stack, opening)
        try:
            return await asyncio.shield(opening)
        except BaseException:
            if opening.done() and (opening.cancelled() or opening.exception() is not None):
                self._of_loop.pop(loop, None)
            raise

    async def close(self) -> None:
        """Close the client of this loop. The next call opens another."""
        known = self._of_loop.pop(asyncio.get_running_loop(), None)
        if known is not None:
            stack, opening = known
            await asyncio.gather(opening, return_exceptions=True)
            await stack.aclose()

    async def _open(self, stack: AsyncExitStack) -> Any:
        endpoint = self._endpoint
        config = AioConfig(
            connect_timeout=endpoint.connect_s,
            read_timeout=endpoint.read_s,
            max_pool_connections=CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": endpoint.tries},
            s3={"addressing_style": "path" if endpoint.url else "auto"},
            # Services other than Amazon's do not know these checksums. The content is checked by its SHA-256 anyway.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        # This reads descriptions of the service from disk, some 100 ms: once per process, so not worth a thread.
        client: Any = aioboto3.Session().client(
            "s3", endpoint_url=endpoint.url or None, region_name=endpoint.region or None, config=config
        )
        return await stack.enter_async_context(client)


def code_of(error: ClientError) -> str:
    """The service's code of the error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status of the answer, 0 if there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def meaning(what: str) -> Iterator[None]:
    """Turns errors of the libraries into errors of stores. A missing key is left to the caller."""
    try:
        yield
    except ClientError as error:
        if code_of(error) in MISSING:
            raise
        raise _of_answer(what, error) from error
    except (NoCredentialsError, PartialCredentialsError, TokenRetrievalError) as error:
        raise StorageDenied(f"{what}: no credentials for S3 ({error})") from error
    except (BotoCoreError, aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
        raise StorageUnavailable(f"{what}: S3 does not answer ({type(error).__name__}: {error})") from error


def _of_answer(what: str, error: ClientError) -> StorageError:
    code, status = code_of(error), status_of(error)
    said = f"{code or status}: {error.response.get('Error', {}).get('Message', '')}"
    if code in FULL or status == 507:
        return StorageFull(f"{what}: no room ({said})")
    if code in DENIED or status in (401, 403):
        return StorageDenied(f"{what}: S3 refuses us, look at the bucket, its policy and the credentials ({said})")
    return StorageUnavailable(f"{what}: S3 answers {said}")
