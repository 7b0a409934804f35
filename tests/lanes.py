"""Which tests may run beside each other when pytest-xdist runs several lanes.

The tests of a file stay in one lane, in their order, because of its fixtures. All files with tests on Ray stay in one
lane, because a cluster takes much CPU and memory, and one is enough.
"""

from __future__ import annotations

import functools
from pathlib import Path

from xdist.scheduler import LoadFileScheduling

ON_RAY = "pytest.mark.ray"


class LaneScheduling(LoadFileScheduling):
    """Hands a lane that is free the next file, or all the files on Ray."""

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(self.config.rootpath, nodeid)


def lane_of(root: Path, nodeid: str) -> str:
    """What a test must not be separated from: its file, or all files on Ray."""
    file = nodeid.partition("::")[0]
    return ON_RAY if _is_on_ray(root / file) else file


@functools.cache
def _is_on_ray(file: Path) -> bool:
    return ON_RAY in file.read_text()
