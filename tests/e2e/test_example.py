"""`make run`, as on a fresh machine: a service and a Ray of its own, the example, an account, a clean end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from patience import PATIENCE_S

ROOT = Path(__file__).parent.parent.parent
MARK = "MARK_OF_THE_EXAMPLE"

EXPECTED = re.compile(
    r"starting the service and a local Ray \.\.\."
    r"|perdure \S+ serves on 127\.0\.0\.1:\d+, storage \S+; tasks run as soon as Ray is up, in some seconds"
    r"|trip-\w+ is recorded and on its way"
    r"|  book_(flight|hotel|car) is done after \d+ attempt\(s\)"
    r"|  book_hotel is tried again: builtins\.ConnectionError: the hotel does not answer"
    r"|everything is booked; the approval comes from outside"
    r"|  (flight|hotel|car) +\S.* +\d+ euros"
    r"|  paid +690 euros, receipt \w+"
    r"|trip-\w+ is SUCCESSFUL"
    r"|[\d:.]+ warning work waits, and no cluster is attached last=none"
    r"|stopping \.\.\."
)
"""All that `make run` may say: no warning of Ray, gRPC or asyncio belongs there. The one warning is for a machine on
which Ray takes longer than a minute to start."""

pytestmark = [pytest.mark.ray]


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
    for line in story.splitlines():
        assert EXPECTED.fullmatch(line), f"an unexpected line: {line!r} in {story}"
    assert story.endswith("\nstopping ...\n"), "nothing to be said about the end"
    psutil.wait_procs(those_with(mark), timeout=PATIENCE_S)
    assert those_with(mark) == []
