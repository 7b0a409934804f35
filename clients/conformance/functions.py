"""The functions that the conformance programs of clients call by name."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import perdure


@dataclasses.dataclass
class Address:
    city: str
    zip: str


@dataclasses.dataclass
class Order:
    address: Address
    amount: float
    due: datetime.date


@dataclasses.dataclass
class Plan:
    address: Address
    amount: float
    due: datetime.date
    note: str | None = None


@perdure.task(name="greet")
def greet(name: str) -> str:
    return f"hello {name}"


@perdure.task(name="plan")
def plan(order: Order) -> Plan:
    return Plan(order.address, order.amount * 2, order.due + datetime.timedelta(days=1))


@perdure.task(name="unreadable")
def unreadable() -> Any:
    return Order


@perdure.task(name="fail", max_retries=0)
def fail(text: str) -> None:
    raise ValueError(text) from KeyError("purse")


@perdure.task(name="add")
def add(a: int, b: int) -> int:
    return a + b


@perdure.task(name="total")
def total(values: list[int]) -> int:
    return sum(values)


@perdure.task(name="greet_when_told")
def greet_when_told(key: str) -> Any:
    return greet.bind(perdure.event(key))


@perdure.task(name="give_back")
def give_back(value: bytes) -> bytes:
    return value


@perdure.task(name="give_back_text")
def give_back_text(value: str) -> str:
    return value


@perdure.task(name="join")
def join(first: str, second: str) -> str:
    return first + second


@perdure.actor(name="counter")
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, by: int) -> int:
        if by == 0:
            raise ValueError("nothing to add")
        self.count += by
        return self.count

    @perdure.readonly
    def peek(self) -> int:
        return self.count
