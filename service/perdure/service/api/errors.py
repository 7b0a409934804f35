"""Errors as callers see them: one of `perdure.errors`; for a bug, an id that is also in the log."""

from __future__ import annotations

import logging
import secrets

from perdure import errors
from perdure.model import InvalidSpec
from perdure.service.common.trouble import refusal
from perdure.service.runs.changes import Closed, Overflowed
from perdure.storage.ports import StorageError

log = logging.getLogger(__name__)


def translate(error: Exception, method: str) -> errors.PerdureError:
    """The error that the caller gets."""
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
