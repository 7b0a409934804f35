"""The settings of an engine: each field defines the flag, the variable, the type, the default and the help.

Flags win over PERDURE_* variables, and those over defaults. An unknown PERDURE_* variable is an error, so that a
misspelt one is noticed at the start.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from perdure import texts
from perdure.storage.urls import default_blobs

PREFIX: Final = "PERDURE_"
DURATION: Final = re.compile(r"(?P<number>\d{1,9}(\.\d+)?)(?P<unit>[smhdw])")
UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
OTHERS: Final = frozenset({"PERDURE_ADDRESS", "PERDURE_NAMESPACE", "PERDURE_MODULES"})
"""Variables of clients."""


class SettingsError(ValueError):
    """A setting has an invalid value, or does not exist."""


def knob(default: Any, text: str, *, choices: tuple[str, ...] = (), least: int = 0, flag: str = "") -> Any:
    """`flag`: its name if that is not the field's."""
    return field(default=default, metadata={"help": text, "choices": choices, "least": least, "flag": flag})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an engine runs."""

    listen: str = knob("127.0.0.1:7373", "host:port to serve gRPC on; port 0 takes a free one")
    storage: str = knob("./.perdure", "where runs are kept: a folder, sqlite:///path, postgresql://... or memory:")
    blobs: str = knob(
        "",
        "where large values are kept: a folder, file:///path, s3://bucket or memory:; default: beside the storage",
    )
    executor: str = knob(
        "ray",
        "where tasks run: on Ray, by an agent of the engine's; in processes of this machine; or by agents that dial in",
        choices=("ray", "local", "agents"),
    )
    imports: str = knob(
        "",
        "modules that workers import, with commas between them; clients may call by name what these register",
        flag="import",
    )
    watch: bool = knob(
        False, "for development: start anew, with new workers, when a Python file below the working directory changes"
    )
    allow_modules: str = knob(
        "",
        "modules, with commas between them, of which clients may call any function as module:function, registered or "
        "not; empty: none",
    )
    http_listen: str = knob("", "host:port of HTTP, for calls and events; port 0 takes a free one; empty: no HTTP")
    max_running_workflows: int = knob(-1, "running workflows of a namespace; further ones wait; -1: no limit", least=-1)
    max_pending_workflows: int = knob(
        -1, "waiting workflows of a namespace; further ones are refused; -1: no limit", least=-1
    )
    blob_grace_s: float = knob(
        600.0, "an unused large value is kept for at least this many seconds after it was stored"
    )
    collect_s: float = knob(3600.0, "seconds between two searches for large values that no workflow uses; 0: never")
    keep_finished: str = knob("", "finished workflows are deleted after this time, as in 7d or 12h; empty: never")
    recovery: str = knob("auto", "whether unfinished runs go on at the start", choices=("auto", "manual"))
    engine_lease_s: float = knob(
        6.0, "on a shared database: an engine that is silent for this long is dead, and others take its runs over"
    )
    ray_address: str = knob("local", "for the agent: local starts a Ray of its own, auto or host:port joins one")
    ray_namespace: str = knob("", "Ray's namespace, in which tasks find and make named actors; empty: a new one")
    ray_cpus: int = knob(0, "CPUs of the local Ray; 0: as many as the machine has")
    lease_idle_s: float = knob(5.0, "seconds after which an idle lease gives its resources back")
    local_threads: int = knob(
        0,
        "the local executor runs tasks in this many threads of the engine, so a task that ends its process ends the "
        "engine; 0: in processes",
    )
    drain_s: float = knob(10.0, "seconds that calls and the journal have to end at a shutdown")
    with_parent: int = knob(0, "end when the parent process, which has this id, ends; 0: no parent")
    log_level: str = knob("info", "how much is logged", choices=("debug", "info", "warning", "error"))
    log_format: str = knob("text", "how it is logged", choices=("text", "json"))

    def __post_init__(self) -> None:
        for knob_ in fields(self):
            value, choices = getattr(self, knob_.name), knob_.metadata["choices"]
            if choices and value not in choices:
                raise SettingsError(f"{knob_.name} is one of {', '.join(choices)}, not {value!r}")
            least = knob_.metadata["least"]
            if isinstance(value, (int, float)) and not least <= value < float("inf"):
                raise SettingsError(f"{knob_.name} must be {least} or more, not {value}")
        _check_address("listen", self.listen)
        if self.http_listen:
            _check_address("http_listen", self.http_listen)
            if self.http_listen == self.listen and not self.listen.endswith(":0"):
                raise SettingsError(f"http_listen is {self.http_listen}, as listen is; gRPC and HTTP need a port each")
        _ = self.keep_finished_ms  # says what is wrong with it
        if self.watch and importlib.util.find_spec("watchfiles") is None:
            raise SettingsError("watch needs one more package: pip install 'perdure[watch]'")
        if not self.max_running_workflows:
            raise SettingsError("max_running_workflows must be 1 or more, or -1 for any number")
        if self.executor != "local" and self.blob_url.startswith("memory:"):
            raise SettingsError("blobs in memory are out of reach for a cluster; use executor local, or a folder")

    @property
    def keep_finished_ms(self) -> int | None:
        """How long finished workflows are kept; None: for ever."""
        return _duration_ms("keep_finished", self.keep_finished) if self.keep_finished else None

    @property
    def blob_url(self) -> str:
        """The URL of the blobs, with the default resolved."""
        return self.blobs or default_blobs(self.storage)

    @classmethod
    def load(cls, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
        """Settings from flags (None: not given) and variables. Raises SettingsError."""
        known = {f"{PREFIX}{knob_.name.upper()}": knob_ for knob_ in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in environment.items():
            if not name.startswith(PREFIX) or name in OTHERS:
                continue
            if name not in known:
                raise SettingsError(f"unknown variable {name}; there are {', '.join(sorted(known))}")
            values[known[name].name] = _parse(name, text, type(known[name].default))
        values.update({name: value for name, value in flags.items() if value is not None})
        try:
            return cls(**values)
        except SettingsError:
            raise
        except ValueError as error:
            raise SettingsError(str(error)) from error


def _check_address(name: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise SettingsError(f"{name} is host:port, not {address!r}")


def _duration_ms(name: str, text: str) -> int:
    match = DURATION.fullmatch(text)
    if match is None or not float(match["number"]):
        raise SettingsError(f"{name} is a number with s, m, h, d or w, as in 7d, not {text!r}")
    return round(float(match["number"]) * UNITS_MS[match["unit"]])


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise SettingsError(f"{name} is true or false, not {text!r}")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise SettingsError(f"{name} is {texts.with_article(kind.__name__)}, not {text!r}") from error
