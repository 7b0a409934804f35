"""The generated parts of the reference: settings, errors, commands and the gRPC API.

When the site is built, a line `<!-- generate: NAME -->` of a page is replaced by the text of that name. Nothing is
written to disk, so nothing can be out of date.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import click
from google.protobuf import descriptor_pb2

ROOT: Final = Path(__file__).parent.parent
SERVICES: Final = ("workflow_service", "actor_service", "function_service", "blob_service", "system_service")
VALUES: Final = ("spec", "payload", "workflow", "failure", "errors")
"""Files of the API in the order of the page. The API between engine and workers is internal and left out."""
_MARK: Final = re.compile(r"^<!-- generate: ([a-z]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_about: Any) -> str:
    """The hook that mkdocs calls for every page."""
    return _MARK.sub(lambda mark: TEXTS[mark[1]](), markdown)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(_outside_code(cell, r"\|") for cell in line) + " |" for line in lines)


def _outside_code(text: str, characters: str) -> str:
    """The text with these characters (a pattern) escaped, except between backquotes."""
    parts = text.split("`")
    parts[::2] = [re.sub(characters, r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def _sentences(text: str | None) -> str:
    """A docstring as one line."""
    return " ".join(inspect.cleandoc(text or "").split())


# ------------------------------------------------------------------------------ settings, errors


def settings() -> str:
    from perdure.service.common.settings import PREFIX, Settings

    def row(knob: Any) -> list[str]:
        choices = knob.metadata["choices"]
        kind = " ".join(f"`{choice}`" for choice in choices) if choices else type(knob.default).__name__
        default = f"`{knob.default}`" if knob.default != "" else "empty"
        flag = knob.metadata["flag"] or knob.name.replace("_", "-")
        names = f"`--{flag}`<br>`{PREFIX}{knob.name.upper()}`"
        return [names, kind, default, knob.metadata["help"]]

    return _table(["flag and variable", "type", "default", "meaning"], map(row, fields(Settings)))


def errors() -> str:
    from perdure.errors import BY_REASON

    def row(kind: Any) -> list[str]:
        again = f"after {kind.retry_after_s:g} s" if kind.retry_after_s is not None else ""
        name = f"[`{kind.__name__}`](#perdure.errors.{kind.__name__})"
        return [f"`{kind.reason}`", name, f"`{kind.status.name}`", _sentences(kind.__doc__), again]

    head = ["reason", "class in `perdure.errors`", "gRPC status", "what it means and what to do", "RetryInfo"]
    return _table(head, map(row, BY_REASON.values()))


# ------------------------------------------------------------------------------ command line


def commands() -> str:
    from perdure.cli.root import root

    return "\n\n".join(_command(root, "perdure", None))


def _command(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"## {context.command_path}"
    yield command.get_short_help_str(limit=1_000) if parent is None else inspect.cleandoc(command.help or "")
    yield f"```text\n{usage}\n```"
    options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    if records:
        yield _table(["option", "meaning"], [[f"`{flags}`", _plain(text)] for flags, text in records])
    for inner in sorted(getattr(command, "commands", {}).values(), key=lambda found: str(found.name)):
        yield from _command(inner, str(inner.name), context)


def _plain(text: str) -> str:
    """The text with Markdown's special characters escaped."""
    return _outside_code(text, r"[*_<>\[\]]")


# ------------------------------------------------------------------------------ gRPC


def grpc() -> str:
    image = {Path(file.name).stem: file for file in _image().file if file.name.startswith("perdure/v1/")}
    known = _names(image[name] for name in (*SERVICES, *VALUES))
    made = [_File(image[name], known) for name in SERVICES]
    values = [_File(image[name], known) for name in VALUES]
    parts = [text for file in made for text in file.services()]
    parts += ["## Messages of the services", *(text for file in made for text in file.types())]
    parts += ["## Values", *(text for file in values for text in file.types())]
    return "\n\n".join(parts)


def _image() -> descriptor_pb2.FileDescriptorSet:
    """The protos with their comments."""
    buf = Path(sys.executable).with_name("buf")
    command = [str(buf), "build", "protos", "-o", "-#format=binpb"]
    built = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return descriptor_pb2.FileDescriptorSet.FromString(built.stdout)


