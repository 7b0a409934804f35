"""`workflow.options(...)`: options of tasks that Ray does not have, for its remote functions.

`perdure.raydag` embeds them in Ray's own options.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

from perdure import raydag, texts
from perdure.graph import Task

F = TypeVar("F")


class options:
    """Options of a task of a workflow.

    Use it as a decorator above `@ray.remote` or `@perdure.task`, or in `.options(num_cpus=1,
    **workflow.options(...))`. Options that are not named do not change. Options: task_id (or name), metadata (JSON),
    catch_exceptions, checkpoint, allow_inplace, retry_policy (perdure.RetryPolicy) and timeout (seconds for an
    attempt). Unknown and malformed options raise TypeError or ValueError here.
    """

    def __init__(self, **workflow_options: Any) -> None:
        metadata = workflow_options.get("metadata")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise ValueError(f"metadata is a dictionary, not {texts.kind_of(metadata)}")
        self._carried = raydag.metadata_of(workflow_options)
        self.options: Mapping[str, Any] = workflow_options

    def keys(self) -> Iterator[str]:
        """With `__getitem__`, makes `**` work."""
        raydag.accept_metadata()  # Ray may have been loaded since
        return iter(self._carried)

    def __getitem__(self, key: str) -> Any:
        return self._carried[key]

    def __call__(self, function: F) -> F:
        """The function with these options, which override its own. ValueError if it is not a remote function or
        task."""
        made: Any = function
        made = made.options(**self.options) if isinstance(made, Task) else raydag.decorate(made, self.options)
        return cast(F, made)
