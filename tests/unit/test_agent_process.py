"""The agent that an engine starts for its own Ray: started again when it ends by itself, and never after the end."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from patience import PATIENCE_S
from perdure.service import agent_process
from perdure.service.common.settings import Settings

WAIT_S = PATIENCE_S


async def test_an_agent_that_ends_by_itself_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $@ >> {starts}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(agent_process, "AGAIN_S", 0.01)
    agent = agent_process.AgentProcess(Settings(executor="ray"))
    await agent.serve("127.0.0.1:1")
    async with asyncio.timeout(WAIT_S):
        while not starts.exists() or len(starts.read_text().splitlines()) < 3:
            await asyncio.sleep(0.01)
    await agent.end()
    lines = starts.read_text().splitlines()
    assert all("perdure.worker.agent --address 127.0.0.1:1 " in line for line in lines)
    await asyncio.sleep(0.2)
    assert len(starts.read_text().splitlines()) <= len(lines) + 1, "at most what was being started"
