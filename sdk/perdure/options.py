"""Options of tasks as users write them, checked on the spot, and what they mean to the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any, Final

from perdure import codec
from perdure.failures import type_name
from perdure.model import ID_CHARS_MAX, Payload, Resources, Shape, TaskOptions
from perdure.model import RetryPolicy as ModelRetryPolicy


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The pauses between attempts, in seconds: each is `backoff` times the one before, up to
    `max_interval`, spread by plus or minus the share `jitter`."""

    initial_interval: float = 1.0
    max_interval: float = 100.0
    backoff: float = 2.0
    jitter: float = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """See `perdure.task`."""

    task_id: str = ""
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None
    resources: Mapping[str, float] | None = None
    accelerator_type: str | None = None
    runtime_env: Mapping[str, Any] | None = None
    scheduling_strategy: Any = None
    max_retries: int = 3
    retry_exceptions: bool | Sequence[type[BaseException]] = False
    retry_policy: RetryPolicy = RetryPolicy()
    timeout: float | timedelta | None = None
    catch_exceptions: bool = False
    checkpoint: bool = True
    metadata: Mapping[str, Any] | None = None

    def merged(self, options: Mapping[str, Any]) -> Options:
        """With these over them. TypeError for one that does not exist, ValueError for a value that cannot be."""
        named = dict(options)
        if "name" in named:
            named["task_id"] = named.pop("name")
        if unknown := named.keys() - _NAMES:
            raise TypeError(f"unknown option {sorted(unknown)[0]!r}; there are {', '.join(sorted(_NAMES))}")
        merged = replace(self, **named)
        merged.to_model()
        return merged

    def to_model(self) -> TaskOptions:
        if len(self.task_id) > ID_CHARS_MAX:
            raise ValueError(f"a task id has at most {ID_CHARS_MAX} characters")
        return TaskOptions(
            task_id=self.task_id,
            shape=self._shape(),
            retry=self._retry(),
            attempt_timeout_ms=self._timeout_ms(),
            catch_exceptions=bool(self.catch_exceptions),
            checkpoint=bool(self.checkpoint),
            metadata=_json("metadata", self.metadata),
        )

    def _shape(self) -> Shape:
        resources = Resources(
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            memory_bytes=None if self.memory is None else int(self.memory),
            custom=tuple(sorted((self.resources or {}).items())),
            accelerator_type=self.accelerator_type or "",
        )
        return Shape(resources, _json("runtime_env", self.runtime_env), _scheduling(self.scheduling_strategy))

    def _retry(self) -> ModelRetryPolicy:
        retries = self.max_retries
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < -1:
            raise ValueError("max_retries is 0 or more, or -1 for no limit")
        types: tuple[str, ...] = ()
        if not isinstance(self.retry_exceptions, bool):
            kinds = tuple(self.retry_exceptions)
            if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
                raise TypeError("retry_exceptions is True, False or a list of exception types")
            types = tuple(type_name(kind) for kind in kinds)
        policy = self.retry_policy
        return ModelRetryPolicy(
            max_attempts=-1 if retries == -1 else retries + 1,
            initial_interval_ms=round(policy.initial_interval * 1000),
            max_interval_ms=round(policy.max_interval * 1000),
            backoff_coefficient=policy.backoff,
            jitter=policy.jitter,
            application_errors=bool(types) or self.retry_exceptions is True,
            retryable_types=types,
        )

    def _timeout_ms(self) -> int | None:
        if self.timeout is None:
            return None
        seconds = self.timeout.total_seconds() if isinstance(self.timeout, timedelta) else float(self.timeout)
        if not 0 < seconds < float("inf"):
            raise ValueError("timeout must be above 0 seconds")
        return max(round(seconds * 1000), 1)


_NAMES: Final = frozenset(field.name for field in fields(Options))


def _json(name: str, value: Mapping[str, Any] | None) -> str:
    if not value:
        return ""
    try:
        return json.dumps(dict(value), sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be JSON: {error}") from error


def _scheduling(strategy: Any) -> str | Payload:
    """Names and node affinity are understood by everybody; Ray's other strategies travel pickled."""
    if strategy is None:
        return ""
    if isinstance(strategy, str):
        if strategy not in ("DEFAULT", "SPREAD"):
            raise ValueError(f'scheduling_strategy is "DEFAULT", "SPREAD" or a strategy of Ray\'s, not {strategy!r}')
        return strategy
    if type(strategy).__name__ == "NodeAffinitySchedulingStrategy":
        return f"{'node?' if strategy.soft else 'node'}:{strategy.node_id}"
    return codec.encode(strategy).inline()
