"""The root of the commands: options common to all, and errors as one line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import click

from perdure import codec, errors
from perdure.cli.actors import actor
from perdure.cli.engines import engines
from perdure.cli.events import event
from perdure.cli.exits import INTERRUPTED, in_own_words
from perdure.cli.functions import function
from perdure.cli.migrate import migrate
from perdure.cli.runs import COMMANDS
from perdure.cli.serve import agent, serve
from perdure.cli.session import Session, Style, session_options
from perdure.cli.storage import doctor, gc

FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
UNAVAILABLE: Final = 4
REFUSED: Final = 5


@dataclass(slots=True)
class _Errors:
    """Says what went wrong, as `-o` asks for it."""

    style: Style = field(default_factory=Style)

    @property
    def is_json(self) -> bool:
        return self.style.is_json

    def __call__(self, text: str, code: int, error: errors.PerdureError | None = None) -> int:
        if self.is_json:
            known = {"reason": error.reason, **error.fields} if error is not None else {}
            print(json.dumps({"error": {**known, "message": text.rstrip()}}, default=str), file=sys.stderr)
        else:
            print(f"perdure: {text.rstrip()}", file=sys.stderr)
        return code


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="perdure", prog_name="perdure")
def root() -> None:
    """Durable workflows on Ray."""


root.params += session_options(reads_environment=True)
for command in (*COMMANDS, actor, engines, event, function, serve, agent, migrate):
    root.add_command(command)
root.add_command(doctor)
root.add_command(gc)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; gives the exit code. Errors are one line on standard error, or with `-o json` one object
    {"error": {"message", "reason", ...}}, whose other fields depend on the reason."""
    say = _Errors()
    try:
        given = list(arguments) if arguments is not None else None
        code = root.main(args=given, prog_name="perdure", standalone_mode=False, obj=Session(say.style))
        return code if isinstance(code, int) else 0
    except click.exceptions.Abort:
        return say("interrupted", INTERRUPTED)
    except click.UsageError as error:
        if say.is_json:
            return say(error.format_message(), USAGE)
        error.show()
        return USAGE
    except click.ClickException as error:
        return say(error.format_message(), USAGE)
    except (errors.WorkflowExecutionError, errors.ActorCallError) as error:
        cause = f"\n{_remote(error.__cause__)}" if error.__cause__ is not None else ""
        return say(f"{error}{cause}", FAILED)
    except TimeoutError as error:
        return say(str(error), UNAVAILABLE)
    except codec.CodecError as error:
        return say(str(error), FAILED)
    except errors.ServiceUnavailableError as error:
        where = "" if isinstance(error, errors.UnreachableError) else "the service does not answer: "
        return say(where + _told(error, with_reason=not say.is_json), UNAVAILABLE, error)
    except errors.PerdureError as error:
        code = NOT_FOUND if isinstance(error, LookupError) else REFUSED
        return say(_told(error, with_reason=not say.is_json), code, error)


def _told(error: errors.PerdureError, *, with_reason: bool) -> str:
    """The message, with the stable reason if it has one, or else with what to do about an answer that is not ours."""
    reason = error.fields.get("reason", error.reason)
    if reason == errors.PerdureError.reason:
        if isinstance(error, errors.ServiceUnavailableError):
            return error.message
        return f"{error.message}. Is this the address of a Perdure service, and of this version?"
    return f"{in_own_words(error)} [{reason}]" if with_reason else in_own_words(error)


def _remote(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))
