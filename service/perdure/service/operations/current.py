"""The current run of a workflow id, as requests that change something see it."""

from __future__ import annotations

from perdure import errors
from perdure.service.common.trouble import refusal
from perdure.service.journal.journal import Journal
from perdure.service.runs.moments import Moments, not_found
from perdure.storage.rows import RunRow


class Current:
    """Finds runs by their workflow ids."""

    def __init__(self, journal: Journal, moments: Moments) -> None:
        self._journal = journal
        self._moments = moments

    def refuse_while_failing(self) -> None:
        """Refuse a request while the store fails, before anything depends on the answer."""
        if self._journal.error is not None:
            raise refusal(self._journal.error) from self._journal.error

    async def row(self, namespace: str, workflow_id: str, expected_etag: str = "") -> RunRow:
        """The current run. Raises WorkflowNotFoundError and EtagMismatchError."""
        row = await self._moments.find_current(namespace, workflow_id)
        if row is None:
            raise not_found(namespace, workflow_id)
        if expected_etag and expected_etag != str(row.change):
            raise errors.EtagMismatchError(f"workflow {workflow_id!r} has changed", etag=str(row.change))
        return row
