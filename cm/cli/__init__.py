"""The commands: each reads files, calls one function, and writes files. `cm COMMAND --help` explains its options."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

import click

from cm import __version__
from cm.cli.cards import card
from cm.cli.claims import claims
from cm.cli.datasets import prepare
from cm.cli.editing import edit
from cm.cli.jobs import launch
from cm.cli.models import convert, describe, train
from cm.cli.reporting import report
from cm.cli.results import published, results
from cm.cli.sampling import evaluate, sample
from cm.cli.scores import draw, featurize, schema, score, weights
from cm.cli.searching import search
from cm.cli.status import status
from cm.cli.unlocking import unlock
from cm.errors import Interrupted, UserError, unknown
from cm.training.signals import handle_signals

COMMANDS = (
    prepare,
    train,
    launch,
    convert,
    weights,
    describe,
    sample,
    edit,
    featurize,
    score,
    evaluate,
    search,
    results,
    published,
    card,
    draw,
    claims,
    report,
    schema,
    status,
    unlock,
)


class CommandGroup(click.Group):
    """A group of commands that lists them in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=CommandGroup,
    commands={command.name or "": command for command in COMMANDS},
    no_args_is_help=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Reproduce consistency models: prepare data, train, sample, score, draw."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    It is 2 after a mistake of the user and 128 + N after signal N, 130 after Ctrl-C; all are reported in one line.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = f"cm {arguments[0]}" if arguments and arguments[0] in cli.commands else "cm"
    try:
        with _remove_files_when_ended():
            code = cli.main(list(arguments), prog_name="cm", standalone_mode=False)
    except click.exceptions.Abort:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except Interrupted as interruption:
        print(f"{name}: {interruption}", file=sys.stderr)
        return interruption.status
    except (UserError, click.ClickException, OSError) as error:
        print(f"{name}: error: {_explain(error)}", file=sys.stderr)
        return 2
    return code or 0


@contextlib.contextmanager
def _remove_files_when_ended() -> Iterator[None]:
    """A context in which SIGTERM and SIGHUP raise Interrupted, so that no file stays half written.

    Only the main thread can do so. Signals that the process ignores, as `nohup` makes it do, stay ignored.
    """
    can_handle = threading.current_thread() is threading.main_thread()
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    with handle_signals(numbers if can_handle else (), _interrupt):
        yield


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(f"ended by {signal.Signals(number).name}", 128 + number)


def _explain(error: Exception) -> str:
    """The message of an error in one line, without the control characters that names and servers may put into it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in _message(error))


def _message(error: Exception) -> str:
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        options = [param.opts[0] for param in error.ctx.command.get_params(error.ctx) if param.opts[0][0] == "-"]
        return str(unknown("option", error.option_name, options))
    if isinstance(error, click.exceptions.NoSuchCommand):
        return str(unknown("command", error.command_name, cli.commands))
    if isinstance(error, click.ClickException):
        message = " ".join(error.format_message().split()).rstrip(".")
        return message[:1].lower() + message[1:]
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return str(error)
