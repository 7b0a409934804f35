"""The limits in force, by name; clients learn them from GetSystemInfo."""

from __future__ import annotations

from typing import Final

from perdure.connection import BATCH_ITEMS_MAX as BATCH_ITEMS_MAX
from perdure.connection import MESSAGE_BYTES_MAX as MESSAGE_BYTES_MAX
from perdure.model import ID_CHARS_MAX as ID_CHARS_MAX
from perdure.model import REQUEST_ID_CHARS_MAX as REQUEST_ID_CHARS_MAX

INLINE_PAYLOAD_BYTES_MAX: Final = 1024 * 1024
BLOB_BYTES_MAX: Final = 5 * 1024**3
ANSWER_BYTES: Final = 3 * 1024 * 1024
"""The size of all items of one answer. By default gRPC clients read messages of up to 4 MiB."""
NODES_MAX: Final = 200_000
SPEC_BYTES_MAX: Final = 256 * 1024 * 1024
METADATA_BYTES_MAX: Final = 64 * 1024
LABELS_MAX: Final = 32
LABEL_KEY_CHARS_MAX: Final = 63
LABEL_VALUE_BYTES_MAX: Final = 256
ID_BYTES_MAX: Final = 4 * ID_CHARS_MAX
REASON_BYTES_MAX: Final = 1024
PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1000
WAIT_S_MAX: Final = 30.0
DEADLINE_MARGIN_S: Final = 0.5
"""A wait ends this long before the deadline of its call, so that the answer is "not yet" and not an error."""
CHUNK_BYTES: Final = 256 * 1024
CHUNK_BYTES_MAX: Final = 1024 * 1024
WATCH_IDS_MAX: Final = 1_000
