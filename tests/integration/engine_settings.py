"""Settings of an engine in the test's own process."""

from __future__ import annotations

from typing import Any

from perdure.service.common.settings import Settings


def settings_on(storage: str, **given: Any) -> Settings:
    """On free ports. Beside a database that has no folder, large values are in memory."""
    usual: dict[str, Any] = {"listen": "127.0.0.1:0", "executor": "local", "drain_s": 2.0}
    usual["allow_modules"] = "operator,integration,tests,no_such_module,sys,module"
    if storage.startswith("postgresql:"):
        usual["blobs"] = "memory:"
    return Settings(storage=storage, **{**usual, **given})
