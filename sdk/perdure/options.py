"""Options of tasks as users write them: checked when they are given, and converted for the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import PurePath
from types import ModuleType
from typing import Any, Final

from perdure import codec, texts
from perdure.bounded import SharedBounded
from perdure.failures import type_name
from perdure.model import Payload, Resources, RetryRule, Shape, TaskOptions

SECONDS_MAX: Final = 315_576_000_000
"""Ten thousand years, the bound of google.protobuf.Duration."""
MEMORY_BYTES_MAX: Final = 2**63 - 1
RETRIES_MAX: Final = 2**31 - 1
_OWN_OPTION: Final = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number, not {texts.kind_of(value)}")
    return value


def milliseconds(name: str, given: Any, *, above_zero: bool = False) -> int:
    """A time given as seconds or a timedelta. With `above_zero`, at least one millisecond."""
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} is a number of seconds or a timedelta, not {texts.kind_of(given)}")
    if above_zero and not 0 < seconds <= SECONDS_MAX:
        raise ValueError(f"{name} must be above 0 seconds, and at most 10,000 years")
    if not 0 <= seconds <= SECONDS_MAX:
        raise ValueError(f"{name} must be between 0 seconds and 10,000 years")
    return max(round(seconds * 1000), int(above_zero))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is a string, not {texts.kind_of(value)}")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True or False, not {value!r:.80}")
    return value


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The pauses between attempts, in seconds: each is `backoff` times the one before, up to
    `max_interval`, spread by plus or minus the share `jitter`."""

    initial_interval: float = 1.0
    max_interval: float = 100.0
    backoff: float = 2.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        for name in ("initial_interval", "max_interval"):
            if not 0 <= _number(f"retry_policy.{name}", getattr(self, name)) <= SECONDS_MAX:
                raise ValueError(f"retry_policy.{name} is between 0 seconds and 10,000 years")
        if not 1 <= _number("retry_policy.backoff", self.backoff) < float("inf"):
            raise ValueError("retry_policy.backoff is 1 or more")
        if not 0 <= _number("retry_policy.jitter", self.jitter) <= 1:
            raise ValueError("retry_policy.jitter is between 0 and 1")


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
    label_selector: Mapping[str, str] | None = None
    fallback_strategy: Sequence[Mapping[str, Any]] | None = None
    max_retries: int = 3
    retry_exceptions: bool | Sequence[type[BaseException]] = False
    retry_policy: RetryPolicy = RetryPolicy()
    timeout: float | timedelta | None = None
    keep_warm: float | timedelta | None = None
    catch_exceptions: bool = False
    checkpoint: bool | None = None
    metadata: Mapping[str, Any] | None = None
    allow_inplace: bool = False
    _model: TaskOptions | None = field(default=None, init=False, repr=False)
    """A cache: many graphs are made with the same options."""

    def merged(self, options: Mapping[str, Any]) -> Options:
        """These options, overridden by the given ones. TypeError for an unknown option or a wrong type, ValueError for
        an invalid value."""
        named = dict(options)
        if "name" in named:
            if "task_id" in named:
                raise TypeError("name is another word for task_id; give one of them")
            named["task_id"] = named.pop("name")
        if named.get("task_id") == "":
            texts.optional("", "name" if "name" in options else "task_id")  # refuses it
        if unknown := named.keys() - TASK_OPTIONS:
            raise TypeError(f"unknown option {sorted(unknown)[0]!r}; there are {', '.join(sorted(TASK_OPTIONS))}")
        merged = replace(self, **named)
        merged.to_model()
        return merged

    def to_model(self) -> TaskOptions:
        """Always the same object. Raises like `merged`."""
        if self._model is not None:
            return self._model
        model = TaskOptions(
            task_id=texts.name(_text("task_id", self.task_id), "task_id", required=False),
            shape=self._shape(),
            retry=self._retry(),
            attempt_timeout_ms=self._timeout_ms(),
            catch_exceptions=_flag("catch_exceptions", self.catch_exceptions),
            checkpoint=None if self.checkpoint is None else _flag("checkpoint", self.checkpoint),
            metadata=to_json("metadata", self.metadata),
            allow_inplace=_flag("allow_inplace", self.allow_inplace),
        )
        object.__setattr__(self, "_model", model)
        return model

    def _shape(self) -> Shape:
        resources = Resources(
            num_cpus=None if self.num_cpus is None else _number("num_cpus", self.num_cpus),
            num_gpus=None if self.num_gpus is None else _number("num_gpus", self.num_gpus),
            memory_bytes=self._memory(),
            custom=self._custom(),
            accelerator_type=texts.free(_text("accelerator_type", self.accelerator_type or ""), "accelerator_type"),
        )
        keep_warm_ms = 0 if self.keep_warm is None else milliseconds("keep_warm", self.keep_warm, above_zero=True)
        return Shape(resources, _runtime_env(self.runtime_env), self._scheduling(), keep_warm_ms)

    def _scheduling(self) -> str | Payload:
        labels, fallbacks = self.label_selector, self.fallback_strategy
        if labels is None and fallbacks is None:
            return _scheduling(self.scheduling_strategy)
        if not isinstance(labels or {}, Mapping) or not all(
            isinstance(text, str) for item in (labels or {}).items() for text in item
        ):
            raise TypeError("label_selector is a mapping of labels to conditions, all strings")
        if not isinstance(fallbacks or [], (list, tuple)):
            raise TypeError(f"fallback_strategy is a list of options, not {texts.kind_of(fallbacks)}")
        named = {
            "fallback_strategy": list(fallbacks or ()),
            "label_selector": dict(sorted((labels or {}).items())),
            "scheduling_strategy": self.scheduling_strategy,
        }
        _scheduling(self.scheduling_strategy)
        return _pickled({name: value for name, value in named.items() if value}, self.scheduling_strategy)

    def _memory(self) -> int | None:
        if self.memory is None:
            return None
        if not 0 <= _number("memory", self.memory) <= MEMORY_BYTES_MAX:
            raise ValueError(f"memory is a number of bytes, not {self.memory}")
        return int(self.memory)

    def _custom(self) -> tuple[tuple[str, float], ...]:
        custom = {} if self.resources is None else self.resources
        if not isinstance(custom, Mapping):
            raise TypeError("resources is a mapping of names to amounts")
        for name, amount in custom.items():
            if texts.name(_text("a name in resources", name), "resources", required=False) in _OWN_OPTION:
                raise ValueError(f"resources has no {name}; that is the option {_OWN_OPTION[name]}")
            _number(f"the resource {name!r}", amount)
        return tuple(sorted(custom.items()))

    def _retry(self) -> RetryRule:
        retries = self.max_retries
        if isinstance(retries, bool) or not isinstance(retries, int):
            raise TypeError(f"max_retries is an integer, not {texts.kind_of(retries)}")
        if not -1 <= retries < RETRIES_MAX:
            raise ValueError("max_retries is 0 or more, or -1 for no limit")
        types = () if isinstance(self.retry_exceptions, bool) else _types(self.retry_exceptions)
        policy = self.retry_policy
        if not isinstance(policy, RetryPolicy):
            raise TypeError(f"retry_policy is a perdure.RetryPolicy, not {texts.kind_of(policy)}")
        return RetryRule(
            max_attempts=-1 if retries == -1 else retries + 1,
            initial_interval_ms=round(policy.initial_interval * 1000),
            max_interval_ms=round(policy.max_interval * 1000),
            backoff_coefficient=policy.backoff,
            jitter=policy.jitter,
            application_errors=bool(types) or self.retry_exceptions is True,
            retryable_types=types,
        )

    def _timeout_ms(self) -> int | None:
        return None if self.timeout is None else milliseconds("timeout", self.timeout, above_zero=True)


