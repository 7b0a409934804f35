"""Requests of an engine to the owner of a running run."""

from __future__ import annotations

import json
from typing import Final

from perdure.storage.rows import MailRow
from perdure.storage.writes import Mail

EVENT: Final = "event"
CANCEL: Final = "cancel"


def event_letter(run_id: str) -> Mail:
    """Tells the owner that events were recorded for the run."""
    return Mail(run_id, EVENT)


def cancel_letter(run_id: str, reason: str) -> Mail:
    """Asks the owner to cancel the run."""
    return Mail(run_id, CANCEL, json.dumps({"reason": reason}).encode())


def reason_of(mail: MailRow) -> str:
    """The reason in a cancel letter."""
    return str(json.loads(mail.data)["reason"])
