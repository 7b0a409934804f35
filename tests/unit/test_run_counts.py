"""How many tasks of a run are in each state is known without looking at the tasks."""

from __future__ import annotations

from dataclasses import replace

from perdure.engine.graph_run.run import Run
from perdure.engine.messages import EventArrived
from perdure.model import NodeRef, RunStatus, Sleep, SpecNode, TaskOptions, TaskStatus, Wait, WaitEvent
from perdure.service.runs.views import TaskCounts, count_tasks
from unit.driver import ONCE, VALUE, Driver, call, graph

VOLATILE = TaskOptions(retry=ONCE.retry, checkpoint=False)


def test_each_state_is_told_as_clients_know_it() -> None:
    run = Driver(graph(call("a"), call("b", "a"), SpecNode("w", WaitEvent("k")), call("end", "b", "w")))
    assert count_tasks(run.run) == TaskCounts(4, pending=3, running=1, successful=0, failed=0, canceled=0)
    run.succeed("a")
    run.apply(EventArrived(1, "k", VALUE, 5))
    assert count_tasks(run.run) == TaskCounts(4, pending=2, running=0, successful=2, failed=0, canceled=0)
    run.fail("b")
    assert count_tasks(run.run) == TaskCounts(4, pending=1, running=0, successful=2, failed=1, canceled=0)


def test_tasks_of_a_returned_graph_are_counted() -> None:
    run = Driver(graph(call("a"), call("end", "a")))
    run.go_on("a", graph(call("x"), call("y", "x")))
    assert count_tasks(run.run).total == 4
    run.check_counts()
    run.restarted(at_ms=None).check_counts()


def test_waits_are_counted_before_a_restored_run_goes_on() -> None:
    wait = SpecNode("w", Wait((NodeRef("a"),)))
    again = Driver(graph(call("a"), SpecNode("e", WaitEvent("k")), wait, call("end", "e", "w"))).restarted(at_ms=None)
    again.run.settle(began_ms=0)
    again.check_counts()
    assert again.run.graph.counts[TaskStatus.RUNNING] == 2


def test_a_final_run_is_counted_whatever_its_records_say() -> None:
    run = Driver(
        graph(call("v", options=VOLATILE), call("a", "v"), SpecNode("s", Sleep(delay_ms=9)), call("end", "a", "s"))
    )
    run.succeed("v")
    run.succeed("a")
    records = sorted(run.records.values(), key=lambda record: record.seq)
    for status in (RunStatus.FAILED, RunStatus.SUCCESSFUL):
        for told in TaskStatus:
            changed = [replace(record, status=told) if record.task_id == "s" else record for record in records]
            Driver(run.spec, Run.restore(run.spec, status, changed, {})).check_counts()
