"""The errors of metadata stores and blob stores."""

from __future__ import annotations


class StorageError(Exception):
    """The base of the expected errors of stores. Nothing was changed unless said otherwise."""


class StorageUnavailable(StorageError):
    """The store does not answer now. A commit that raises this may or may not have happened; repeat it."""


class StorageDenied(StorageError):
    """The store denies access: wrong credentials, missing rights, or a name that does not exist. Nothing was
    changed."""


class StorageInUse(StorageError):
    """Another process has the store, and may end soon. Nothing was changed."""


class StorageFull(StorageError):
    """The store has no room. Nothing was changed; a later try may succeed."""


class Unstorable(StorageError):
    """The store rejects an entry for good: a character, a number or a size that it cannot hold. Nothing was changed.
    `field` names the first such field ("PutTask.row.task_id"), "" if unknown."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(f"{message} ({field})" if field else message)
        self.field = field


class Fenced(StorageError):
    """Another member declared this one dead, or it left. Nothing was changed, and none of its commits will ever
    happen. The engine may join again under another id."""


class CorruptData(StorageError):
    """Stored data is damaged. `subject` names it."""

    def __init__(self, message: str, subject: str) -> None:
        super().__init__(message)
        self.subject = subject


class BlobNotFound(StorageError):
    """There is no such blob. `sha256` names it."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"there is no blob {sha256}")
        self.sha256 = sha256
