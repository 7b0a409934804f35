"""Programs of several modules and services that were started elsewhere; modules that are edited between runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from patience import PATIENCE_S
from services import Process, Service, running

pytestmark = pytest.mark.timeout(600)


class Program:
    """Files of a user, and commands that are given beside them."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self._address = address
        folder.mkdir()

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)

    def python(self, *arguments: str, **variables: str) -> str:
        """What it prints; asserts that it ends well."""
        done = self._run([sys.executable, *arguments], variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def perdure(self, *arguments: str) -> str:
        return self.python("-m", "perdure.cli", *arguments)

    def refused(self, *arguments: str) -> str:
        """What it says on standard error; asserts that it fails."""
        return self.refused_in(".", *arguments)

    def refused_in(self, folder: str, *arguments: str) -> str:
        done = self._run([sys.executable, "-m", "perdure.cli", *arguments], {}, folder)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def _run(
        self, command: list[str], variables: dict[str, str], folder: str = "."
    ) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        environment = kept | {"PERDURE_ADDRESS": self._address} | variables
        return subprocess.run(
            command,
            cwd=self.folder / folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )


@pytest.fixture
def on_ray(service: Service, agent: Process, tmp_path: Path) -> Program:
    return Program(tmp_path / "program", service.address)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Service]:
    """In a folder where modules of the same names are others."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("steps", "stale", "broken"):
        (folder / f"{name}.py").write_text("raise ImportError('this is the one of the service')")
    service = Service(tmp_path, "--executor", "local", "--lease-idle-s", "1", cwd=folder)
    with running(service):
        service.up()
        yield service


@pytest.fixture
def without_ray(local: Service, tmp_path: Path) -> Program:
    return Program(tmp_path / "program", local.address)


SHOP = {
    "main.py": """
import perdure
from shop.orders import Order
from steps import charge

@perdure.task(num_cpus=0.25)
def collect(orders):
    import late
    return [late.mark(order) for order in orders]

if __name__ == "__main__":
    client = perdure.SyncClient()
    orders = client.run(collect.bind([charge.bind(Order("tea", 2)), charge.bind(Order("milk", 3))]))
    print([(type(order) is Order, order.name, order.price) for order in orders])
""",
    "steps.py": """
import perdure
from shop.prices import price_of

@perdure.task(num_cpus=0.25)
def charge(order):
    order.price = order.count * price_of(order.name)
    return finish.bind(order)

@perdure.task(num_cpus=0.25)
def finish(order):
    from late import mark
    return mark(order)
""",
    "late.py": "def mark(order):\n    order.name += '!'\n    return order\n",
    "shop/__init__.py": "",
    "shop/orders.py": """
class Order:
    def __init__(self, name, count):
        self.name, self.count, self.price = name, count, 0
""",
    "shop/prices.py": """
import json
from pathlib import Path

def price_of(name):
    return json.loads((Path(__file__).parent / "prices.json").read_text())[name]
""",
    "shop/prices.json": '{"tea": 5, "milk": 7}',
}


def check_a_program_of_several_modules(program: Program) -> None:
    program.write(SHOP)
    assert program.python("main.py") == "[(True, 'tea!!', 10), (True, 'milk!!', 21)]"


def test_a_program_of_several_modules_runs_in_processes(without_ray: Program) -> None:
    check_a_program_of_several_modules(without_ray)


@pytest.mark.ray
def test_a_program_of_several_modules_runs_on_ray(on_ray: Program) -> None:
    check_a_program_of_several_modules(on_ray)


STALE = """
import perdure

@perdure.task(num_cpus=0.25)
def f():
    return "first"

@perdure.task(num_cpus=0.25)
def after(value, go):
    return value, which()

def which():
    return "first"

def waiting():
    return after.bind(f.bind(), perdure.event("go"))
"""


def check_an_edited_module(program: Program, service: Service) -> None:
    program.write({"stale.py": STALE})
    assert program.perdure("run", "stale:f") == "first"
    program.perdure("run", "stale:waiting", "--id", "old", "--no-wait")
    program.write({"stale.py": STALE.replace("first", "second")})
    assert program.perdure("run", "stale:f") == "second"
    program.perdure("run", "stale:waiting", "--id", "new", "--no-wait")
    service.kill()
    (program.folder / "stale.py").unlink()
    service.up()
    for run in ("old", "new"):
        program.perdure("event", "send", run, "go")
    assert program.perdure("output", "old") == "('first', 'first')"
    assert program.perdure("output", "new") == "('second', 'second')"


def test_an_edited_module_is_used_by_new_runs_only(without_ray: Program, local: Service) -> None:
    check_an_edited_module(without_ray, local)


@pytest.mark.ray
def test_an_edited_module_is_used_by_new_runs_only_on_ray(on_ray: Program, service: Service) -> None:
    check_an_edited_module(on_ray, service)


BROKEN = """
import perdure

