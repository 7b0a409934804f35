"""From the results of a run to a table: medians, their spread, and how far they are from the floor."""

from __future__ import annotations

from typing import Any

FLOOR_OF = {
    # workload and figure: floor and figure, how many of it one unit needs at the least
    ("W1 one step", "median_s"): ("unary RPC", "median_s", 1),
    ("W1 one step", "p99_s"): ("unary RPC", "median_s", 1),
    ("W2 many runs", "runs_per_s"): ("unary RPC", "per_s", 1),
    ("W3 chain of 200", "steps_per_s"): ("SQLite commit", "per_s", 1),
    ("W4 fan-out of 1,000", "steps_per_s"): ("stream item", "per_s", 1),
    ("W5 64 MiB, 3 steps", "s"): ("64 MiB write", "s", 2),
    ("W6 event", "median_s"): ("unary RPC", "median_s", 1),
    ("W6 event", "p99_s"): ("unary RPC", "median_s", 1),
    ("W7 sleepers", "starts_per_s"): ("unary RPC", "per_s", 1),
    ("W2 many runs, batched", "runs_per_s"): ("stream item", "per_s", 1),
    ("W7 sleepers, batched", "starts_per_s"): ("stream item", "per_s", 1),
}
GOALS = {
    # workload and figure: at least (rates) or at most (all else)
    ("W1 one step", "median_s"): 0.005,
    ("W1 one step", "p99_s"): 0.015,
    ("W2 many runs", "runs_per_s"): 1_300,
    ("W2 many runs, batched", "runs_per_s"): 5_000,
    ("W3 chain of 200", "steps_per_s"): 850,
    ("W4 fan-out of 1,000", "steps_per_s"): 9_000,
    ("W5 64 MiB, 3 steps", "s"): 0.45,
    ("W6 event", "median_s"): 0.005,
    ("W7 sleepers, batched", "starts_per_s"): 4_000,
    ("W7 sleepers, batched", "engine_bytes_each"): 1_024,
    ("restart, 200,000 runs", "start_s"): 5,
    ("restart, 200,000 runs", "first_page_s"): 0.02,
}
NOISY = 0.25
"""Cores that others took; beyond it a figure is a lower bound."""


def table(results: dict[str, Any]) -> str:
    lines = [f"{'':24}{'figure':20}{'median':>12}{'min':>12}{'max':>12}  {'to its floor':32}{'goal':24}noise"]
    for group in ("floors", "workloads"):
        for name, result in results[group].items():
            label = name
            for figure, values in result["figures"].items():
                floor = _ratio_text(results, name, figure)
                goal = _goal_text(name, figure, values["median"])
                cells = "".join(f"{_show(figure, values[key]):>12}" for key in ("median", "min", "max"))
                noise = f"{result['others']:.2f} cores" + (" !" if result["others"] > NOISY else "")
                lines.append(f"{label:24}{figure:20}{cells}  {floor:32}{goal:24}{noise if label else ''}".rstrip())
                label = ""
    return "\n".join(lines)


def ratio(results: dict[str, Any], name: str, figure: str, *, best: bool = False) -> float | None:
    """So many times slower than its floor in the same run, by medians or by the best rounds of both; None if it has
    no floor."""
    floor, of, times = FLOOR_OF.get((name, figure), ("", "", 1))
    if floor not in results["floors"]:
        return None
    is_rate = of.endswith("per_s")
    which = ("max" if is_rate else "min") if best else "median"
    value = results["workloads"][name]["figures"][figure][which]
    base = results["floors"][floor]["figures"][of][which]
    return float(base / value / times if is_rate else value / (base * times))


def _ratio_text(results: dict[str, Any], name: str, figure: str) -> str:
    found = ratio(results, name, figure)
    if found is None:
        return ""
    floor, _, times = FLOOR_OF[name, figure]
    count = f"{times} x " if times > 1 else ""
    return f"{found:.1f} x {count}{floor}"


def _goal_text(name: str, figure: str, value: float) -> str:
    goal = GOALS.get((name, figure))
    if goal is None:
        return ""
    is_rate = figure.endswith("per_s")
    is_met = value >= goal if is_rate else value <= goal
    return f"{'>=' if is_rate else '<='} {_show(figure, goal)}" + ("" if is_met else ": missed")


def _show(figure: str, value: float) -> str:
    if figure.endswith("_per_s") or figure == "per_s":
        return f"{value:,.0f}/s"
    if figure == "s" or figure.endswith("_s"):
        return f"{value:,.2f} s" if value >= 1 else f"{value * 1000:,.2f} ms"
    if "bytes" in figure:
        return f"{value / 1024:,.1f} KiB"
    return f"{value:,.0f}"
