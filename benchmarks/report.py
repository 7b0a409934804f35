"""From the results of a run to a table: medians, their spread, and how far they are from the floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import floors

Rows = Sequence[Sequence[str]]
"""Of a table, its head first."""

COMMIT = "commit"
"""Stands for the floor of a commit to the storage that was measured."""
FLOOR_OF = {
    # workload and figure: floor and figure, how many of it one unit needs at the least
    ("W1 one step", "median_s"): ("unary RPC", "median_s", 1),
    ("W1 one step", "p99_s"): ("unary RPC", "median_s", 1),
    ("W2 many runs", "runs_per_s"): ("unary RPC", "per_s", 1),
    ("W3 chain of 200", "steps_per_s"): (COMMIT, "per_s", 1),
    ("W4 fan-out of 1,000", "steps_per_s"): ("stream item", "per_s", 1),
    ("W5 64 MiB, 3 steps", "s"): ("64 MiB write", "s", 2),
    ("W6 event", "median_s"): ("unary RPC", "median_s", 1),
    ("W6 event", "p99_s"): ("unary RPC", "median_s", 1),
    ("W9 one actor", "call_median_s"): ("unary RPC", "median_s", 1),
    ("W9 one actor", "query_median_s"): ("unary RPC", "median_s", 1),
    ("W9 1,000 actors", "calls_per_s"): ("unary RPC", "per_s", 1),
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
    ("W9 one actor", "call_median_s"): 0.003,
    ("W9 one actor", "query_median_s"): 0.002,
    ("W9 1,000 actors", "calls_per_s"): 2_500,
    ("W7 sleepers, batched", "starts_per_s"): 4_000,
    ("W7 sleepers, batched", "engine_bytes_each"): 1_024,
    ("W8 workers, 100 runs", "of_it_then_s"): 1,
    ("W8 engine, chain", "of_it_then_s"): 1,
    ("W8 engine, 100 runs", "of_it_then_s"): 1,
    ("restart, 200,000 runs", "start_s"): 5,
    ("restart, 200,000 runs", "first_page_s"): 0.02,
}
NOISY = 0.25
"""Cores that others took; beyond it a figure is a lower bound."""


def printed(rows: Rows, markdown: bool = False) -> str:
    """The table for a terminal, numbers to the right, or for a page."""
    if markdown:
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at and cell[:1].isdigit() else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def table(results: dict[str, Any], markdown: bool = False) -> str:
    """What one run gave."""
    rows = [["", "figure", "median", "min", "max", "to its floor", "goal", "noise"]]
    for group in ("floors", "workloads"):
        for name, result in results[group].items():
            label, noise = name, _noise_text(result)
            for figure, values in result["figures"].items():
                cells = [show(figure, values[key]) for key in ("median", "min", "max")]
                goal = _goal_text(name, figure, values["median"])
                rows.append([label, figure, *cells, _ratio_text(results, name, figure), goal, noise])
                label = noise = ""
    return printed(rows, markdown)


def beside(all_results: Sequence[dict[str, Any]], markdown: bool = False) -> str:
    """Runs on several storages side by side: medians and extremes."""
    rows = [["", "figure"]]
    for results in all_results:
        rows[0] += [results["storage"], "to its floor", "noise"]
    for group in ("floors", "workloads"):
        names = list(dict.fromkeys(name for results in all_results for name in results[group]))
        for name in names:
            ran = [results for results in all_results if name in results[group]]
            label = name
            for figure in ran[0][group][name]["figures"]:
                row = [label, figure]
                for results in all_results:
                    row += _cells(results, group, name, figure) if results in ran else ["", "", ""]
                rows.append(row)
                label = ""
    return printed(rows, markdown)


def _cells(results: dict[str, Any], group: str, name: str, figure: str) -> list[str]:
    result = results[group][name]
    values = result["figures"][figure]
    spread = show(figure, values["median"])
    if len(values["rounds"]) > 1:
        spread += f" ({show(figure, values['min'])} to {show(figure, values['max'])})"
    return [spread, _ratio_text(results, name, figure), _noise_text(result)]


def _noise_text(result: dict[str, Any]) -> str:
    return f"{result['others']:.2f} cores" + (" !" if result["others"] > NOISY else "")


def ratio(results: dict[str, Any], name: str, figure: str, *, best: bool = False) -> float | None:
    """So many times slower than its floor in the same run, by medians or by the best rounds of both; None if it has
    no floor."""
    floor, of, times = _floor_of(results, name, figure)
    if floor not in results["floors"]:
        return None
    is_rate = of.endswith("per_s")
    which = ("max" if is_rate else "min") if best else "median"
    value = results["workloads"][name]["figures"][figure][which]
    base = results["floors"][floor]["figures"][of][which]
    return float(base / value / times if is_rate else value / (base * times))


def _floor_of(results: dict[str, Any], name: str, figure: str) -> tuple[str, str, int]:
    floor, of, times = FLOOR_OF.get((name, figure), ("", "", 1))
    return floors.COMMITS[results.get("storage", "sqlite")] if floor == COMMIT else floor, of, times


def _ratio_text(results: dict[str, Any], name: str, figure: str) -> str:
    found = ratio(results, name, figure)
    if found is None:
        return ""
    floor, _, times = _floor_of(results, name, figure)
    count = f"{times} x " if times > 1 else ""
    return f"{found:.1f} x {count}{floor}"


def _goal_text(name: str, figure: str, value: float) -> str:
    goal = GOALS.get((name, figure))
    if goal is None:
        return ""
    is_rate = figure.endswith("per_s")
    is_met = value >= goal if is_rate else value <= goal
    return f"{'>=' if is_rate else '<='} {show(figure, goal)}" + ("" if is_met else ": missed")


def show(figure: str, value: float) -> str:
    """A figure for people; its name says what it is of."""
    if figure.endswith("_per_s") or figure == "per_s":
        return f"{value:,.0f}/s"
    if figure == "s" or figure.endswith("_s"):
        return f"{value:,.2f} s" if value >= 1 else f"{value * 1000:,.2f} ms"
    if "bytes" in figure:
        return f"{value / 1024:,.1f} KiB"
    return f"{value:,.0f}"
