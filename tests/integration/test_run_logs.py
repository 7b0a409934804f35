"""Log lines of the service about runs."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import perdure
from perdure import errors
from perdure.logs import fields_of


@perdure.task(max_retries=1, retry_exceptions=True, retry_policy=perdure.RetryPolicy(initial_interval=0))
def refuse(text: str) -> None:
    raise ValueError(text)


@perdure.task
def double(number: int) -> int:
    return 2 * number


def lines(caplog: pytest.LogCaptureFixture, workflow_id: str) -> list[tuple[str, str, dict[str, Any]]]:
    told = [(record, fields_of(record)) for record in caplog.records]
    return [
        (record.levelname, record.message, fields)
        for record, fields in told
        if fields.get("workflow_id") == workflow_id
    ]


async def test_a_failed_task_and_run_have_a_line_each(client: perdure.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(errors.WorkflowExecutionError):
        await client.run(refuse.bind("no\n12:00:00 error forged"), workflow_id="fails")
    told = lines(caplog, "fails")
    assert [line[:2] for line in told] == [
        ("INFO", "attempt failed and will be repeated"),
        ("WARNING", "task failed"),
        ("WARNING", "run ended"),
    ]
    assert [fields.get("attempt") for _, _, fields in told] == [1, 2, None]
    for _, _, fields in told:
        assert fields["run_id"]
        assert fields["task_id"].endswith("refuse")
        assert fields["error"] == "builtins.ValueError: 'no\\n12:00:00 error forged'"
    assert told[2][2]["status"] == "FAILED"
    assert told[2][2]["took_s"] >= 0


async def test_the_line_of_a_resumed_run_says_since_when_it_counts(
    client: perdure.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(errors.WorkflowExecutionError):
        await client.run(refuse.bind("no"), workflow_id="fails again")
    await client.resume("fails again")
    with pytest.raises(errors.WorkflowExecutionError):
        await client.handle("fails again").output()
    first, second = [fields for _, said, fields in lines(caplog, "fails again") if said == "run ended"]
    assert "took_s" in first
    assert "took_s" not in second
    assert second["took_s_since_first_start"] >= first["took_s"]
    assert second["resumes"] == 1


async def test_a_finished_run_has_one_line_for_those_who_debug(
    client: perdure.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await client.run(double.bind(1), workflow_id="quiet")
    assert lines(caplog, "quiet") == []
    caplog.set_level(logging.DEBUG)
    await client.run(double.bind(1), workflow_id="told")
    assert [line[:2] for line in lines(caplog, "told")] == [("DEBUG", "run ended")]


async def test_a_canceled_run_has_one_line(client: perdure.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await client.start(double.bind(perdure.event("go")), workflow_id="stopped")
    await client.cancel("stopped", "enough")
    ((level, message, fields),) = lines(caplog, "stopped")
    assert (level, message, fields["status"], fields["error"]) == (
        "INFO",
        "run ended",
        "CANCELED",
        "perdure.Canceled: 'enough'",
    )
