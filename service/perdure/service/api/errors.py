"""Errors as callers see them: one of `perdure.errors`; for a bug, an id that is also in the log."""

from __future__ import annotations

import logging
import secrets
from typing import Final

from perdure import errors
from perdure.model import InvalidSpec
from perdure.service.common.trouble import refusal
from perdure.service.runs.changes import Closed, Overflowed
from perdure.storage.ports import StorageError
from perdure.v1.errors_pb2 import ItemError

ITEM_MESSAGE_BYTES_MAX: Final = 512
"""Longest error message of an item, so that one answer has room for an error of every item."""

log = logging.getLogger(__name__)


def translate(error: Exception, method: str) -> errors.PerdureError:
    """The error that the caller gets. It has no traceback: its frames hold the request, which may be large, and refer
    to the error in a circle."""
    known = _translated(error, method)
    linked: BaseException | None = error
    while linked is not None and linked.__traceback__ is not None:
        linked.__traceback__ = None
        linked = linked.__cause__ or linked.__context__
    return known


def _translated(error: Exception, method: str) -> errors.PerdureError:
    match error:
        case errors.PerdureError():
            return error
        case InvalidSpec():
            return errors.InvalidSpecError(str(error), node_id=error.node_id)
        case StorageError():
            known = refusal(error)
            assert isinstance(known, errors.PerdureError)
            return known
        case Closed():
            return errors.DrainingError("the engine is shutting down; reconnect with the last resume token")
        case Overflowed():
            return errors.SlowConsumerError("the reader fell too far behind; reconnect with the last resume token")
        case _:
            error_id = secrets.token_hex(8)
            log.error("unexpected error", exc_info=error, extra={"method": method, "error_id": error_id})
            return errors.InternalError(f"internal error {error_id}", error_id=error_id)


def item_error(error: Exception, method: str, *, limit: int = ITEM_MESSAGE_BYTES_MAX) -> ItemError:
    """The error of one item of a batch or a stream."""
    known = translate(error, method)
    return ItemError(
        code=known.status.value[0],
        reason=f"ERROR_REASON_{known.reason}" if known.reason in errors.BY_REASON else None,
        message=errors.cut(known.message, limit),
        metadata={
            key: errors.cut(value, errors.FIELD_BYTES_MAX)
            for key, value in list(known.fields.items())[: errors.FIELDS_MAX]
        },
    )