def _names(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> set[str]:
    names: set[str] = set()
    for file in files:
        names |= {f".{file.package}.{message.name}" for message in file.message_type}
        names |= {f".{file.package}.{enum.name}" for enum in file.enum_type}
    return names


def _repeating(method: descriptor_pb2.MethodDescriptorProto) -> str:
    levels = descriptor_pb2.MethodOptions
    match method.options.idempotency_level:
        case levels.NO_SIDE_EFFECTS:
            return "safe: no side effects"
        case levels.IDEMPOTENT:
            return "safe: idempotent"
        case _:
            return "see its section"


class _File:
    """One proto file. Paths into it are those of SourceCodeInfo: 4 messages, 5 enums, 6 services."""

    def __init__(self, file: descriptor_pb2.FileDescriptorProto, known: set[str]) -> None:
        self._file = file
        self._known = known
        self._comments = {
            tuple(place.path): inspect.cleandoc(place.leading_comments)
            for place in file.source_code_info.location
            if place.leading_comments
        }

    def _comment(self, *path: int) -> str:
        text = self._comments.get(path, "")
        return re.sub(r"^ {2,}(\S.*)$", r"    \1", _plain(text), flags=re.MULTILINE)

    def _line(self, *path: int) -> str:
        return " ".join(_plain(self._comments.get(path, "")).split())

    def services(self) -> Iterator[str]:
        """Each service: its methods at a glance, then a section a method."""
        for number, service in enumerate(self._file.service):
            yield f"## {service.name}\n\n`{self._file.package}.{service.name}`"
            yield self._comment(6, number)
            methods = list(enumerate(service.method))
            anchors = [f"{service.name}-{method.name}".lower() for method in service.method]
            yield _table(
                ["method", "repeating it"],
                [[f"[{method.name}](#{anchors[place]})", _repeating(method)] for place, method in methods],
            )
            for place, method in methods:
                takes = ("stream of " if method.client_streaming else "") + self._link(method.input_type)
                gives = ("stream of " if method.server_streaming else "") + self._link(method.output_type)
                yield f"### {method.name} {{ #{anchors[place]} }}"
                yield f"{takes} → {gives}"
                yield self._comment(6, number, 2, place)

    def types(self) -> Iterator[str]:
        for number, message in enumerate(self._file.message_type):
            yield f"### {message.name}"
            yield self._comment(4, number)
            if message.field:
                yield _table(["field", "type", "meaning"], self._fields(message, number))
        for number, enum in enumerate(self._file.enum_type):
            yield f"### {enum.name}"
            yield self._comment(5, number)
            values = enumerate(enum.value)
            yield _table(
                ["value", "number", "meaning"],
                [[f"`{value.name}`", str(value.number), self._line(5, number, 2, place)] for place, value in values],
            )

    def _fields(self, message: descriptor_pb2.DescriptorProto, number: int) -> Iterator[list[str]]:
        maps = {entry.name: entry for entry in message.nested_type if entry.options.map_entry}
        for place, field in enumerate(message.field):
            kind = self._kind(field)
            entry = maps.get(field.type_name.rpartition(".")[2])
            if entry is not None:
                kind = f"map of {self._kind(entry.field[0])} to {self._kind(entry.field[1])}"
            elif field.label == field.LABEL_REPEATED:
                kind = f"list of {kind}"
            text = self._line(4, number, 2, place)
            if field.HasField("oneof_index") and not field.proto3_optional:
                text = f"One of `{message.oneof_decl[field.oneof_index].name}`. {text}"
            yield [f"`{field.name}`", kind, text]

    def _kind(self, field: descriptor_pb2.FieldDescriptorProto) -> str:
        if field.type_name:
            return self._link(field.type_name)
        return field.Type.Name(field.type).removeprefix("TYPE_").lower()

    def _link(self, type_name: str) -> str:
        name = type_name.rpartition(".")[2]
        return f"[{name}](#{name.lower()})" if type_name in self._known else f"`{type_name.lstrip('.')}`"


TEXTS: Final[dict[str, Callable[[], str]]] = {
    "settings": settings,
    "errors": errors,
    "commands": commands,
    "grpc": grpc,
}
