"""Modules that `--import` names, and what they do to the service."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from perdure import announcing
from perdure.announcing import ImportFailed, announced

GOOD = "import perdure\n\n\n@perdure.task(name='good')\ndef good(x: int) -> int:\n    return x\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def names(folder: Path, text: str) -> list[str]:
    (folder / "shop.py").write_text(text)
    return [info.name for info in await announced(["shop"])]


async def test_what_a_module_prints_and_starts_does_no_harm(folder: Path) -> None:
    sleeper = "import subprocess\nchild = subprocess.Popen(['sleep', '1000'])\nopen('pid', 'w').write(str(child.pid))\n"
    assert await names(folder, sleeper + GOOD) == ["good"]
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    assert await names(folder, "import sys\nsys.stdout.write('done\\n')\nprint('perdure: x')\n" + GOOD) == ["good"]


async def test_one_bad_function_is_left_out_by_name(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = "\n\n@perdure.task(name='bad', runtime_env={'working_dir': '.'})\ndef bad() -> None: ...\n"
    assert await names(folder, GOOD + bad) == ["good"]
    assert "the function 'bad' cannot be called by name: ValueError" in caplog.text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise RuntimeError('not today')\n", r"shop cannot be imported: RuntimeError: not today .*shop\.py, line 1"),
        ("def broken(:\n", r"shop\.py.*line 1.*SyntaxError"),
        ("import sys\nsys.exit('over')\n", "SystemExit: over"),
        ("import os\nos._exit(0)\n", "the process that did ended with exit code 0"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "ended with exit code -9"),
        ("import no_such_module_at_all\n", "No module named 'no_such_module_at_all'"),
    ],
)
async def test_a_module_that_cannot_be_imported_says_why_and_where(folder: Path, text: str, why: str) -> None:
    with pytest.raises(ImportFailed, match=why):
        await names(folder, text)


async def test_an_import_that_hangs_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcing, "IMPORT_S", 1.0)
    with pytest.raises(ImportFailed, match="importing shop takes more than 1 s"):
        await names(folder, "import threading\nthreading.Event().wait()\n")


async def test_very_many_functions_are_announced_without_their_schemas(folder: Path) -> None:
    many = "for number in range(3000):\n    perdure.task(name=f'f{number}')(eval(f'lambda {LONG}: 0'))\n"
    text = f"import perdure\nLONG = ', '.join('parameter_%d' % n for n in range(100))\n{many}"
    (folder / "shop.py").write_text(text)
    infos = await announced(["shop"])
    assert len(infos) == 3000
    assert not infos[0].arguments_schema
