"""Worlds in which every run is a large one: whatever is done in shares is done one by one, and threads are used.

Between two shares anything may happen, death included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from perdure.service.common import aside
from perdure.service.journal import journal
from perdure.service.runs import acting, holding, recording, timers

SHARES: tuple[tuple[ModuleType, str], ...] = (
    (aside, "NODES_AT_ONCE"),
    (acting, "ACTS_AT_ONCE"),
    (journal, "THENS_AT_ONCE"),
    (timers, "FIRED_AT_ONCE"),
    (recording, "EARLY_AT_ONCE"),
    (holding, "HELD_AT_ONCE"),
)


@contextmanager
def small_shares(is_wanted: bool = True) -> Iterator[None]:
    """Meanwhile all shares are of one."""
    before = [getattr(module, name) for module, name in SHARES]
    try:
        if is_wanted:
            for module, name in SHARES:
                setattr(module, name, 1)
        yield
    finally:
        for (module, name), value in zip(SHARES, before, strict=True):
            setattr(module, name, value)
