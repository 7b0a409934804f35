"""Virtual actors on real Ray: what stays in the process of a worker, and what does not."""

from __future__ import annotations

import os
import sys

import cloudpickle  # type: ignore[import-untyped]
import pytest

import perdure
from services import Service

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray]


@perdure.actor(num_gpus=1, keep_warm=120)
class Model:
    """What it has asked is durable; what `activate` loads belongs to the process."""

    def __init__(self) -> None:
        self.asked = 0

    def activate(self) -> None:
        self.loaded_by = os.getpid()

    @perdure.method
    def ask(self) -> tuple[int, int]:
        self.asked += 1
        return self.asked, self.loaded_by


@perdure.task(num_gpus=1, keep_warm=120)
def process_of_a_task(_: int = 0) -> int:
    return os.getpid()


async def test_actor_with_a_gpu_stays_in_its_process(steady: Service) -> None:
    async with perdure.Client(steady.address) as client:
        model = client.actor(Model, "model")

        answers = [await model.ask() for _ in range(4)]

        assert [asked for asked, _ in answers] == [1, 2, 3, 4]
        assert len({process for _, process in answers}) == 1


async def test_tasks_with_a_gpu_that_is_kept_warm_share_a_process(steady: Service) -> None:
    async with perdure.Client(steady.address) as client:
        processes = [await client.run(process_of_a_task.bind(number)) for number in range(3)]

    assert len(set(processes)) == 1
