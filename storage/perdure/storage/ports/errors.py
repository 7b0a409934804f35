"""The errors of stores, of metadata and of blobs alike."""

from __future__ import annotations


class StorageError(Exception):
    """The base of all that a store raises on purpose. Nothing was changed unless said otherwise."""


class StorageUnavailable(StorageError):
    """The store does not answer now. Of a commit: it may or may not have happened; repeat it."""


class StorageDenied(StorageError):
    """The store does not let us in: credentials, rights, or a name that is not there. Nothing was changed."""


class StorageFull(StorageError):
    """There is no room. Nothing was changed; it may work later."""


class Unstorable(StorageError):
    """This store never takes it, however often it is asked: it has a character, a number or a size that the store does
    not have. Nothing was changed. `field` names the first such ("PutTask.row.task_id"), "" if none is known."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(f"{message} ({field})" if field else message)
        self.field = field


class Fenced(StorageError):
    """Other members declared this one dead, or it left. Nothing was changed, and nothing that it commits
    ever will be: whoever it was may join anew, under another id."""


class CorruptData(StorageError):
    """What is stored is not what was written. `subject` names it."""

    def __init__(self, message: str, subject: str) -> None:
        super().__init__(message)
        self.subject = subject


class BlobNotFound(StorageError):
    """There is no such blob. `sha256` names it."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"there is no blob {sha256}")
        self.sha256 = sha256
