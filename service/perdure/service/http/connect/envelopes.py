"""Envelopes: the framing of messages in Connect's streams. Each has a byte of flags and its length in four bytes."""

from __future__ import annotations

import struct
from typing import Final

from perdure.service.api import requests
from perdure.service.http import bodies
from perdure.service.http.connect.refusals import Refused

HEAD: Final = struct.Struct(">BI")
COMPRESSED: Final = 1
END: Final = 2
"""Marks the last message of an answer, which is JSON: how the stream ended."""


def enveloped(data: bytes, flags: int = 0) -> bytes:
    return HEAD.pack(flags, len(data)) + data


def only_message(body: bytes, encoding: str, limit: int) -> bytes:
    """The message of a request that has one. Raises if it has another number of them, or a broken one."""
    if len(body) < HEAD.size:
        raise requests.invalid("body", "is one message in an envelope of Connect")
    flags, size = HEAD.unpack_from(body)
    if flags & ~COMPRESSED or len(body) != HEAD.size + size:
        raise requests.invalid("body", "is one message in an envelope of Connect, as long as that says")
    data = body[HEAD.size :]
    if not flags & COMPRESSED:
        return data
    if encoding not in ("gzip", "x-gzip"):
        raise requests.invalid("body", "is compressed, and Connect-Content-Encoding does not say how")
    return bodies.decompressed(data, encoding, limit)


def known_encoding(encoding: str) -> str:
    """An encoding of messages, if it is one that is read."""
    if encoding not in bodies.ENCODINGS:
        raise Refused("unimplemented", f"the encoding {encoding!r} is not read; use gzip or identity")
    return encoding
