"""Every knob once: flags over variables over defaults, and nothing misspelt goes unnoticed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.service.common.settings import Settings, SettingsError


def test_nothing_given_is_the_default() -> None:
    assert Settings.load({}, {}) == Settings()
    assert Settings().listen == "127.0.0.1:7373"


def test_flags_win_over_variables_and_those_over_defaults() -> None:
    environment = {"PERDURE_LISTEN": "0.0.0.0:1", "PERDURE_EXECUTOR": "local", "PERDURE_LOCAL_THREADS": "7"}
    settings = Settings.load(environment, {"listen": "127.0.0.1:2", "local_threads": None})
    assert (settings.listen, settings.executor, settings.local_threads) == ("127.0.0.1:2", "local", 7)
    assert settings.drain_s == Settings().drain_s


def test_every_knob_is_a_variable_of_its_type() -> None:
    for knob in fields(Settings):
        default = knob.default
        loaded = getattr(Settings.load({f"PERDURE_{knob.name.upper()}": str(default)}, {}), knob.name)
        assert loaded == default
        assert type(loaded) is type(default)
        assert knob.metadata["help"]


def test_variables_of_others_are_left_alone() -> None:
    environment = {"PATH": "/bin", "PERDURE_ADDRESS": "x:1", "PERDURE_NAMESPACE": "n", "perdure_listen": "y"}
    assert Settings.load(environment, {}) == Settings()


def test_limits_are_off_and_http_is_off_unless_they_are_asked_for() -> None:
    usual = Settings()
    assert (usual.max_running_workflows, usual.max_pending_workflows, usual.http_listen) == (-1, -1, "")
    given = {"PERDURE_MAX_RUNNING_WORKFLOWS": "3", "PERDURE_MAX_PENDING_WORKFLOWS": "0"}
    settings = Settings.load(given, {"max_running_workflows": -1, "http_listen": "[::1]:0"})
    assert (settings.max_running_workflows, settings.max_pending_workflows) == (-1, 0)
    assert settings.http_listen == "[::1]:0"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("PERDURE_LISEN", "x", "unknown variable PERDURE_LISEN; there are PERDURE_ALLOW_MODULES"),
        ("PERDURE_LISTEN", "7373", "listen is host:port, not '7373'"),
        ("PERDURE_LISTEN", "", "listen is host:port, not ''"),
        ("PERDURE_LISTEN", "host:", "listen is host:port, not 'host:'"),
        ("PERDURE_LISTEN", "host:-1", "listen is host:port"),
        ("PERDURE_LISTEN", "host:65536", "listen is host:port"),
        ("PERDURE_EXECUTOR", "dask", "executor is one of ray, local, agents, not 'dask'"),
        ("PERDURE_RECOVERY", "", "recovery is one of auto, manual, not ''"),
        ("PERDURE_LOG_LEVEL", "loud", "log_level is one of debug, info, warning, error, not 'loud'"),
        ("PERDURE_LOCAL_THREADS", "many", "PERDURE_LOCAL_THREADS is an int, not 'many'"),
        ("PERDURE_LOCAL_THREADS", "-1", "local_threads must be 0 or more"),
        ("PERDURE_RAY_CPUS", "1.5", "PERDURE_RAY_CPUS is an int, not '1.5'"),
        ("PERDURE_RAY_CPUS", "-1", "ray_cpus must be 0 or more, not -1"),
        ("PERDURE_DRAIN_S", "-0.5", "drain_s must be 0 or more, not -0.5"),
        ("PERDURE_DRAIN_S", "nan", "drain_s must be 0 or more, not nan"),
        ("PERDURE_LEASE_IDLE_S", "inf", "lease_idle_s must be 0 or more, not inf"),
        ("PERDURE_MAX_RUNNING_WORKFLOWS", "0", "max_running_workflows must be 1 or more, or -1 for any number"),
        ("PERDURE_MAX_RUNNING_WORKFLOWS", "-2", "max_running_workflows must be -1 or more, not -2"),
        ("PERDURE_MAX_RUNNING_WORKFLOWS", "few", "PERDURE_MAX_RUNNING_WORKFLOWS is an int, not 'few'"),
        ("PERDURE_MAX_PENDING_WORKFLOWS", "-2", "max_pending_workflows must be -1 or more, not -2"),
        ("PERDURE_HTTP_LISTEN", "7374", "http_listen is host:port, not '7374'"),
        ("PERDURE_BLOB_GRACE_S", "-1", "blob_grace_s must be 0 or more, not -1"),
        ("PERDURE_STORAGE", "", "'' is no storage"),
        ("PERDURE_STORAGE", "mysql://host/x", "is no storage"),
        ("PERDURE_STORAGE", "memory:", "blobs in memory are out of reach for a cluster"),
        ("PERDURE_BLOBS", "memory:", "blobs in memory are out of reach for a cluster"),
    ],
)
def test_a_bad_value_is_an_error_with_a_sentence(name: str, value: str, text: str) -> None:
    with pytest.raises(SettingsError) as info:
        Settings.load({name: value}, {})
    assert text in str(info.value)


def test_two_protocols_at_one_address_are_an_error_that_names_both_settings() -> None:
    with pytest.raises(SettingsError, match=r"http_listen is 127.0.0.1:7373, as listen is"):
        Settings(listen="127.0.0.1:7373", http_listen="127.0.0.1:7373")
    assert Settings(listen="127.0.0.1:0", http_listen="127.0.0.1:0")


@given(st.sampled_from([knob.name for knob in fields(Settings)]), st.text(st.characters(exclude_characters="\0")))
def test_any_text_is_a_value_or_an_error_of_settings(name: str, text: str) -> None:
    loaded: Any = None
    try:
        loaded = Settings.load({f"PERDURE_{name.upper()}": text}, {})
    except SettingsError as error:
        refused = str(error)
    else:
        refused = ""
    assert (loaded is None) == bool(refused)


def test_blobs_are_beside_the_storage_unless_said_otherwise() -> None:
    assert Settings(storage="/data/x").blob_url == "file:///data/x/blobs"
    assert Settings(storage="sqlite:////data/x/p.db").blob_url == "file:///data/x/blobs"
    assert Settings(storage="/data/x", blobs="/other").blob_url == "/other"
    assert Settings(storage="memory:", executor="local").blob_url == "memory:"
