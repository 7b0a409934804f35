"""Allowed texts: names, free texts, JSON, graphs; and the repair of texts from user code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import perdure
from perdure import errors, failures, texts
from perdure.codec import CodecError
from perdure.conversion import to_spec
from perdure.handle import Handle
from perdure.model import (
    Attribute,
    Call,
    Failure,
    FailureKind,
    Function,
    InputRef,
    InvalidSpec,
    Key,
    Payload,
    Resources,
    Shape,
    Spec,
    SpecNode,
    TaskOptions,
    TaskRef,
    WaitEvent,
)

NO_NAMES = ["a\0b", "a\nb", "a\x1bb", "a\ud800b", "a\u200fb", "x" * 257]
NOT_FREE = ["a\0b", "a\ud800b", "\udfff"]
FREE = ["", "a\nb\tc", "a\u200fb", "\U0001f600", "x" * 100_000]


@pytest.mark.parametrize("text", ["a", "ein Name mit ÄÖÜ", "日本", "\U0001f600", "x" * 256])
def test_names_are_printable(text: str) -> None:
    assert texts.name(text, "field") == text


@pytest.mark.parametrize("text", ["", *NO_NAMES])
def test_other_texts_are_no_names(text: str) -> None:
    with pytest.raises(errors.InvalidFieldError, match=r"^field: ") as raised:
        texts.name(text, "field")
    assert raised.value.fields == {"field": "field"}
    raised.value.args[0].encode()


def test_the_error_tells_the_character_and_its_place() -> None:
    with pytest.raises(ValueError, match=r"^key: has 1 to 256 printable characters, and U\+000A at 1 is none$"):
        texts.name("a\nb", "key")
    with pytest.raises(ValueError, match=r"^reason: has a NUL at 1, which no text may have$"):
        texts.free("a\0b", "reason")


@pytest.mark.parametrize("text", FREE)
def test_free_texts_may_be_anything_that_can_be_kept(text: str) -> None:
    assert texts.free(text, "field") is text
    assert texts.storable(text) is text


@pytest.mark.parametrize("text", NOT_FREE)
def test_what_cannot_be_kept_is_refused_or_mended(text: str) -> None:
    with pytest.raises(errors.InvalidFieldError):
        texts.free(text, "field")
    mended = texts.storable(text)
    assert texts.free(mended, "field").encode()


def test_a_mended_text_shows_what_it_had() -> None:
    assert texts.storable("a\0b\udce9c\nd\U0001f600") == "a\\x00b\\udce9c\nd\U0001f600"
    assert texts.printable("a\0b\udce9c\nd\U0001f600") == "a\\x00b\\udce9c\\nd\U0001f600"


@pytest.mark.parametrize("text", [r'{"a":"\u0000"}', r'{"a\u0000":1}', r'{"a":[{"b":"\ud800"}]}'])
def test_json_has_no_text_that_cannot_be_kept(text: str) -> None:
    with pytest.raises(errors.InvalidFieldError):
        texts.json_text(text, "metadata")


@pytest.mark.parametrize("text", ["", "{}", r'{"a":"\\u0000"}', r'{"a":"\ud83d\ude00"}', r'{"a\n":["\u0001"]}'])
def test_json_may_have_all_other_texts(text: str) -> None:
    assert texts.json_text(text, "metadata") == text


# ------------------------------------------------------------------------------ the client, at the call


@perdure.task
def echo(value: Any) -> Any:
    return value


@pytest.mark.parametrize("bad", NO_NAMES)
def test_the_client_refuses_a_bad_name_at_the_call(bad: str) -> None:
    calls: list[Any] = [
        lambda: echo.options(task_id=bad),
        lambda: echo.options(name=bad),
        lambda: perdure.task(task_id=bad),
        lambda: perdure.event(bad),
        lambda: perdure.event("key", task_id=bad),
        lambda: perdure.sleep(1, task_id=bad),
        lambda: perdure.wait([echo.bind(1)], task_id=bad),
        lambda: perdure.input(bad),
        lambda: echo.options(resources={bad: 1}),
        lambda: Handle(None, bad),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(errors.InvalidFieldError):
            call()


@pytest.mark.parametrize("bad", NOT_FREE)
def test_the_client_refuses_a_text_that_cannot_be_kept(bad: str) -> None:
    calls: list[Any] = [
        lambda: echo.options(metadata={"a": [bad]}),
        lambda: echo.options(metadata={bad: 1}),
        lambda: echo.options(runtime_env={"env_vars": {"A": bad}}),
        lambda: echo.options(accelerator_type=bad),
        lambda: echo.bind(1)[bad],
        lambda: perdure.input("a")[bad],
        lambda: getattr(perdure.input("a"), bad),
    ]
    for call in calls:
        with pytest.raises(errors.InvalidFieldError):
            call()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"labels": {"a": 1}}, TypeError, r"labels\['a'\] is a text, not a value of type int"),
        ({"labels": {"": "v"}}, errors.InvalidFieldError, "labels: has an empty key; a key has 1 to 63 printable"),
        ({"inputs": {"": 1}}, errors.InvalidFieldError, "inputs: has an empty key; a key has 1 to 256 printable"),
        ({"workflow_id": 5}, TypeError, "workflow_id is a text"),
        (
            {"id_reuse": "allow_unsuccessful"},
            ValueError,
            "id_reuse is one of 'reject', 'allow_if_unsuccessful', 'allow'",
        ),
        ({"id_conflict": "attach"}, ValueError, "id_conflict is one of 'fail', 'use_existing', 'cancel_existing'"),
    ],
)
async def test_the_client_says_which_values_an_argument_of_start_has(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    async with perdure.Client("127.0.0.1:1") as client:
        with pytest.raises(error, match=message):
            await client.start(echo.bind(1), **given)
        with pytest.raises(error, match=message):
            await client.start_many([perdure.RunItem(echo.bind(1), **given)])


async def test_start_many_takes_items_only() -> None:
    items: Any = [echo.bind(1)]
    async with perdure.Client("127.0.0.1:1") as client:
        with pytest.raises(TypeError, match=r"start_many takes perdure.RunItem\(graph, ...\), not a CallNode"):
            await client.start_many(items)


def test_a_handle_as_an_argument_is_refused_with_advice() -> None:
    with perdure.SyncClient("127.0.0.1:1") as client, pytest.raises(CodecError, match="pass the node, the workflow id"):
        to_spec(echo.bind(client.handle("wf")))


def test_a_function_of_any_name_can_be_sent() -> None:
    def odd() -> None: ...

    odd.__qualname__ = "odd\0\ud800\n"
    spec = to_spec(perdure.task(odd).bind())
    texts.check_spec(spec)
    call = spec.nodes[0].action
    assert isinstance(call, Call)
    assert call.function.name.endswith("odd\\x00\\ud800\\n")


# ------------------------------------------------------------------------------ graphs that come from outside


def graph(**changes: Any) -> Spec:
    node = SpecNode("a", Call(Function("key", "module:name"), Payload("json/plain", b"[]")))
    return Spec((replace(node, **changes),), "a")


def call_with(**changes: Any) -> Spec:
    return graph(action=replace(Call(Function("key", "module:name"), Payload("json/plain", b"[]")), **changes))


def test_a_good_graph_passes() -> None:
    texts.check_spec(graph())
    texts.check_spec(call_with(refs=(InputRef("in", (Key("a\nb"), Attribute("x"))), TaskRef("before"))))


@pytest.mark.parametrize(
    "bad",
    [
        Spec((SpecNode("a\0", WaitEvent("key")),), "a\0"),
        Spec((SpecNode("a\n", WaitEvent("key")),), "a\n"),
        graph(action=WaitEvent("a\nb")),
        graph(options=TaskOptions(task_id="a\nb")),
        graph(options=TaskOptions(metadata=r'{"a":"\u0000"}')),
        graph(options=TaskOptions(shape=Shape(runtime_env=r'{"a":"\u0000"}'))),
        graph(options=TaskOptions(shape=Shape(Resources(accelerator_type="\0")))),
        graph(options=TaskOptions(shape=Shape(Resources(custom=(("a\n", 1.0),))))),
        graph(options=TaskOptions(shape=Shape(scheduling="node:\0"))),
        call_with(function=Function("key", "a\0")),
        call_with(function=Function("key", "a", version="\n")),
        call_with(function=Function("key", "a", python_version="\n")),
        call_with(function=Function("key", "a", Payload("a\n"))),
        call_with(arguments=Payload("a", type="\0")),
        call_with(refs=(InputRef("a\n"),)),
        call_with(refs=(InputRef("a", (Key("\0"),)),)),
        call_with(refs=(InputRef("a", (Attribute("\0"),)),)),
        call_with(refs=(TaskRef("a\n"),)),
    ],
)
def test_a_graph_with_a_bad_text_is_refused(bad: Spec) -> None:
    with pytest.raises(InvalidSpec) as raised:
        texts.check_spec(bad)
    assert raised.value.node_id.isprintable()


def test_a_bad_name_of_a_function_is_shown_where_it_is_bad() -> None:
    with pytest.raises(InvalidSpec, match=r"function: has printable characters, and U\+0000 at 0 is none"):
        texts.check_spec(call_with(function=Function("key", "\0.x")))


# ------------------------------------------------------------------------------ what user code says


def test_a_failure_is_mended_to_its_last_cause() -> None:
    cause = Failure(FailureKind.APPLICATION, "c\0", "m\ud800", "s\0", ("b\0",))
    failure = replace(cause, message="\0", cause=cause, task_id="task", attempts=3)
    mended = texts.mended(failure)
    assert mended.message == "\\x00"
    assert mended.cause == Failure(FailureKind.APPLICATION, "c\\x00", "m\\ud800", "s\\x00", ("b\\x00",))
    assert (mended.task_id, mended.attempts) == ("task", 3)


def test_an_exception_of_any_text_becomes_a_failure_that_can_be_kept() -> None:
    kind = type("Odd", (ValueError,), {"__module__": "odd\ud800\0"})
    failure = failures.from_exception(kind("\0 and \udcff"))
    assert failure == texts.mended(failure)
    assert failure.message == "\\x00 and \\udcff"
