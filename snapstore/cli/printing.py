"""What commands print: tables, lines of JSON, sizes and times, and texts made safe."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

__all__ = [
    "counted",
    "is_terminal",
    "json_of",
    "one_line",
    "printable",
    "say",
    "shown_size",
    "shown_time",
    "write_document",
    "write_json",
    "write_row",
    "write_table",
]

# Everything that moves a cursor, colours, or turns the direction of writing; and half surrogates,
# by which Python stands for bytes of a file name that are no UTF-8.
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_BETWEEN_FIELDS: Final = re.compile(r"[\t\n]")


def printable(text: str) -> str:
    r"""A text without control characters but tabs and line breaks: they are shown as `\x1b`.

    What an agent has written must not command the terminal.
    """
    return _UNSAFE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def _field(text: str) -> str:
    """A text as one field of a line: it has no tab and no line break either."""
    return _BETWEEN_FIELDS.sub(_escaped, printable(text))


def one_line(error: object) -> str:
    """A message as one line."""
    return printable(" ".join(str(error).split()))


def say(text: str) -> None:
    """Tell something beside the results, as one line on stderr."""
    print(_field(text), file=sys.stderr, flush=True)


def write_row(*fields: str) -> None:
    """Print fields as one line, parted by tabs, without empty ones at the end."""
    print("\t".join(map(_field, fields)).rstrip("\t"))


def counted(number: int, noun: str) -> str:
    """A number of things: `1 session`, `2 sessions`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shown_size(size: int | None) -> str:
    """A number of bytes for people; `-` where it is not known."""
    return "-" if size is None else decimal(size)


def shown_time(time: datetime | None) -> str:
    """A time for people, in UTC, to the second; `-` where it is not known."""
    return "-" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def write_json(value: Any) -> None:
    """Print a value as one line of JSON: see `json_of`."""
    _write(json_of(value))


def json_of(value: Any) -> bytes:
    """A value as one line of JSON, in which what `printable` shows as escapes is escaped."""
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # a half surrogate
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
    return _in_json(text).encode() + b"\n"


def write_document(document: bytes) -> None:
    """Print JSON as it is; on a terminal, so that it can't command it."""
    document = document.rstrip(b"\n")
    if is_terminal():
        # Between the values, a carriage return is as good as a space.
        document = _in_json(document.decode().replace("\r", " ")).encode()
    _write(document + b"\n")


def _in_json(text: str) -> str:
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _write(line: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def is_terminal() -> bool:
    """Whether results are shown to somebody, and not read by a program."""
    return sys.stdout.isatty()


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: with borders on a terminal, else as lines whose fields are parted by tabs.

    Args:
        columns: The headings. One that begins with `>` is of numbers.
        rows: The texts of each row.
    """
    if not is_terminal():
        for row in ([column.lstrip(">") for column in columns], *rows):
            write_row(*row)
        sys.stdout.flush()
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.lstrip(">"),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(escape(_field(text)) for text in row))
    Console(highlight=False).print(table)
