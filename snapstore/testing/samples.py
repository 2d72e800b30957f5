"""What the conformance suites save, and what they put in place: keys, ids, snapshots, bodies.

Keys and envelopes are spelled out: those made by the code under test would prove nothing.
"""

from __future__ import annotations

import enum
import json
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, cast
from uuid import UUID

from snapstore.model.snapshot import Dialect, Snapshot, SnapshotLocation

LOCATION: Final = SnapshotLocation.agent("s-1", "weather")
SNAPSHOTS: Final = "s-1/scopes/agent/weather/snapshots/"
LATEST: Final = f"{SNAPSHOTS}snapshot_latest.json"
MANIFEST: Final = f"{SNAPSHOTS}manifest.json"
HISTORY: Final = f"{SNAPSHOTS}immutable_history/"

SIBLINGS: Final = ("s-10", "s-1-1", "s-1_", "s_1", "s-", "s", "s-2")
"""Sessions whose ids begin like `s-1`, or look like it to a pattern."""

MORE_THAN_A_PAGE: Final = 1_005
"""Objects that S3 neither lists nor deletes in one request."""

CREATED_AT: Final = "2026-11-22T11:13:20.403Z"
DATA: Final[dict[str, Any]] = {
    "messages": [
        {"role": "user", "content": [{"text": "What is the weather in Zürich? 🌧️"}]},
        {"role": "assistant", "content": [{"text": "Let me look."}], "trackingId": "7ab56227"},
    ],
    "state": {"counter": 3, "ratio": 0.1, "done": False, "next": None, "tags": []},
}
APP_DATA: Final[dict[str, Any]] = {"tenant": "acme"}
ENVELOPES: Final[dict[Dialect, dict[str, Any]]] = {
    "typescript": {
        "scope": "agent",
        "schemaVersion": "1.0",
        "createdAt": CREATED_AT,
        "data": DATA,
        "appData": APP_DATA,
    },
    "python": {
        "scope": "agent",
        "schema_version": "1.0",
        "created_at": CREATED_AT,
        "data": DATA,
        "app_data": APP_DATA,
    },
}
APP_DATA_NAMES: Final[dict[Dialect, str]] = {"typescript": "appData", "python": "app_data"}

CANARY: Final = "canary-8f2e"
"""Text that lies in bodies and values, and must be in no error."""


def make_snapshot(
    data: dict[str, Any] = DATA,
    *,
    app_data: dict[str, Any] = APP_DATA,
    dialect: Dialect = "typescript",
) -> Snapshot:
    """The snapshot of `ENVELOPES`, or one with other contents."""
    return Snapshot("agent", "1.0", CREATED_AT, data, app_data, dialect)


def snapshot_ids(count: int) -> list[str]:
    """As many ids, in ascending order; always the same ones."""
    return [f"01912a3b-{n:04x}-7000-8000-{n:012x}" for n in range(count)]


def history_key(snapshot_id: str) -> str:
    """Where a snapshot lies in the history of `LOCATION`."""
    return f"{HISTORY}snapshot_{snapshot_id}.json"


def nested(levels: int) -> dict[str, Any]:
    """Objects in each other, as deep as that."""
    document: dict[str, Any] = {}
    for _ in range(levels - 1):
        document = {"a": document}
    return document


def everything_said_by(error: BaseException) -> Iterator[str]:
    """All text that an error and its chain would show to a logger, a debugger or a caller."""
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is not None:
            yield from (str(link), repr(link), repr(link.args), repr(vars(link)))
            chain += [link.__cause__, link.__context__]


def everything_in_frames(error: BaseException) -> Iterator[str]:
    """The local variables of snapstore's frames in a traceback, as error trackers show them.

    They take the `repr` of each, look into lists, tuples and mappings (Sentry), and cut long texts
    and bytes before (rich, structlog).
    """
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is None:
            continue
        for frame, _ in traceback.walk_tb(link.__traceback__):
            module = frame.f_globals.get("__name__", "")
            if module.startswith("snapstore.") and not module.startswith("snapstore.testing."):
                for name, value in frame.f_locals.items():
                    for text in _shown(value):
                        yield f"{module}.{frame.f_code.co_name}: {name}={text}"
        chain += [link.__cause__, link.__context__]


def _shown(value: Any, depth: int = 4) -> Iterator[str]:
    yield repr(value)
    if isinstance(value, str | bytes):
        yield repr(value[:1_000])
    elif isinstance(value, Mapping) and depth:
        for key, inner in value.items():
            yield repr(key)
            yield from _shown(inner, depth - 1)
    elif isinstance(value, Sequence | AbstractSet) and depth:
        for inner in cast("Iterable[Any]", value):
            yield from _shown(inner, depth - 1)


def _envelope(**changes: Any) -> dict[str, Any]:
    return ENVELOPES["typescript"] | {"data": {"text": CANARY}} | changes


def _without(dialect: Dialect, name: str) -> bytes:
    envelope = ENVELOPES[dialect] | {"data": {"text": CANARY}}
    return json.dumps({key: value for key, value in envelope.items() if key != name}).encode()


def _with_number(number: str, text: str = CANARY) -> bytes:
    body = json.dumps(_envelope(data={"text": text, "number": "?"}))
    return body.replace('"?"', number).encode()


_GOOD: Final = json.dumps(_envelope()).encode()

