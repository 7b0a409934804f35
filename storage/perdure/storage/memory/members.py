"""The engines that share a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from perdure.model import RunStatus
from perdure.storage.memory.database import UNFINISHED, Connected
from perdure.storage.rows import DEAD_KEPT_MS, EngineRow, MailRow, RunRow


class Members(Connected):
    """Implements MemberStore and MailStore."""

    async def join(self, engine: EngineRow, lease_ms: int) -> None:
        if not self.is_shared:
            return
        if engine.engine_id in self._all.engines:
            self._engine_id = engine.engine_id
            return await self.renew(lease_ms)
        now_ms = self._all.clock()
        joined = replace(engine, started_ms=now_ms, expires_ms=now_ms + lease_ms, is_dead=False)
        self._all.engines[engine.engine_id] = joined
        self._engine_id = engine.engine_id

    async def renew(self, lease_ms: int) -> None:
        if self._engine_id:
            self._check_fence()
            mine = self._all.engines[self._engine_id]
            self._all.engines[self._engine_id] = replace(mine, expires_ms=self._all.clock() + lease_ms)

    async def leave(self) -> None:
        if self._all.engines.pop(self._engine_id, None) is not None:
            self._tell()

    async def engines(self) -> list[EngineRow]:
        return sorted(self._all.engines.values(), key=lambda engine: (engine.started_ms, engine.engine_id))

    async def bury(self) -> list[str]:
        now_ms = self._all.clock()
        ended = [engine for engine in self._all.engines.values() if engine.expires_ms <= now_ms]
        for engine in ended:
            if engine.is_dead and engine.expires_ms <= now_ms - DEAD_KEPT_MS:
                del self._all.engines[engine.engine_id]
            else:
                self._all.engines[engine.engine_id] = replace(engine, is_dead=True)
        return sorted(engine.engine_id for engine in ended if not engine.is_dead)

    async def take_over(self, limit: int) -> list[RunRow]:
        if not self._engine_id:
            return []
        self._check_fence()
        left = [
            kept
            for _, kept in sorted(self._runs.items())
            if kept.row.status in UNFINISHED and not self._all.is_alive(kept.row.owner)
        ]
        awake = [kept for kept in left if kept.row.status is RunStatus.RUNNING and not kept.row.is_dormant]
        left = (awake or left)[:limit]
        for kept in left:
            kept.row = kept.row.but(owner=self._engine_id)
        return [kept.row for kept in left]

    async def read_mail(self, *, limit: int) -> list[MailRow]:
        return [mail for _, mail in sorted(self._mail.items()) if self._is_mine(self._runs[mail.run_id].row)][:limit]

    async def listen(self, heard: Callable[[], None]) -> None:
        self._all.listeners[self] = heard
