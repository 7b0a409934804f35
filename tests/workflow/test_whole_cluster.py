"""A program starts workflows on a Ray cluster of its own; every process of it is killed. Another program on another
cluster, with the same storage, ends them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from programs import SAID, kill_all, program, said
from workflow.steps import lines

pytestmark = [pytest.mark.ray]

PROGRAM = (
    f"SAID = {SAID!r}"
    + '''
import json, sys, time, urllib.request
from pathlib import Path

import numpy
import ray
from perdure import workflow
from perdure.workflow.http_event_provider import HTTPEventProvider, HTTPListener

what, folder = sys.argv[1], sys.argv[2]
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")


def write(name):
    with open(f"{folder}/lines", "a") as file:
        file.write(name + "\\n")


@ray.remote(num_cpus=0.25, max_retries=5)
def step(name, *before):
    write(name)
    return name


@ray.remote(num_cpus=0.25, max_retries=5)
def gate(name, *before):
    """Does not end before the first cluster did."""
    Path(folder, "at." + name).touch()
    while not Path(folder, "open").exists():
        time.sleep(0.02)
    write(name)
    return name


@ray.remote(num_cpus=0.25, max_retries=5)
def unfold(name, depth, before=None):
    write(f"{name}.unfold{depth}")
    if depth == 0:
        return name
    kind = gate if depth == 2 else step
    return workflow.continuation(unfold.bind(name, depth - 1, kind.bind(f"{name}.inner{depth}")))


@ray.remote(num_cpus=0.25)
def fail(name, *before):
    write(name)
    raise ValueError(name)


@ray.remote(num_cpus=0.25, max_retries=5)
def fails_inside(name):
    """What fails after the recovery belongs to a graph that was returned before it."""
    write(name + ".outer")
    return workflow.continuation(fail.bind(name + ".inner", gate.bind(name + ".gate")))


@ray.remote(num_cpus=0.25, max_retries=5)
def tell(outcome, *before):
    value, error = outcome
    return f"{value} {error!r}"


@ray.remote(num_cpus=0.25, max_retries=5)
def make(name):
    write(name)
    return [ray.put(numpy.arange(100_000)), ray.put("small")]


@ray.remote(num_cpus=0.25, max_retries=5)
def use(made, nested, given, before):
    assert all(isinstance(ref, ray.ObjectRef) for ref in (*made, *nested["made"]))
    (again,) = ray.get(nested["made"])
    return [int(ray.get(made[0])[-1]), ray.get(again[1]), ray.get(made[1]), int(given.sum())]


@ray.remote(num_cpus=0.25, max_retries=5)
def together(*values):
    return list(values)


class Opened(workflow.EventListener):
    async def poll_for_event(self, folder):
        import asyncio

        Path(folder, "at.listener").touch()
        while not Path(folder, "open").exists():
            await asyncio.sleep(0.02)
        return folder

    async def event_checkpointed(self, event):
        write("listener.checkpointed")


def graphs():
    catch = workflow.options(catch_exceptions=True)
    one = step.bind("static.1")
    static = step.bind("static.4", gate.bind("static.2", one), step.bind("static.3", one))
    mixed = step.bind("mixed.0")
    for index in range(1, 8):
        kind = gate if index == 5 else step
        mixed = kind.options(**workflow.options(checkpoint=index % 2 == 0)).bind(f"mixed.{index}", mixed)
    caught = fail.options(**catch).bind("caught.1")
    made = make.bind("objects.made")
    return {
        "static": static,
        "dynamic": unfold.bind("dynamic", 3),
        "event": together.bind(workflow.wait_for_event(HTTPListener, event_key="go"), step.bind("event.1")),
        "listener": together.bind(workflow.wait_for_event(Opened, folder)),
        "asleep": together.bind(step.bind("asleep.1"), workflow.sleep(15)),
        "caught": tell.bind(caught, gate.bind("caught.2", caught)),
        "inside": tell.bind(fails_inside.options(**catch).bind("inside")),
        "mixed": mixed,
        "objects": use.bind(made, {"made": [made]}, ray.put(numpy.ones(50_000)), gate.bind("objects.gate", made)),
    }


AT = ("static.2", "dynamic.inner2", "listener", "caught.2", "inside.gate", "mixed.5", "objects.gate")
DONE = {"static": 2, "event": 1, "asleep": 1}  # what no gate comes after

if what == "begin":
    for name, graph in graphs().items():
        workflow.run_async(graph, workflow_id=name)
    while not all(Path(folder, "at." + name).exists() for name in AT):
        time.sleep(0.05)
    for name, count in DONE.items():
        while workflow.get_metadata(name)["tasks"]["successful"] < count:
            time.sleep(0.05)
    print(SAID + json.dumps("begun"), flush=True)
    time.sleep(600)

resumed = dict(workflow.resume_all())  # as programs of Ray Workflows do; here they go on anyway
Path(folder, "open").touch()
body = json.dumps({"event_key": "go", "event_payload": 7}).encode()
as_json = {"Content-Type": "application/json"}
request = urllib.request.Request(HTTPEventProvider.url() + "event", data=body, headers=as_json)
urllib.request.urlopen(request, timeout=170).close()
values = {name: workflow.get_output(name) for name, _ in workflow.list_all()}
assert {name: ray.get(ref) for name, ref in resumed.items()}.items() <= values.items()
print(SAID + json.dumps([sorted(resumed), values, dict(workflow.list_all())]), flush=True)
'''
)
EXPECTED = {
    "static": "static.4",
    "dynamic": "dynamic",
    "event": [["go", 7], "event.1"],
    "asleep": ["asleep.1", None],
    "caught": "None ValueError('caught.1')",
    "inside": "None ValueError('inside.inner')",
    "mixed": "mixed.7",
    "objects": [99_999, "small", "small", 50_000],
}


def test_a_cluster_is_killed_and_another_one_ends_what_it_began(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    first = program("begin", tmp_path)
    try:
        said(first, tmp_path / "begin.log")
    finally:
        kill_all(first)
    before = Counter(lines(tmp_path / "lines"))
    second = program("finish", tmp_path)
    try:
        resumed, values, statuses = said(second, tmp_path / "finish.log")
    finally:
        kill_all(second)
    assert values == EXPECTED | {"listener": [str(tmp_path)]}
    assert set(EXPECTED) - {"asleep"} <= set(resumed)  # that one may have ended by then
    assert statuses == dict.fromkeys(values, "SUCCESSFUL")
    after = Counter(lines(tmp_path / "lines"))
    volatile = {f"mixed.{index}" for index in (1, 3, 5, 7)}
    finished = {"static.1", "static.3", "dynamic.inner3", "caught.1", "inside.outer", "mixed.4", "objects.made"}
    assert finished | {"event.1", "asleep.1"} <= set(before)
    assert {name for name, count in after.items() if count > 1} <= volatile
    gates = {"static.2", "dynamic.inner2", "caught.2", "inside.gate", "mixed.5", "objects.gate"}
    assert gates <= set(after)
    assert not gates & set(before)
