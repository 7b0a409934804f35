"""Books a trip: three bookings at the same time, one of which is retried; waits for an approval; pays and confirms.

python examples/trip.py            (PERDURE_ADDRESS names the service)
"""

from __future__ import annotations

import sys
import uuid
from dataclasses import dataclass

import perdure


@dataclass(frozen=True)
class Booking:
    kind: str
    what: str
    euros: int


@perdure.task
def book_flight(destination: str) -> Booking:
    return Booking("flight", f"to {destination} and back", 240)


@perdure.task(max_retries=3, retry_exceptions=[ConnectionError], retry_policy=perdure.RetryPolicy(initial_interval=0.2))
def book_hotel(destination: str) -> Booking:
    """Fails at the first attempt, as if the hotel's system were away."""
    if perdure.context().attempt == 1:
        raise ConnectionError("the hotel does not answer")
    return Booking("hotel", f"three nights in {destination}", 330)


@perdure.task
def book_car(destination: str) -> Booking:
    return Booking("car", f"small, from {destination} airport", 120)


@perdure.task
def pay(bookings: list[Booking]) -> str:
    # A real payment would send the bank perdure.context().idempotency_token, which is the same for all attempts.
    return f"{sum(booking.euros for booking in bookings)} euros, receipt {perdure.context().run_id[-8:]}"


@perdure.task
def confirm(bookings: list[Booking], receipt: str) -> str:
    lines = [f"  {booking.kind:7} {booking.what:28} {booking.euros:4} euros" for booking in bookings]
    return "\n".join([*lines, f"  paid    {receipt}"])


@perdure.task
def decide(approval: dict, *bookings: Booking) -> str:  # type: ignore[type-arg]
    """Returns a graph if the trip was approved."""
    if not approval["approved"]:
        return f"  not approved by {approval['by']}: nothing was paid"
    taken = list(bookings)
    return confirm.bind(taken, pay.bind(taken))


def trip(destination: str = "Lisbon") -> str:
    """The graph, also for `perdure run trip:trip`."""
    bookings = [book_flight.bind(destination), book_hotel.bind(destination), book_car.bind(destination)]
    return decide.bind(perdure.event("approval"), *bookings)


def follow(handle: perdure.SyncHandle) -> None:
    """Print the updates until the three bookings are made. An update may come twice."""
    booked: set[str] = set()
    for update in handle.watch():
        task = update.task
        if task is None or task.task_id in booked:
            continue
        name = task.task_id.rpartition(".")[2]
        if task.status is perdure.TaskStatus.BACKING_OFF:
            print(f"  {name} is tried again: {task.error}")
        if task.status is perdure.TaskStatus.SUCCESSFUL:
            print(f"  {name} is done after {task.attempts} attempt(s)")
            booked.add(task.task_id)
        if len(booked) == 3:
            return


def main() -> int:
    workflow_id = f"trip-{uuid.uuid4().hex[:8]}"
    with perdure.SyncClient() as client:
        handle = client.start(trip("Lisbon"), workflow_id=workflow_id, name="trip", labels={"kind": "holiday"})
        print(f"{workflow_id} is recorded and on its way")
        follow(handle)
        print("everything is booked; the approval comes from outside")
        handle.send_event("approval", {"approved": True, "by": "Ana"}, event_id=f"{workflow_id}-approval")
        print(handle.output(timeout=60))
        print(f"{workflow_id} is {handle.status().status}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
