"""Outcomes of workflows as objects of Ray: an actor that waits for them.

One for each engine and cluster. It passes on what is stored, and neither reads nor runs anything of the user's.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from perdure import errors
from perdure.client import Client
from perdure.model import Failure
from perdure.workflow import host, outcomes

WAITS_MAX: Final = 100_000
PATIENCE_S: Final = 600.0


class Gateway:
    """The actor."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: Client | None = None

    async def output(self, workflow_id: str, run_id: str, task_id: str) -> Any:
        """The value of a run or of one of its tasks, once there is one. An error that ended it is returned:
        Ray raises it for whoever asks for the object."""
        if self._client is None:
            self._client = Client(self._address, patience=PATIENCE_S)
        try:
            handle = self._client.handle(workflow_id, run_id)
            outcome = await handle.outcome(task_id)
            if isinstance(outcome, Failure):
                return outcomes.FailedRun(workflow_id, outcome)
            return await handle.value_of(outcome, outcomes.Carried)
        except errors.PerdureError as error:
            raise outcomes.refused(error) from None


def output_ref(address: str, workflow_id: str, run_id: str = "", task_id: str = "") -> Any:
    """A ray.ObjectRef of it."""
    name = f"gateway-{hashlib.sha256(address.encode()).hexdigest()[:16]}"
    gateway = host.on_head(Gateway, name, max_concurrency=WAITS_MAX).remote(address)
    return gateway.output.remote(workflow_id, run_id, task_id)
