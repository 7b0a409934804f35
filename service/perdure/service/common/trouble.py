"""Errors of the store as callers see them: an error of `perdure.errors`, whose cause is the store's error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from perdure import errors
from perdure.storage.ports import (
    BlobNotFound,
    CorruptData,
    Fenced,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
    Unstorable,
)

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def refusal(error: Exception) -> Exception:
    """The error that a caller gets for an error of the store. Other errors are returned unchanged."""
    if not isinstance(error, StorageError):
        return error
    told = _refusal(error)
    told.__cause__ = error
    return told


def _refusal(error: StorageError) -> errors.PerdureError:
    match error:
        case StorageFull():
            return errors.StorageFullError("the storage is full; nothing was changed")
        case CorruptData():
            return errors.CorruptDataError(f"what is stored is damaged: {error}", subject=error.subject)
        case BlobNotFound():
            return errors.BlobNotFoundError(str(error), sha256=error.sha256)
        case StorageDenied():
            log.error("the storage refuses us", extra={"error": str(error)})
            return errors.DatabaseUnavailableError("the storage refuses this service; its log says why")
        case Unstorable():
            return errors.InvalidFieldError(f"what was sent cannot be stored: {error}", field=error.field)
        case _:
            return errors.DatabaseUnavailableError("the database does not answer; the ids make it safe to ask again")


def is_away(error: Exception) -> bool:
    """Whether the store does not answer at all, so that a caller may repeat everything."""
    return any(isinstance(one, (StorageUnavailable, Fenced)) for one in (error, error.__cause__))


def refusing(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make a method raise the refusal instead of the store's error."""

    @wraps(work)
    async def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await work(*args, **kwargs)
        except StorageError as error:
            raise refusal(error) from error

    return told
