"""Identifiers: what is valid, how one is made, and the time inside a UUIDv7."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import uuid_utils

from snapstore.errors import InvalidIdentifierError

__all__ = [
    "END_OF_IDS",
    "IDENTIFIER",
    "RANDOM_BITS",
    "SCOPES",
    "UUID7",
    "Scope",
    "id_from_number",
    "is_identifier",
    "milliseconds_since_epoch",
    "new_snapshot_id",
    "number_from_id",
    "snapshot_id_at",
    "snapshot_time",
    "validate_identifier",
    "validate_scope",
    "validate_snapshot_id",
]

Scope = Literal["agent", "multiAgent"]
"""What a snapshot was taken of: one agent, or an orchestrator of several."""

SCOPES: Final = ("agent", "multiAgent")

# RFC 9562, section 5.7: version 7 in the third group, the variant in the fourth.
UUID7: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
"""The pattern of a snapshot id as it is stored: a UUIDv7 in lower case."""

RANDOM_BITS: Final = 74
"""Bits of an id below its 48 bits of time, without version and variant."""

END_OF_IDS: Final = 1 << 48 + RANDOM_BITS
"""One more than the number of the greatest id."""

IDENTIFIER: Final = r"[a-z0-9_-]{1,255}"
"""The pattern of a session or scope id."""

_IDENTIFIER = re.compile(IDENTIFIER, re.ASCII)
_SNAPSHOT_ID = re.compile(UUID7, re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_snapshot_id() -> str:
    """Make a snapshot id.

    Returns:
        A UUIDv7 in lower case. Ids made by one process strictly increase as strings, from any
        number of threads; between processes they are ordered by their clocks' milliseconds.
    """
    return str(uuid_utils.uuid7())


def validate_identifier(value: object, what: str) -> str:
    """Check a session or scope id: `[a-z0-9_-]{1,255}`, ASCII.

    Args:
        value: The id.
        what: What it is, for the message (`"session_id"`).

    Returns:
        The id, as a plain `str`: what a subclass shows in a key may be something else.

    Raises:
        InvalidIdentifierError: It is not one.
    """
    if isinstance(value, str) and (match := _IDENTIFIER.fullmatch(value)):
        return match[0]
    raise InvalidIdentifierError(
        f"{what} must be 1 to 255 of the characters a-z, 0-9, '_' and '-', not {_shown(value)}"
    )


def is_identifier(text: str) -> bool:
    """Whether a text is a valid session or scope id."""
    return _IDENTIFIER.fullmatch(text) is not None


def validate_scope(value: object) -> Scope:
    """Check a scope.

    Raises:
        InvalidIdentifierError: It is neither `"agent"` nor `"multiAgent"`.
    """
    if value == "agent":
        return "agent"
    if value == "multiAgent":
        return "multiAgent"
    raise InvalidIdentifierError(f"scope must be 'agent' or 'multiAgent', not {_shown(value)}")


def validate_snapshot_id(value: object, what: str = "snapshot_id") -> str:
    """Check a snapshot id and write it in lower case.

    Args:
        value: The id, in either case.
        what: What it is, for the message (`"start_after"`).

    Raises:
        InvalidIdentifierError: It is not a UUIDv7.
    """
    if isinstance(value, str) and _SNAPSHOT_ID.fullmatch(lowered := value.lower()):
        return lowered
    raise InvalidIdentifierError(f"{what} must be a UUIDv7, not {_shown(value)}")


def snapshot_time(snapshot_id: str) -> datetime:
    """Read the time at which a snapshot id was made.

    Args:
        snapshot_id: A UUIDv7.

    Returns:
        The time in UTC, exact to the millisecond, by the clock of the process that made it.

    Raises:
        InvalidIdentifierError: It is not a UUIDv7, or of a time after the year 9999.
    """
    digits = validate_snapshot_id(snapshot_id).replace("-", "")
    try:
        return _EPOCH + timedelta(milliseconds=int(digits[:12], 16))
    except OverflowError:
        raise InvalidIdentifierError(f"{snapshot_id} is later than any date") from None


def snapshot_id_at(time: datetime) -> str:
    """Make the lowest snapshot id of a millisecond: a cursor for a point in time.

    Args:
        time: An aware time, at or after 1970.

    Returns:
        A UUIDv7. As `start_after` it leaves out all that was made before `time`.

    Raises:
        ValueError: The time is naive, or before 1970.

    Example:
        The snapshots of the last hour::

            an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
            ids = await storage.list_snapshot_ids(
                location=location, start_after=snapshot_id_at(an_hour_ago)
            )
    """
    return id_from_number(milliseconds_since_epoch(time, "time") << RANDOM_BITS)


def milliseconds_since_epoch(time: object, what: str) -> int:
    """The whole milliseconds from 1970 to a time, as an id has them.

    Args:
        time: An aware time.
        what: What it is, for the message (`"since"`).

    Raises:
        TypeError: It is no datetime.
        ValueError: It is naive, or before 1970.
    """
    if not isinstance(time, datetime):
        raise TypeError(f"{what} must be a datetime, not a {type(time).__name__}")
    if time.utcoffset() is None:
        raise ValueError(f"{what} must be aware of its time zone")
    milliseconds = (time - _EPOCH) // timedelta(milliseconds=1)
    if milliseconds < 0:
        raise ValueError(f"{what} must not be before 1970")
    return milliseconds


def number_from_id(snapshot_id: str) -> int:
    """The place of a valid snapshot id in the order of all: its bits without version and variant.

    RFC 9562, section 5.7: 48 bits of time, the version, 12 bits, the variant, 62 bits.
    """
    bits = int(snapshot_id.replace("-", ""), 16)
    return bits >> 80 << RANDOM_BITS | (bits >> 64 & 0xFFF) << 62 | bits & (1 << 62) - 1


def id_from_number(number: int) -> str:
    """The snapshot id at a place: the inverse of `number_from_id`."""
    time, high, low = number >> RANDOM_BITS, number >> 62 & 0xFFF, number & (1 << 62) - 1
    digits = f"{time << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _shown(value: object) -> str:
    """The value for a message: in ASCII, and cut where it is long."""
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    return ascii(value) if len(value) <= 80 else f"{value[:80]!a}... ({len(value)} characters)"
