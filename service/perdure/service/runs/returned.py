"""Graphs that tasks return: reads and checks them."""

from __future__ import annotations

from perdure import graphwire, texts
from perdure.engine.graph_run.state import tasks_named
from perdure.model import InvalidSpec, Spec, frozen
from perdure.service.common.uses import use
from perdure.service.runs.restore import spec_key
from perdure.storage.rows import Write


@frozen
class ReturnedGraph:
    """A graph that a task returned: its key, the tasks of the run that it names, and the writes that note which blobs
    it mentions."""

    spec: Spec
    key: str
    named: list[tuple[str, str]]
    uses: tuple[Write, ...]


def read_graph(run_id: str, data: bytes) -> ReturnedGraph | InvalidSpec:
    """Decode and check a graph that a task of the run returned."""
    try:
        spec = graphwire.decode_spec(data)
        texts.check_spec(spec)
        if missing := spec.inputs():
            return InvalidSpec(f"a returned graph has no inputs of its own, but uses {sorted(missing)}")
        uses = tuple(use(run_id, graphwire.blobs_of_spec(spec)))
        return ReturnedGraph(spec, spec_key(data), tasks_named(spec), uses)
    except InvalidSpec as error:
        return error
