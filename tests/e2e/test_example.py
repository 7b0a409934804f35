"""`make run`, as on a fresh machine: a service and a Ray of its own, the example, an account, a clean end."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
MARK = "MARK_OF_THE_EXAMPLE"

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def those_with(mark: str) -> list[psutil.Process]:
    """Every process that inherited it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_the_example_tells_its_story_and_leaves_nothing_behind(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    environment = os.environ | {MARK: mark}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "run_example.py")],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    story = done.stdout
    for line in (
        "book_flight is done after 1 attempt(s)",
        "book_hotel is done after 2 attempt(s)",
        "book_car is done after 1 attempt(s)",
        "paid    690 euros",
        "is SUCCESSFUL",
        "stopping ...",
    ):
        assert line in story, story
    assert story.index("book_hotel is done") < story.index("paid") < story.index("stopping ...")
    assert "Traceback" not in story
    assert "WARNING" not in story
    psutil.wait_procs(those_with(mark), timeout=20)
    assert those_with(mark) == []
