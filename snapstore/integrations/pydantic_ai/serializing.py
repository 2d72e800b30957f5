"""Pydantic AI's own JSON form of its types, as far as JSON can carry it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError

from snapstore.errors import SnapshotEncodeError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["to_json"]


def to_json(adapter: TypeAdapter[Any], value: object, what: str) -> dict[str, Any]:
    """The JSON form of a value, as plain dicts and lists.

    Args:
        adapter: The adapter of its type.
        value: The value.
        what: What messages call it.

    Raises:
        SnapshotEncodeError: It has none.
    """
    # An error of Pydantic shows what it failed on.
    with suppress(PydanticSerializationError):
        document: dict[str, Any] = adapter.dump_python(value, mode="json")
        return document
    raise SnapshotEncodeError(f"{what} holds a value that Pydantic can't write as JSON")
