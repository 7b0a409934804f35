"""From the results of a comparison to a table: medians, extremes, and how Perdure is beside each peer and the best.

Pure: knows results, and neither systems nor how they are measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import report

OURS = "perdure"
ONE_BY_ONE = {
    "W2 many runs, batched": "W2 many runs",
    "W7 sleepers, batched": "W7 sleepers",
}
"""Beside what a batch is put where a peer starts every workflow with a call of its own."""
COUNTS = ("steps_again",)
"""Figures without a ratio: most of them are 0 or 1."""
WORDS = ("refused", "failed", "late", "absent")
"""What a cell has instead of figures: the reason, or for the last two what to show."""

Results = dict[str, Any]


def is_ours(peer: str) -> bool:
    return peer.startswith(OURS)


def figures_of(results: Results, workload: str, peer: str) -> dict[str, Any]:
    """Of the peer in the workload, by name: median, min, max and rounds. Empty if it has none."""
    figures: dict[str, Any] = results["cells"][workload].get(peer, {}).get("figures", {})
    return figures


def ratio(results: Results, workload: str, figure: str, peer: str, ours: str = OURS) -> float | None:
    """How many times better Perdure is, by medians: above 1 it is ahead. None where there is nothing to divide."""
    mine = figures_of(results, workload, ours).get(figure)
    others = figures_of(results, workload, peer) or _one_by_one(results, workload, peer)
    if mine is None or figure not in others or figure in COUNTS:
        return None
    above, below = mine["median"], others[figure]["median"]
    if not figure.endswith("per_s"):
        above, below = below, above
    return float(above / below) if above > 0 and below > 0 else None


def best(results: Results, workload: str, figure: str, ours: str = OURS) -> tuple[str, float] | None:
    """The peer that Perdure has most to fear from, and the ratio to it."""
    found = {peer: ratio(results, workload, figure, peer, ours) for peer in results["peers"] if not is_ours(peer)}
    known = {peer: value for peer, value in found.items() if value is not None}
    return min(known.items(), key=lambda item: item[1]) if known else None


def ratios(results: Results) -> dict[str, dict[str, float]]:
    """By "workload: figure" and peer; "best" is the least of them."""
    found: dict[str, dict[str, float]] = {}
    for workload, figure in _figures(results):
        row = {
            peer: round(value, 3)
            for peer in results["peers"]
            if not is_ours(peer) and (value := ratio(results, workload, figure, peer)) is not None
        }
        if row:
            found[f"{workload}: {figure}"] = row | {"best": min(row.values())}
    return found


def table(results: Results) -> str:
    """For a terminal: a line for each workload, figure and peer."""
    rows = [["", "", "", "median", "min", "max", "Perdure", "others took"]]
    for workload, figure in _figures(results):
        label = [workload, figure]
        for peer in results["peers"]:
            cell = results["cells"][workload].get(peer, {})
            values = figures_of(results, workload, peer).get(figure)
            shown = [report.show(figure, values[key]) for key in ("median", "min", "max")] if values else []
            noise = f"{cell['others']:.2f} cores{' !' if cell['others'] > report.NOISY else ''}" if values else ""
            beside = "" if is_ours(peer) else _times(ratio(results, workload, figure, peer))
            rows.append([*label, peer, *(shown or [_said(cell), "", ""]), beside, noise])
            label = ["", ""]
        if found := best(results, workload, figure):
            rows.append(["", "", f"best: {found[0]}", "", "", "", _times(found[1]), ""])
    lines = [report.printed(rows)]
    lines += [f"{peer}: {_about(told)}" for peer, told in results["peers"].items()]
    lines += [f"left out: {peer}: {why}" for peer, why in results["left_out"].items()]
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """For a page: a line for each workload and figure, a column for each peer, and one for the ratio to the best."""
    peers = list(results["peers"])
    rows = [["", *peers, "Perdure beside the best"]]
    for workload, figure in _figures(results):
        cells = []
        for peer in peers:
            values = figures_of(results, workload, peer).get(figure)
            if values is None:
                cells.append(_said(results["cells"][workload].get(peer, {})))
            else:
                median, least, most = (report.show(figure, values[key]) for key in ("median", "min", "max"))
                cells.append(median if least == most else f"{median} ({least} to {most})")
        found = best(results, workload, figure)
        rows.append([f"{workload}, {figure}", *cells, f"{_times(found[1])} {found[0]}" if found else ""])
    return report.printed(rows, markdown=True)


def _one_by_one(results: Results, workload: str, peer: str) -> dict[str, Any]:
    alone = ONE_BY_ONE.get(workload, "")
    return figures_of(results, alone, peer) if alone in results["cells"] else {}


def _figures(results: Results) -> Iterator[tuple[str, str]]:
    """The workloads with all figures that some peer has of them, in order."""
    for workload, cells in results["cells"].items():
        names = [figure for cell in cells.values() for figure in cell.get("figures", {})]
        for figure in dict.fromkeys(names):
            yield workload, figure


def _said(cell: dict[str, Any]) -> str:
    """Instead of a figure."""
    word = next((word for word in WORDS if word in cell), "")
    return str(cell[word]) if word in ("late", "absent") else word or "-"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} x" if value >= 1 else f"{value:.2f} x"


def _about(told: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in told["versions"].items())
    return f"{versions}. {told['durability']}"
