"""Catalogues of functions, for tests of what asks them."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.service.api.naming import Naming
from perdure.service.catalogue.catalogue import Catalogue
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import FunctionStore
from perdure.v1.function_service_pb2 import FunctionInfo


def catalogue_of(
    functions: Iterable[FunctionInfo] = (), *, store: FunctionStore | None = None, allowed: tuple[str, ...] = ()
) -> Catalogue:
    """A catalogue whose workers have these functions."""
    served = {(info.name, info.version): info for info in functions}
    return Catalogue(store or MemoryMetadataStore(), lambda: served, lambda: 7, allowed=allowed)


def naming_of(functions: Iterable[FunctionInfo] = (), *, allowed: tuple[str, ...] = ()) -> Naming:
    """Finds these functions, and those of the allowed modules."""
    return Naming(catalogue_of(functions, allowed=allowed))