TASK_OPTIONS: Final = frozenset(option.name for option in fields(Options) if option.init)

OF_WORKFLOWS: Final = frozenset(
    {
        "task_id",
        "name",
        "checkpoint",
        "catch_exceptions",
        "metadata",
        "allow_inplace",
        "retry_policy",
        "timeout",
    }
)
"""The options of `workflow.options`; all others are Ray's."""


def workflow_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options of `workflow.options`. Returns those that are not None. ValueError for an unknown option or an
    invalid value, TypeError for a wrong type."""
    if unknown := given.keys() - OF_WORKFLOWS:
        known = ", ".join(sorted(OF_WORKFLOWS))
        raise ValueError(f"{sorted(unknown)[0]!r} is no option of a workflow; there are {known}")
    said = {name: value for name, value in given.items() if value is not None}
    if "name" in said:
        texts.name(_text("name", said["name"]), "name", required=False)
    Options().merged({name: value for name, value in said.items() if name != "name"})
    return said


def with_environment(options: TaskOptions, runtime_env: str) -> TaskOptions:
    """The options with another runtime environment. The same object for the same options, as long as it is cached:
    programs submit many graphs with the same options."""
    key = (id(options), runtime_env)
    known = _with_environments.get(key)
    if known is None:
        known = (options, replace(options, shape=replace(options.shape, runtime_env=runtime_env)))
        _with_environments.keep(key, known)
    return known[1]


_with_environments: Final = SharedBounded[tuple[int, str], tuple[TaskOptions, TaskOptions]](1_000)
"""By id() of the options, which are kept, so that their id() stays theirs."""


def _types(kinds: Any) -> tuple[str, ...]:
    is_list = isinstance(kinds, (list, tuple, set, frozenset))
    if not is_list or not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise TypeError("retry_exceptions is True, False or a list of exception types")
    return tuple(type_name(kind) for kind in kinds)


def to_json(name: str, value: Mapping[str, Any] | None) -> str:
    """Canonical JSON, "" for nothing. TypeError for a value that is not a mapping with string keys, ValueError for one
    that is not JSON or has bad texts."""
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is a mapping, not {texts.kind_of(value)}")
    if not value:
        return ""
    if not all(isinstance(key, str) for key in value):
        raise TypeError(f"the keys of {name} are strings")
    try:
        text = json.dumps(dict(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be JSON: {error}") from error
    return texts.json_text(text, name)


def _runtime_env(value: Mapping[str, Any] | None) -> str:
    """A runtime environment as JSON, with paths as texts and imported modules as their paths."""
    if not isinstance(value, Mapping):
        return to_json("runtime_env", value)
    plain = dict(value)
    for name in ("working_dir", "py_modules", "pip", "uv", "conda"):
        if name in plain:
            plain[name] = _places(plain[name])
    _check_modules(plain.get("modules"))
    return to_json("runtime_env", plain)


def _check_modules(value: Any) -> None:
    """`value` must be names of modules to send besides those that are found, or False: none are sent."""
    if value is None or value is False:
        return
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) and name.isidentifier() for name in value):
        raise TypeError(f"runtime_env: modules is a list of top-level names of modules, or False, not {value!r:.80}")


def _places(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_places(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if not isinstance(value, ModuleType):
        return value
    places = list(getattr(value, "__path__", None) or [value.__file__])
    if len(places) != 1 or places[0] is None:
        raise ValueError(f"the module {value.__name__} is not in one place, so it cannot be sent along")
    return str(places[0])


def _scheduling(strategy: Any) -> str | Payload:
    """A scheduling strategy: names and node affinity as text, Ray's other strategies pickled."""
    if strategy is None:
        return ""
    if isinstance(strategy, str):
        if strategy not in ("DEFAULT", "SPREAD"):
            raise ValueError(f'scheduling_strategy is "DEFAULT", "SPREAD" or a strategy of Ray\'s, not {strategy!r}')
        return strategy
    if type(strategy).__name__ == "NodeAffinitySchedulingStrategy":
        return texts.free(f"{'node?' if strategy.soft else 'node'}:{strategy.node_id}", "scheduling_strategy")
    return _pickled(strategy, strategy)


def _pickled(value: Any, strategy: Any) -> Payload:
    """A pickled strategy. The payload's type names its class for the engine, which does not unpickle."""
    kind = "" if strategy is None or isinstance(strategy, str) else type(strategy).__name__
    return replace(codec.encode(value).inline(), type=kind)