@perdure.task(num_cpus=0.25)
def fetch():
    return 20

@perdure.task(num_cpus=0.25)
def add(value):
    return value + missing  # as it was first

def graph():
    return add.bind(fetch.bind())
"""


def check_lines_of_tracebacks(program: Program) -> None:
    program.write({"broken.py": BROKEN})
    program.perdure("run", "broken:graph", "--id", "broken", "--no-wait")
    program.write({"broken.py": "# another line\n" + BROKEN.replace("as it was first", "as it is now")})
    said = program.refused("output", "broken")
    assert "NameError: name 'missing' is not defined" in said
    assert "line 10" in said
    assert "as it was first" in said
    assert 'File "broken.py", line 10' in said, "not where the worker unpacked it"


def test_tracebacks_show_the_lines_that_ran(without_ray: Program) -> None:
    check_lines_of_tracebacks(without_ray)


@pytest.mark.ray
def test_tracebacks_show_the_lines_that_ran_on_ray(on_ray: Program) -> None:
    check_lines_of_tracebacks(on_ray)


HANGING = """
import sys, time
import perdure

if "perdure.worker.lease" in sys.modules:
    time.sleep(3600)

@perdure.task(num_cpus=0.25, timeout=5, max_retries=0)
def never():
    return 1
"""


def check_time_limits_of_imports(program: Program) -> None:
    program.write({"hanging.py": HANGING, "broken.py": BROKEN.replace("missing", "22")})
    said = program.refused("run", "hanging:never")
    assert "perdure.AttemptTimeout: the attempt took longer than" in said
    assert 'importing the module of its function, at File "hanging.py", line 6, in <module>' in said
    assert "time.sleep(3600)" in said
    assert program.perdure("run", "broken:graph") == "42"


def test_the_time_limit_of_a_task_covers_the_import_of_its_module(without_ray: Program) -> None:
    check_time_limits_of_imports(without_ray)


def test_the_time_limit_of_a_task_covers_the_import_of_its_module_on_ray(on_ray: Program) -> None:
    check_time_limits_of_imports(on_ray)


def test_a_run_whose_modules_are_lost_fails_and_others_go_on(without_ray: Program, tmp_path: Path) -> None:
    program = without_ray
    program.write({"broken.py": BROKEN.replace("missing", "22"), "late.py": "import perdure\n" + LATE})
    program.perdure("run", "late:graph", "--id", "late", "--no-wait")
    large = [path for path in (tmp_path / "storage" / "blobs").rglob("*") if path.is_file()]
    assert large, "the modules are a blob"
    for path in large:
        path.unlink()
    program.perdure("event", "send", "late", "go")
    said = program.refused("output", "late")
    assert "the modules of the run are gone or damaged" in said
    assert program.perdure("run", "broken:graph") == "42"


LATE = """
@perdure.task(num_cpus=0.25)
def add(value):
    return value

def graph():
    return add.bind(perdure.event("go"))
"""


def check_resuming_with_mended_code(program: Program, service: Service) -> None:
    program.write({"broken.py": BROKEN})
    program.perdure("run", "broken:graph", "--id", "mended", "--no-wait")
    assert "NameError" in program.refused("output", "mended")
    program.write({"broken.py": BROKEN.replace("missing", "22").replace("return 20", "return 0")})
    program.perdure("resume", "mended")
    assert "NameError" in program.refused("output", "mended")
    (program.folder / "nothing").mkdir()
    assert "none of the run's modules is here: broken" in program.refused_in(
        "nothing", "resume", "mended", "--code=new"
    )
    assert program.perdure("resume", "mended", "--code", "new") == "resumed"
    assert program.perdure("output", "mended") == "42"


def test_a_failed_run_is_resumed_with_mended_code(without_ray: Program, local: Service) -> None:
    check_resuming_with_mended_code(without_ray, local)


def test_a_function_that_was_renamed_is_named_and_an_alias_mends_it(without_ray: Program) -> None:
    program = without_ray
    program.write({"broken.py": BROKEN})
    program.perdure("run", "broken:graph", "--id", "renamed", "--no-wait")
    program.refused("output", "renamed")
    renamed = BROKEN.replace("missing", "22").replace("def add", "def plus").replace("add.bind", "plus.bind")
    program.write({"broken.py": renamed})
    program.perdure("resume", "renamed", "--code", "new")
    said = program.refused("output", "renamed")
    assert "failed in task 'broken.add': perdure.FunctionUnavailable: broken.add cannot be loaded" in said
    assert "The module 'broken' (broken.py) has no 'add'. If it was renamed" in said
    program.write({"broken.py": renamed + "\nadd = plus\n"})
    program.perdure("resume", "renamed", "--code", "new")
    assert program.perdure("output", "renamed") == "42"


@pytest.mark.ray
def test_a_failed_run_is_resumed_with_mended_code_on_ray(on_ray: Program, service: Service) -> None:
    check_resuming_with_mended_code(on_ray, service)
