"""What an engine may ask of the owner of a running run."""

from __future__ import annotations

import json
from typing import Final

from perdure.storage.rows import Mail, MailRow

EVENT: Final = "event"
CANCEL: Final = "cancel"


def event_letter(run_id: str) -> Mail:
    """Events were recorded for the run."""
    return Mail(run_id, EVENT)


def cancel_letter(run_id: str, reason: str) -> Mail:
    """Somebody wants the run to end."""
    return Mail(run_id, CANCEL, json.dumps({"reason": reason}).encode())


def reason_of(mail: MailRow) -> str:
    """Why the run is to end."""
    return str(json.loads(mail.data)["reason"])
