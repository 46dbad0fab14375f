"""The command line: one thin file per subcommand; everything heavy is imported when it is needed."""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import metadata
from types import FrameType
from typing import Annotated, NoReturn

import typer

from optmerge._system import require_posix
from optmerge.cli import (
    analyze,
    ask,
    bench,
    diff,
    eval,
    inspect,
    merge,
    methods,
    omni,
    plan,
    report,
    tune,
    verify,
)
from optmerge.errors import InputError, OptMergeError, printable

app = typer.Typer(
    name="optmerge",
    help="Merge experts fine-tuned from one base into a single multimodal model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for _module in (merge, plan, verify, inspect, diff, analyze, report, methods, ask, eval, tune):
    app.command(_module.__name__.rpartition(".")[2])(_module.command)
app.add_typer(bench.app, name="bench")
app.add_typer(omni.app, name="omni")


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"optmerge {metadata.version('optmerge')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", callback=_tell_version, is_eager=True),
    ] = False,
) -> None:
    """What goes before a command."""


class Interrupted(BaseException):
    """A signal asks to stop; not a KeyboardInterrupt, which Typer would turn into exit code 1."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number


def main() -> NoReturn:
    """Runs the command line; 0 done, 2 wrong input, 1 anything else, 130/143 interrupted and resumable."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks becomes an escape
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit code."""
    try:
        require_posix()
        app(arguments)
    except SystemExit as stop:  # Typer's own: help, usage errors (2), typer.Exit
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except InputError as problem:
        return _fail(problem, 2)
    except ModuleNotFoundError as problem:
        if not problem.name or problem.name.partition(".")[0] == "optmerge":
            raise
        extra = _EXTRAS.get(arguments[0], "ask")
        return _fail(
            InputError(f"{problem.name} isn't installed", hint=f"pip install 'optmerge[{extra}]'"), 2
        )
    except OptMergeError as problem:
        return _fail(problem, 1)
    except Interrupted as stop:
        print("interrupted; a merge continues with the same command and --resume", file=sys.stderr)
        return stop.exit_code
    except MemoryError:
        print("error: there isn't enough memory; set --memory, or make room", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


_EXTRAS = {"bench": "bench", "omni": "bench", "tune": "tune"}
"""What has to be installed for commands that need more than the others."""


def _fail(problem: OptMergeError, code: int) -> int:
    print(f"error: {printable(str(problem))}", file=sys.stderr)
    return code


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)
