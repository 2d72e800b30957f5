"""Cursors of lists of sessions: where a page ended, as text that is safe in a URL.

A cursor is base64url of four bytes of a hash, and of a JSON array that begins with a version. The
hash finds what was changed by accident. It keeps no secret: all that a cursor can say is where to
go on among sessions that its reader may list anyway.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final, cast

import msgspec

from snapstore.errors import InvalidIdentifierError
from snapstore.model.ids import validate_identifier
from snapstore.model.sessions import SessionOrder

__all__ = ["Position", "decode_cursor", "encode_cursor"]

_VERSION: Final = 1
_HASH_BYTES: Final = 4


class Position(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The last session of a page.

    Args:
        version: Of the format.
        order: The order of the list.
        session_id: The session.
        microseconds: When it was updated, in microseconds since 1970; -1 where nothing tells; 0 in
            other orders.
    """

    version: int
    order: SessionOrder
    session_id: str
    microseconds: int


_DECODER: Final = msgspec.json.Decoder(Position)


def encode_cursor(order: SessionOrder, session_id: str, microseconds: int = 0) -> str:
    """Make the cursor of a page that ends with a session.

    Args:
        order: The order of the list.
        session_id: The session.
        microseconds: When it was updated, for the order `"updated"`.
    """
    return _text(Position(_VERSION, order, session_id, microseconds))


def decode_cursor(order: SessionOrder, cursor: str) -> Position:
    """Read a cursor.

    Args:
        order: The order of the list that it is for.
        cursor: The cursor.

    Raises:
        TypeError: It is no text.
        InvalidIdentifierError: It is no cursor, is of another order, or was changed.
    """
    if not isinstance(cast("object", cursor), str):
        raise TypeError(f"cursor must be a str, not a {type(cursor).__name__}")
    try:
        data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        position = _DECODER.decode(data[_HASH_BYTES:])
    except (ValueError, msgspec.MsgspecError):
        position = None
    if position is None or position.version != _VERSION or _text(position) != cursor:
        raise InvalidIdentifierError(
            "cursor is not one that list_sessions has returned; begin without a cursor"
        )
    if position.order != order:
        raise InvalidIdentifierError(
            f"cursor is of the order {position.order!r}, and can't be used with {order!r}"
        )
    validate_identifier(position.session_id, "the session id of the cursor")
    return position


def _text(position: Position) -> str:
    data = msgspec.json.encode(position)
    digest = hashlib.blake2b(data, digest_size=_HASH_BYTES).digest()
    return base64.urlsafe_b64encode(digest + data).decode().rstrip("=")
