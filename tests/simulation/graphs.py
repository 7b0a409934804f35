"""The graphs that worlds run, and the end of each without a cancellation."""

from __future__ import annotations

from perdure.model import (
    NULL,
    Call,
    Function,
    NodeRef,
    RetryRule,
    RunStatus,
    Sleep,
    Spec,
    SpecNode,
    TaskOptions,
    TaskRef,
    Wait,
    WaitEvent,
)
from simulation.executor import VOLATILE

RETRY = TaskOptions(
    retry=RetryRule(max_attempts=12, initial_interval_ms=200, max_interval_ms=5_000, application_errors=True)
)
ONCE = TaskOptions(retry=RetryRule(max_attempts=12, application_errors=False))


def named(program: str) -> str:
    """A program as the name of a function that is not registered: with a colon, and an argument behind it, if any."""
    return program if ":" in program else f"{program}:"


def call(node_id: str, program: str, *needs: str, catch: bool = False, limit_ms: int | None = None) -> SpecNode:
    """A task with an id that begins with "v_" is volatile."""
    base = ONCE if program == "broken" else RETRY
    options = TaskOptions(
        retry=base.retry,
        catch_exceptions=catch,
        attempt_timeout_ms=limit_ms,
        checkpoint=not node_id.startswith(VOLATILE),
    )
    return SpecNode(
        node_id, Call(Function(program, named(program)), NULL, tuple(NodeRef(n) for n in needs)), options=options
    )


def spec(*nodes: SpecNode) -> Spec:
    return Spec(nodes, nodes[-1].id)


GRAPHS = {
    "leaf": spec(call("leaf", "value")),
    "pair": spec(call("p", "value"), call("q", "flaky:1", "p")),
    "deep": spec(call("d", "grow:pair"), call("e", "value", "d")),
    "bad": spec(call("x", "value"), call("y", "broken", "x")),
    "sleepy": spec(SpecNode("s", Sleep(delay_ms=700)), call("t", "value", "s")),
    "rest": spec(SpecNode("v", Wait((TaskRef("a"), TaskRef("b")), num_returns=2)), call("r", "value", "v")),
    "lump": spec(call("l", "flaky:1"), call("z", "large", "l")),
    "loose": spec(call("v_x", "flaky:1"), call("y", "value", "v_x"), call("v_z", "value", "y")),
}

SHAPES: dict[str, tuple[Spec, int, RunStatus]] = {
    # name: graph, events to send under the key "k", its end without a cancellation
    "one": (spec(call("a", "value")), 0, RunStatus.SUCCESSFUL),
    "chain": (
        spec(call("a", "value"), *(call(f"a{i}", "value", f"a{i - 1}" if i else "a") for i in range(6))),
        0,
        RunStatus.SUCCESSFUL,
    ),
    "fan": (
        spec(
            *(call(f"f{i}", "flaky:1" if i % 3 == 0 else "value") for i in range(8)),
            call("sum", "value", *(f"f{i}" for i in range(8))),
        ),
        0,
        RunStatus.SUCCESSFUL,
    ),
    "grows": (
        spec(call("a", "grow:deep"), call("b", "grow:sleepy"), call("c", "lost:2", "a", "b")),
        0,
        RunStatus.SUCCESSFUL,
    ),
    "caught": (
        spec(call("a", "grow:bad", catch=True), call("b", "broken", catch=True), call("c", "value", "a", "b")),
        0,
        RunStatus.SUCCESSFUL,
    ),
    "waits": (
        spec(
            call("a", "value"),
            SpecNode("w1", WaitEvent("k"), after=("a",)),
            SpecNode("w2", WaitEvent("k")),
            call("b", "value", "w1", "w2"),
        ),
        2,
        RunStatus.SUCCESSFUL,
    ),
    "sleeps": (spec(SpecNode("s", Sleep(delay_ms=90_000)), call("a", "value", "s")), 0, RunStatus.SUCCESSFUL),
    "late": (
        spec(
            SpecNode("w", WaitEvent("never", timeout_ms=40_000), options=TaskOptions(catch_exceptions=True)),
            call("a", "value", "w"),
        ),
        0,
        RunStatus.SUCCESSFUL,
    ),
    "races": (
        spec(
            call("a", "value"),
            call("b", "flaky:1"),
            call("never", "hang:99"),
            SpecNode("w", Wait((NodeRef("a"), NodeRef("b"), NodeRef("never")), timeout_ms=30_000)),
            call("c", "grow:rest", "w"),
        ),
        0,
        RunStatus.SUCCESSFUL,
    ),
    "forgets": (
        spec(
            call("v_a", "value"),
            call("v_b", "lost:1", "v_a"),
            call("c", "value", "v_b"),
            SpecNode("w1", WaitEvent("k"), after=("c",)),
            call("v_d", "grow:loose", "v_b", "w1"),
            call("e", "value", "v_d", "c"),
            call("v_f", "value", "e"),
        ),
        1,
        RunStatus.SUCCESSFUL,
    ),
    "hangs": (spec(call("a", "hang:1", limit_ms=3_000), call("b", "value", "a")), 0, RunStatus.SUCCESSFUL),
    "fails": (spec(call("a", "value"), call("b", "broken", "a"), call("c", "grow:sleepy")), 0, RunStatus.FAILED),
}

MORE_SHAPES = SHAPES | {
    # with values that are blobs
    "heavy": (
        spec(call("x", "large"), call("b", "value", "x"), call("y", "large", "b"), call("c", "value", "x", "y")),
        0,
        RunStatus.SUCCESSFUL,
    ),
    "heaviest": (
        spec(
            call("x", "large"),
            SpecNode("w", WaitEvent("k"), after=("x",)),
            call("d", "grow:lump", "w"),
            call("y", "value", "x", "d"),
        ),
        1,
        RunStatus.SUCCESSFUL,
    ),
}
"""Not among those above, so that seeds that found bugs stay what they are."""

HUNG = [f"h{number}" for number in range(6)]
POOL_SHAPES = MORE_SHAPES | {
    # attempts are cancelled while they hang, and the next ones of their tasks follow at once
    "stuck": (
        spec(*(call(task, "hang:2", limit_ms=1_000) for task in HUNG), call("sum", "value", *HUNG)),
        0,
        RunStatus.SUCCESSFUL,
    ),
}
"""Those of worlds with pools."""
