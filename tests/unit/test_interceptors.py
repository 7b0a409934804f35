"""The chain of interceptors: how its parts are put around the methods of a server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2_grpc

from perdure.service.app import running_server
from perdure.service.common.settings import Settings
from perdure.service.rpc.interceptors.chain import OURS, Chain, Handler, Part

METHOD = f"{OURS[0]}SomeService/Do"


class Details:
    """Stands for grpc.HandlerCallDetails."""

    def __init__(self, method: str) -> None:
        self.method = method


def noting(name: str, notes: list[str]) -> Part:
    """A part that notes when it is put around a method and when a call passes it."""

    def part(handler: Handler) -> Handler:
        notes.append(f"{name} around {handler.method.rpartition('/')[2]}")

        def call(request: Any, context: Any) -> Any:
            notes.append(name)
            return handler.call(request, context)

        return replace(handler, call=call)

    return part


async def unary(request: Any, context: Any) -> Any:
    return [request]


async def stream(request: Any, context: Any) -> Any:
    yield request


class Service(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A service in which every method has the same handler."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def service(self, handler_call_details: Any) -> Any:
        return self._handler


def looked_up(chain: Chain, handler: Any, method: str = METHOD) -> Any:
    chain.add_generic_rpc_handlers((Service(handler),))
    return chain.service(Details(method))  # type: ignore[arg-type]  # pyright: ignore


async def test_calls_pass_the_parts_from_the_first_to_the_last() -> None:
    notes: list[str] = []
    chain = Chain([noting("outer", notes), noting("inner", notes)])
    handler = looked_up(chain, grpc.unary_unary_rpc_method_handler(unary))
    assert await handler.unary_unary("asked", None) == ["asked"]
    assert notes == ["inner around Do", "outer around Do", "outer", "inner"]


def test_a_method_is_composed_once() -> None:
    notes: list[str] = []
    chain = Chain([noting("part", notes)])
    found = grpc.unary_unary_rpc_method_handler(unary)
    assert looked_up(chain, found) is looked_up(chain, found)
    assert notes == ["part around Do"]


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary", "unary_stream", "stream_stream"])
async def test_every_kind_of_method_stays_of_its_kind(kind: str) -> None:
    notes: list[str] = []
    gives_stream = kind.endswith("stream")
    found = getattr(grpc, f"{kind}_rpc_method_handler")(stream if gives_stream else unary)
    composed = looked_up(Chain([noting("part", notes)]), found)
    assert (composed.request_streaming, composed.response_streaming) == (kind.startswith("stream"), gives_stream)
    answer = getattr(composed, kind)("asked", None)
    assert ([one async for one in answer] if gives_stream else await answer) in (["asked"], [["asked"]])
    assert notes[-1] == "part"


def test_the_first_service_that_has_a_method_answers() -> None:
    chain = Chain([])
    found = grpc.unary_unary_rpc_method_handler(unary)
    assert looked_up(chain, None) is None
    assert looked_up(chain, found).unary_unary is unary
    assert looked_up(chain, grpc.unary_unary_rpc_method_handler(stream)).unary_unary is unary


def test_generated_code_adds_services_to_the_chain() -> None:
    chain = Chain([])
    health_pb2_grpc.add_HealthServicer_to_server(health_pb2_grpc.HealthServicer(), chain.services)
    assert chain.service(Details("/grpc.health.v1.Health/Check")) is not None  # type: ignore[arg-type]  # pyright: ignore
    assert chain.service(Details("/grpc.health.v1.Health/Other")) is None  # type: ignore[arg-type]  # pyright: ignore


async def test_no_method_is_registered_with_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered method costs time in every call of every method."""
    registered: list[object] = []
    used = type(grpc.aio.server())
    monkeypatch.setattr(used, "add_registered_method_handlers", lambda *given: registered.append(given))
    async with running_server(Settings(storage="memory://", executor="local", listen="127.0.0.1:0")):
        pass
    assert registered == []


def test_methods_of_others_are_left_alone() -> None:
    found = grpc.unary_unary_rpc_method_handler(unary)
    assert looked_up(Chain([noting("part", [])]), found, "/grpc.reflection.v1.ServerReflection/Do") is found
    assert looked_up(Chain([noting("part", [])]), None) is None
