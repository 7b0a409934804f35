"""Log lines: constant messages with fields beside them, for people and for machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from perdure import logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


def record(message: str = "done", *args: object, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("perdure.test").makeRecord(
        "perdure.test", logging.WARNING, "here.py", 1, message, args, None, extra=extra
    )
    made.created = 1_769_860_800.5
    return made


def failing() -> logging.LogRecord:
    made = record("broken")
    try:
        raise ValueError("why")
    except ValueError as error:
        made.exc_info = (ValueError, error, error.__traceback__)
    return made


def test_fields_are_what_was_given_as_extra() -> None:
    assert logs.fields_of(record(run_id="r", count=2)) == {"run_id": "r", "count": 2}
    marked = record()
    vars(marked)["_ray_timestamp_ns"] = 1
    assert logs.fields_of(marked) == {}


def test_a_line_for_machines_is_one_object() -> None:
    line = json.loads(logs.JsonFormatter().format(record("took %d", 3, run_id="r", path=object)))
    assert line == {
        "time": "2026-01-31T12:00:00.500000+00:00",
        "level": "warning",
        "logger": "perdure.test",
        "message": "took 3",
        "run_id": "r",
        "path": str(object),
    }


def test_no_field_hides_the_line_itself() -> None:
    line = json.loads(logs.JsonFormatter().format(record(time="never", level="none", logger="x")))
    assert (line["level"], line["logger"], line["message"]) == ("warning", "perdure.test", "done")
    assert line["time"].startswith("2026-01-31")


def test_a_line_for_machines_stays_one_line() -> None:
    text = logs.JsonFormatter().format(record(error="a\nb\ud800"))
    assert "\n" not in text
    assert json.loads(text)["error"] == "a\nb\ud800"
    assert text.isascii()


def test_a_line_for_people_has_message_and_fields() -> None:
    text = logs.TextFormatter().format(record("took %d", 3, run_id="r", count=2))
    assert text[12:] == " warning took 3 run_id=r count=2"


def test_exceptions_are_shown() -> None:
    text = logs.TextFormatter().format(failing())
    assert "\nTraceback (most recent call last)" in text
    assert text.endswith("ValueError: why")
    assert "ValueError: why" in json.loads(logs.JsonFormatter().format(failing()))["exception"]


@pytest.mark.parametrize(("style", "kind"), [("text", logs.TextFormatter), ("json", logs.JsonFormatter)])
def test_configure_sends_lines_to_standard_error(
    style: str, kind: type[logging.Formatter], root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("warning", style)
    (handler,) = root.handlers
    assert isinstance(handler.formatter, kind)
    logging.getLogger("perdure.test").info("not shown")
    logging.getLogger("perdure.test").warning("shown", extra={"run_id": "r"})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "not shown" not in captured.err
    assert "shown" in captured.err
    assert captured.err.count("\n") == 1