CORRUPT_BODIES: Final[dict[str, bytes]] = {
    "empty": b"",
    "blank": b" \n",
    "NULs": b"\x00" * 64,
    "truncated by a byte": _GOOD[:-1],
    "truncated in a text": _GOOD[: _GOOD.index(CANARY.encode()) + 6],
    "truncated in an escape": _GOOD[: _GOOD.index(CANARY.encode())] + rb"\ud83",
    "two documents": _GOOD + _GOOD,
    "with NULs behind": _GOOD + b"\x00\x00",
    "with a comma too many": _GOOD[:-1] + b",}",
    "in single quotes": _GOOD.replace(b'"', b"'"),
    "plain text": f"no JSON, but a {CANARY}".encode(),
    "an error page": f"<Error><Code>InternalError</Code><M>{CANARY}</M></Error>".encode(),
    "null": b"null",
    "a number": b"7",
    "a string": json.dumps(CANARY).encode(),
    "a list": json.dumps([_envelope()]).encode(),
    "an empty object": b"{}",
    "an object without an envelope": json.dumps({"text": CANARY, "data": {}}).encode(),
    "a mix of both envelopes": json.dumps(_envelope(created_at=CREATED_AT)).encode(),
    "half of each envelope": json.dumps(
        {"scope": "agent", "schemaVersion": "1.0", "created_at": CANARY, "data": {}, "app_data": {}}
    ).encode(),
    "without a scope": _without("typescript", "scope"),
    "without createdAt": _without("typescript", "createdAt"),
    "without data": _without("typescript", "data"),
    "without appData": _without("typescript", "appData"),
    "without created_at": _without("python", "created_at"),
    "without data, in Python": _without("python", "data"),
    "with a list for data": json.dumps(_envelope(data=[CANARY])).encode(),
    "with text for data": json.dumps(_envelope(data=CANARY)).encode(),
    "with null for data": json.dumps(_envelope(data=None)).encode(),
    "with null for appData": json.dumps(_envelope(appData=None)).encode(),
    "with a number for createdAt": json.dumps(_envelope(createdAt=1795346000)).encode(),
    "with null for schemaVersion": json.dumps(_envelope(schemaVersion=None)).encode(),
    "with an unknown scope": json.dumps(_envelope(scope=CANARY)).encode(),
    "with NaN": _with_number("NaN"),
    "with Infinity": _with_number("-Infinity"),
    "with NaN beside a lone surrogate": _with_number("NaN", f"{CANARY} \ud83d"),
    "with a number out of range": _with_number("1e400"),
    "with a number out of range beside a lone surrogate": _with_number("1e400", f"{CANARY} \ud83d"),
    "with a number of 5,000 digits": _with_number("1" * 5_000),
    "with a number of 5,000 digits beside a lone surrogate": _with_number(
        "1" * 5_000, f"{CANARY} \ud83d"
    ),
    "with a half-written number": _with_number("1."),
    "201 deep": json.dumps(_envelope(data=nested(200))).encode(),
    "201 deep, beside a lone surrogate": json.dumps(
        _envelope(data={"text": f"{CANARY} \ud83d", "deep": nested(199)})
    ).encode(),
    "100,000 deep": _with_number("[" * 100_000 + "]" * 100_000),
    "UTF-16": json.dumps(_envelope()).encode("utf-16"),
    "UTF-32": json.dumps(_envelope()).encode("utf-32"),
    "Latin-1": json.dumps(_envelope(data={"text": f"{CANARY} Zürich"}), ensure_ascii=False).encode(
        "latin-1"
    ),
    "with a surrogate in UTF-8": _GOOD.replace(CANARY.encode(), CANARY.encode() + b"\xed\xa0\xbd"),
    "with a byte that is not UTF-8": _GOOD.replace(CANARY.encode(), CANARY.encode() + b"\xff"),
    "with a bare line break in a text": _GOOD.replace(CANARY.encode(), CANARY.encode() + b"\n"),
}
"""Bodies that are neither a snapshot nor a manifest, by what is wrong with them."""


class Text(str):
    """A text that would not load as what it is."""

    __slots__ = ()


class _Number(int):
    pass


class _Colour(enum.Enum):
    RED = CANARY


class _Size(enum.IntEnum):
    LARGE = 3


class _Name(enum.StrEnum):
    ADA = CANARY


UNENCODABLE_VALUES: Final[dict[str, Any]] = {
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "bytes": CANARY.encode(),
    "a bytearray": bytearray(CANARY.encode()),
    "a set": {CANARY},
    "a frozenset": frozenset({CANARY}),
    "a datetime": datetime(2026, 11, 22, tzinfo=UTC),
    "a date": date(2026, 11, 22),
    "a Decimal": Decimal("0.1"),
    "a UUID": UUID("01912a3b-abcd-7def-8abc-0123456789ab"),
    "a complex number": 1j,
    "a str subclass": Text(CANARY),
    "an int subclass": _Number(1),
    "an Enum": _Colour.RED,
    "an IntEnum": _Size.LARGE,
    "a StrEnum": _Name.ADA,
    "a struct": LOCATION,
    "an iterator": iter([CANARY]),
    "a function": make_snapshot,
    "a class": dict,
    "an object": object(),
    "an integer of 5,000 digits": 10**4_999,
}
"""Values that JSON can't carry so that they load as they were saved, by what they are."""
