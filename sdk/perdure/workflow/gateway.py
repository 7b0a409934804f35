"""Outcomes of workflows as objects of Ray: an actor that waits for them.

There is one per engine and cluster. It passes stored bytes on, and neither decodes values nor runs user code.
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
        self._clients: dict[str, Client] = {}

    async def output(self, namespace: str, workflow_id: str, run_id: str, task_id: str) -> Any:
        """The value of a run or of one of its tasks, once there is one. The error of a failed run is returned; Ray
        raises it in the process that gets the object."""
        if namespace not in self._clients:
            self._clients[namespace] = Client(self._address, namespace=namespace, patience=PATIENCE_S)
        try:
            handle = self._clients[namespace].handle(workflow_id, run_id)
            outcome = await handle.outcome(task_id or None)
            if isinstance(outcome, Failure):
                return outcomes.FailedRun(workflow_id, outcome)
            return await handle.value_of(outcome, outcomes.Carried)
        except errors.PerdureError as error:
            raise outcomes.refused(error) from None


def output_ref(address: str, namespace: str, workflow_id: str, run_id: str = "", task_id: str = "") -> Any:
    """A ray.ObjectRef of an output. The namespace is explicit, because the actor does not know that of the caller."""
    name = f"gateway-{hashlib.sha256(address.encode()).hexdigest()[:16]}"
    gateway = host.on_head(Gateway, name, max_concurrency=WAITS_MAX).remote(address)
    return gateway.output.remote(namespace, workflow_id, run_id, task_id)
