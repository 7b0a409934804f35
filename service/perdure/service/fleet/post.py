"""Mail between engines: requests to the owner of a running run, from an engine that does not own it.

A letter is addressed to a run, not to an engine: the owner at the time of reading handles it and then drops it. All
requests are idempotent, so a letter may be read twice.
"""

from __future__ import annotations

import logging
from typing import Final

from perdure.engine.messages import CancelRequested
from perdure.service.fleet import letters
from perdure.service.fleet.inbox import Inbox
from perdure.service.journal.journal import Journal
from perdure.service.journal.loops import Loop
from perdure.service.runs.scheduler import Scheduler
from perdure.storage.ports import MailStore, StorageError, Unstorable
from perdure.storage.rows import MailRow
from perdure.storage.writes import DropMail

log = logging.getLogger(__name__)

POLL_S: Final = 1.0
"""The poll interval, because hints may be lost."""
LETTERS_MAX: Final = 1_000


class Post:
    """Reads this engine's mail."""

    def __init__(self, store: MailStore, journal: Journal, scheduler: Scheduler, inbox: Inbox) -> None:
        self._store = store
        self._journal = journal
        self._scheduler = scheduler
        self._inbox = inbox
        self._loop = Loop("post", self._read, trouble="mail not read, trying again", failed=lambda: POLL_S)

    async def start(self) -> None:
        self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    def wake(self) -> None:
        """Read the mail soon."""
        self._loop.wake()

    async def _read(self) -> float:
        while unread := await self._store.read_mail(limit=LETTERS_MAX):
            for mail in unread:
                try:
                    await self._deal_with(mail)
                except Unstorable as error:  # it never will be; later letters must not wait
                    log.error("letter cannot be obeyed", extra={"run_id": mail.run_id, "error": str(error)})
                except StorageError:
                    raise
                except Exception:  # it concerns this run only; other letters must not wait
                    log.exception("letter not understood", extra={"run_id": mail.run_id, "kind": mail.kind})
            # After the commits that the letters caused: after a crash in between they are read again.
            await self._journal.commit((DropMail(tuple(mail.number for mail in unread)),))
        return POLL_S

    async def _deal_with(self, mail: MailRow) -> None:
        """Handle a letter. A request that is no longer possible is dropped: its sender sees the state of the run."""
        match mail.kind:
            case letters.EVENT:
                await self._inbox.read(mail.run_id)
            case letters.CANCEL:
                event = CancelRequested(letters.reason_of(mail), self._scheduler.clock())
                await self._scheduler.bring(mail.run_id, event)  # the letter is durable
            case kind:
                log.warning("mail of a kind that this version does not know", extra={"kind": kind})
