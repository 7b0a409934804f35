"""Runtime environments and what else Ray's options ask for, on real Ray."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
import ray

import perdure
from patience import PATIENCE_S
from perdure import raydag
from services import Service

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray]


@perdure.task(num_cpus=0.25)
def version(module: str) -> str:
    return str(__import__(module).VERSION)


@perdure.task(num_cpus=0.25)
def unfold(module: str) -> Any:
    """What it returns has its own code and variables."""
    return perdure.task(num_cpus=0.25)(inside).bind(module)


def inside(module: str) -> tuple[str, str, bool]:
    here = Path(f"{module}.py").exists()
    return str(__import__(module).VERSION), os.environ.get("WHO", ""), here


@perdure.task(num_cpus=0.25)
def together(*values: Any) -> tuple[Any, ...]:
    return values


async def test_code_travels_with_the_run(steady: Service, tmp_path: Path) -> None:
    folder, package, archive = tmp_path / "folder", tmp_path / "package", tmp_path / "code.zip"
    folder.mkdir()
    (folder / "of_folder.py").write_text("VERSION = 'folder'")
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("VERSION = 'package'")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("of_archive.py", "VERSION = 'archive'")
    graph = together.bind(
        version.options(runtime_env={"working_dir": folder}).bind("of_folder"),
        unfold.options(runtime_env={"working_dir": str(folder), "env_vars": {"WHO": "me"}}).bind("of_folder"),
        version.options(runtime_env={"py_modules": [package]}).bind("package"),
        version.options(runtime_env={"working_dir": str(archive)}).bind("of_archive"),
    )
    async with perdure.Client(steady.address) as client:
        handle = await client.start(graph)
        (folder / "of_folder.py").unlink()
        archive.unlink()
        assert await handle.output(timeout=PATIENCE_S) == ("folder", ("folder", "me", True), "package", "archive")


DRIVER = """
import asyncio, sys
import ray, perdure

@perdure.task(num_cpus=0.25, runtime_env={"env_vars": {"B": "task"}})
def look():
    import os
    import of_the_job
    return of_the_job.VERSION, os.environ.get("A"), os.environ.get("B")

async def main():
    async with perdure.Client(sys.argv[1]) as client:
        print("VALUE", await client.run(look.bind()))

ray.init(
    address=sys.argv[2],
    runtime_env={"working_dir": sys.argv[3], "env_vars": {"A": "job", "B": "job"}},
    logging_level="error",
)
asyncio.run(main())
"""


def test_the_environment_of_a_drivers_job_is_inherited(steady: Service, ray_address: str, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "of_the_job.py").write_text("VERSION = 7")
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), steady.address, ray_address, str(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "VALUE (7, 'job', 'task')" in done.stdout, done.stdout + done.stderr


async def test_a_folder_that_is_not_there_is_refused_at_once(steady: Service) -> None:
    async with perdure.Client(steady.address) as client:
        with pytest.raises(ValueError, match="working_dir='/nowhere' is neither a folder nor an archive"):
            await client.start(version.options(runtime_env={"working_dir": "/nowhere"}).bind("x"))


def holds() -> dict[str, Any]:
    context = ray.get_runtime_context()
    return {
        "resources": context.get_assigned_resources(),
        "node": context.get_node_id(),
        "group": context.get_placement_group_id(),
    }


async def test_work_that_no_node_may_do_keeps_nothing_from_other_work(steady: Service) -> None:
    """Each wants the whole cluster."""
    async with perdure.Client(steady.address) as client:
        remote = ray.remote(num_cpus=2)(holds)
        waiting = await client.start(remote.options(label_selector={"nobody": "has"}).bind())
        while "asked for a worker" not in (await waiting.status()).waiting:
            await asyncio.sleep(0.1)
        assert (await client.run(remote.bind()))["resources"]["CPU"] == 2
        await waiting.cancel()


async def test_what_rays_options_ask_for(steady: Service, ray_address: str) -> None:
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

    await asyncio.to_thread(ray.init, address=ray_address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        group = placement_group([{"CPU": 0.5}])
        await asyncio.to_thread(ray.get, group.ready())
        remote = ray.remote(num_cpus=0.25)(holds)
        (node,) = ray.nodes()
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        in_group = PlacementGroupSchedulingStrategy(group, 0)
        labels = {name: value for name, value in node["Labels"].items() if value == node["NodeID"]}
        assert labels
        steps = [
            remote.bind(),
            remote.options(num_cpus=0.5, memory=10_000_000).bind(),
            remote.options(scheduling_strategy="SPREAD").bind(),
            remote.options(scheduling_strategy=here).bind(),
            remote.options(scheduling_strategy=in_group).bind(),
            remote.options(label_selector=labels).bind(),
            remote.options(**raydag.metadata_of({"catch_exceptions": True})).bind(),
        ]
        async with perdure.Client(steady.address) as client:
            async with asyncio.timeout(120):
                plain, large, spread, there, grouped, labelled, caught = await client.run(together.bind(*steps))
        assert plain["resources"]["CPU"] == 0.25
        assert (large["resources"]["CPU"], large["resources"]["memory"]) == (0.5, 10_000_000)
        assert {answer["node"] for answer in (spread, there, labelled)} == {node["NodeID"]}
        assert grouped["group"] == group.id.hex()
        assert caught[0]["resources"]["CPU"] == 0.25
        assert caught[1] is None
        remove_placement_group(group)
    finally:
        await asyncio.to_thread(ray.shutdown)
