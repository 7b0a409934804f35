"""Headers that every face of the HTTP port reads or sets."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from perdure import errors
from perdure.service.api import requests
from perdure.service.common import limits

IDEMPOTENCY_KEY: Final = "Idempotency-Key"


def idempotency_key(request: web.Request) -> str | None:
    """The id of the request, if the client gives one."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    return None if key is None else requests.text(key, IDEMPOTENCY_KEY, limit=limits.REQUEST_ID_CHARS_MAX)


def retry_after(error: errors.PerdureError) -> dict[str, str]:
    """When the caller may try again, for errors that pass."""
    return {} if error.retry_after_s is None else {"Retry-After": str(max(round(error.retry_after_s), 1))}


def close_if_unread(request: web.Request, answer: web.StreamResponse) -> None:
    """Tell the client that it cannot use the connection again if it has not sent all of a body that is refused: some
    clients would leave the rest out (RFC 9112, section 9.6)."""
    if not request.content.is_eof() and not answer.prepared:
        answer.force_close()


def accepts_gzip(request: web.Request) -> bool:
    """Whether the client says that it reads gzip."""
    for offer in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, weight = offer.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
