"""The program: its commands, and what becomes of their errors."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

from snapstore import InvalidIdentifierError, SnapstoreError, __version__
from snapstore.cli.printing import one_line, printable

__all__ = ["run"]

_COMMANDS: Final = {
    "ls": "browse",
    "du": "browse",
    "show": "snapshots",
    "diff": "snapshots",
    "rewind": "snapshots",
    "prune": "prune",
    "prune-sessions": "prune",
    "apply": "prune",
    "archive": "archive",
    "unarchive": "archive",
    "prune-archive": "archive",
    "copy": "transfer",
    "export": "transfer",
    "import": "transfer",
    "import-log": "transfer",
    "fork": "care",
    "verify": "care",
    "redact": "care",
    "erase": "erase",
    "erase-all": "erase",
    "check": "diagnose",
    "demo": "diagnose",
}
"""The module of each command. It is imported when it is needed, so that `--help` is quick."""

_WRONG_ARGUMENTS: Final = 2
_INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""


class _Program(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"snapstore.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = module.COMMANDS[cmd_name]
        return command


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="snapstore", message="%(prog)s %(version)s")
def _program() -> None:
    """Agent session snapshots in S3: look at them, go back, keep less, move them.

    PLACE is s3://bucket/prefix, or a directory.
    """


def run(argv: Sequence[str] | None) -> int:
    """Run the command line; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what is said has more than ASCII
    name = "snapstore"
    try:
        try:
            arguments = list(sys.argv[1:] if argv is None else argv)
            with _program.make_context(name, arguments) as context:
                try:
                    _program.invoke(context)
                finally:
                    name = f"{name} {context.invoked_subcommand}"
        finally:
            sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        message = io.StringIO()
        error.show(message)
        print(printable(message.getvalue()), end="", file=sys.stderr)
        return error.exit_code
    except SnapstoreError as error:
        print(f"{name}: {one_line(error)}", file=sys.stderr)
        return _WRONG_ARGUMENTS if isinstance(error, InvalidIdentifierError) else 1
    except ModuleNotFoundError as error:
        if "snapstore[" not in str(error):  # it names an extra of ours
            raise
        print(f"{name}: {one_line(error)}", file=sys.stderr)
        return 1
    except (click.Abort, KeyboardInterrupt):
        print(f"{name}: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # else, who read the output has left
            print(f"{name}: {one_line(error)}", file=sys.stderr)
        _drop_output()
        return 1
    return 0


def _drop_output() -> None:
    """Drop what can't be written: Python would complain again when it flushes at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
