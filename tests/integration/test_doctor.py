"""`perdure doctor`: what it finds where all is well, and where it is not."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from perdure.cli.root import run
from perdure.service import doctor
from perdure.service.app import running_server
from perdure.service.common.settings import Settings
from perdure.service.doctor import Finding, examine
from perdure.storage.sqlite.store import SqliteMetadataStore
from postgres import PostgresServer
from s3 import S3Server


async def found(**knobs: Any) -> dict[str, Finding]:
    knobs = {"listen": "127.0.0.1:0", "executor": "local", **knobs}
    return {finding.check: finding for finding in await examine(Settings(**knobs))}


def failed(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.status == "failed"}


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """With a database of this version in it."""
    store = SqliteMetadataStore(tmp_path / "perdure.db")
    await store.open()
    await store.close()
    return tmp_path


async def test_all_is_well(folder: Path) -> None:
    findings = await found(storage=str(folder))
    assert [finding.status for finding in findings.values()] == ["ok"] * 9
    storage = findings["storage"].facts
    assert storage["schema"] == storage["schema_known"] > 0
    assert storage["is_in_use"] is False
    assert findings["versions"].facts["python"]
    assert list((folder / "blobs").glob("??/??/*")) == []
    assert [path.name for path in folder.iterdir() if "doctor" in path.name] == []


async def test_before_the_first_start(tmp_path: Path) -> None:
    findings = await found(storage=str(tmp_path / "not" / "yet"))
    assert failed(findings) == set()
    assert "there is no database yet" in findings["storage"].text
    assert "/not/yet/blobs: written, read and removed" in findings["blobs"].text
    assert list(tmp_path.iterdir()) == []


async def test_before_the_first_start_in_a_folder_that_exists(tmp_path: Path) -> None:
    assert failed(await found(storage=str(tmp_path))) == set()
    assert list(tmp_path.iterdir()) == []


async def test_beside_an_engine(folder: Path) -> None:
    settings = Settings(listen="127.0.0.1:0", storage=str(folder), executor="local")
    async with running_server(settings) as server:
        findings = await found(storage=str(folder), listen=server.address)
    assert failed(findings) == set()
    assert "in use by an engine" in findings["storage"].text
    assert "an engine of version" in findings["port"].text


async def test_a_port_that_another_program_has(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        addresses = [f"127.0.0.1:{program.getsockname()[1]}" for program in (one, other)]
        findings = await found(storage=str(folder), listen=addresses[0], http_listen=addresses[1])
    assert failed(findings) == {"port", "http port"}
    assert "choose another one" in findings["port"].advice


async def test_a_database_of_a_newer_version(folder: Path) -> None:
    with sqlite3.connect(folder / "perdure.db") as connection:
        connection.execute("INSERT INTO migrations (number, name) VALUES (9999, 'later')")
    connection.close()
    findings = await found(storage=str(folder))
    assert failed(findings) == {"storage"}
    assert "newer version of Perdure (migration 9999)" in findings["storage"].text


async def test_a_file_that_is_no_database(folder: Path) -> None:
    (folder / "perdure.db").write_bytes(b"this was a database" * 1000)
    findings = await found(storage=str(folder))
    assert failed(findings) == {"storage"}
    assert "perdure.db" in findings["storage"].text


async def test_a_disk_that_is_nearly_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: real._replace(free=5 * 1024**2))
    findings = await found(storage=str(folder))
    assert findings["room"].status == "warning"
    assert "--keep-finished" in findings["room"].advice


async def test_blobs_that_cannot_be_written(folder: Path) -> None:
    (folder / "file").write_text("in the way")
    findings = await found(storage=str(folder), blobs=str(folder / "file"))
    assert failed(findings) == {"blobs"}


async def test_blobs_on_s3(folder: Path, s3_server: S3Server) -> None:
    url = s3_server.blobs_url(folder / "cache")
    assert failed(await found(storage=str(folder), blobs=url)) == set()
    findings = await found(storage=str(folder), blobs=url.replace("s3://", "s3://not-"))
    assert failed(findings) == {"blobs"}
    assert "NoSuchBucket" in findings["blobs"].text


async def test_postgres(postgres_server: PostgresServer, tmp_path: Path) -> None:
    async with postgres_server.database() as url:
        findings = await found(storage=url, blobs=str(tmp_path))
        assert {"storage", "speed", "clock"} <= findings.keys()
        assert failed(findings) <= {"durability"}  # the server of the tests may do without fsync
        assert findings["storage"].facts["schema"] == findings["storage"].facts["schema_known"]
        assert "password" not in json.dumps(dict(findings["storage"].facts))
    async with postgres_server.database(is_migrated=False) as url:
        findings = await found(storage=url, blobs=str(tmp_path))
        assert failed(findings) == {"storage"}
        assert "perdure migrate" in findings["storage"].text


async def test_a_postgres_that_is_not_there(tmp_path: Path) -> None:
    findings = await found(storage="postgresql://nobody@127.0.0.1:1/none", blobs=str(tmp_path))
    assert failed(findings) == {"storage"}


@pytest.mark.parametrize(("skew_ms", "status"), [(0, "ok"), (-1900, "ok"), (5000, "warning"), (-5000, "warning")])
def test_clocks(skew_ms: float, status: str) -> None:
    (finding,) = doctor._of_clock({"skew_ms": skew_ms, "round_trip_ms": 1.0})
    assert finding.status == status
    assert ("NTP" in finding.advice) == (status == "warning")


def test_a_slow_disk() -> None:
    assert doctor._of_speed({"milliseconds": 200.0})[0].status == "warning"


@pytest.mark.parametrize(
    ("version", "knobs", "status", "said"),
    [
        (None, {}, "failed", "not installed"),
        ("2.9.3", {}, "failed", "too old"),
        ("2.60.0", {}, "ok", "starts with the engine"),
        ("2.60.0", {"ray_address": "127.0.0.1:1"}, "failed", "the cluster at 127.0.0.1:1"),
    ],
)
async def test_ray(
    folder: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, knobs: dict[str, Any], status: str, said: str
) -> None:
    monkeypatch.setattr(doctor, "_version_of", lambda name: version if name == "ray" else "1")
    monkeypatch.setattr(doctor, "_JOIN", "import sys; sys.exit('no cluster')")
    findings = await found(storage=str(folder), executor="ray", **knobs)
    assert findings["ray"].status == status
    assert said in findings["ray"].text


async def test_a_check_that_breaks_is_a_finding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_settings: Settings) -> list[Finding]:
        raise RuntimeError("oh")

    monkeypatch.setattr(doctor, "_blobs", broken)
    findings = await found(storage=str(folder))
    assert failed(findings) == {"blobs"}
    assert "RuntimeError: oh" in findings["blobs"].text


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)
    knobs = ["--executor", "local", "--listen", "127.0.0.1:0", "--storage", str(tmp_path)]
    assert run(["doctor", *knobs]) == 0
    assert "is free" not in capsys.readouterr().err
    (tmp_path / "perdure.db").write_bytes(b"no database" * 1000)
    assert run(["doctor", *knobs]) == 1
    assert "FAILED  storage" in capsys.readouterr().out
    assert run(["-o", "json", "doctor", *knobs]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert {finding["check"] for finding in answer["findings"] if finding["status"] == "failed"} == {"storage"}
    assert run(["doctor", "--listen", "nonsense"]) == 2
