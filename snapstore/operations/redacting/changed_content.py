"""The content of an object, changed by a function, and where it was changed."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any, Final, Literal, NamedTuple, cast

from snapstore.encoding.documents import NotJSONError, decode_value, encode_json
from snapstore.encoding.envelope import decode_manifest, decode_raw_snapshot
from snapstore.errors import SnapshotDecodeError, SnapshotEncodeError
from snapstore.operations.redacting.changes import Change, Redaction

__all__ = ["change_content"]

_BOM: Final = b"\xef\xbb\xbf"
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
"""Names that are shown in places. Any other may tell something itself, and is `*`."""


def change_content(
    key: str, data: bytes, change: Change, *, kind: str | None, max_bytes: int
) -> tuple[bytes, list[str]] | None:
    """Change the content of an object.

    Args:
        key: Its key, for errors.
        data: The content, without padding.
        change: Makes the new content.
        kind: `"latest"`, `"history"` or `"manifest"`; anything else is not checked.
        max_bytes: How large a snapshot or a manifest may be.

    Returns:
        The new content, and where it differs, by paths in it; `None` if it does not.

    Raises:
        SnapshotEncodeError: A good snapshot or manifest would be none any more.
    """
    content = _Content.of(data)
    # Read once more, since a change may work on what it is given.
    value = change(_Content.of(data).value)
    places = _places(content.value, value)
    if not places and content.kind == "json":
        # What a name had that comes twice is not in the value: written anew, it is gone.
        remains = isinstance(change, Redaction) and change.remains_in(data)
        is_new = remains and content.encode(value) != data
        places = [""] if is_new or content.has_duplicates else []
    if not places:
        return None
    if type(value) is not type(content.value):
        raise SnapshotEncodeError(
            f"{key}: change made a {type(value).__name__} of a {type(content.value).__name__}"
        )
    changed = content.encode(value)
    if kind not in ("latest", "history", "manifest"):
        return changed, places
    if len(changed) > max_bytes:
        raise SnapshotEncodeError(f"{key} would be too large: {len(changed):,} bytes")
    decode = decode_manifest if kind == "manifest" else decode_raw_snapshot
    try:
        decode(content.data, key=key)
    except SnapshotDecodeError:
        return changed, places  # it was damaged before, and is as text
    try:
        decode(changed, key=key)
    except SnapshotDecodeError as error:
        failure = SnapshotEncodeError(f"change made something else of it: {error}")
    else:
        return changed, places
    raise failure


class _Content(NamedTuple):
    """The content of an object, as a change gets it.

    Attributes:
        data: The bytes.
        value: What they are: JSON, else text, else bytes.
        kind: Which of them.
    """

    data: bytes
    value: Any
    kind: Literal["json", "text", "bytes"]

    @classmethod
    def of(cls, data: bytes) -> _Content:
        """Read bytes."""
        text = data.removeprefix(_BOM)
        try:
            return cls(data, decode_value(text), "json")
        except NotJSONError:
            pass
        try:
            return cls(data, bytes(data).decode(), "text")
        except UnicodeDecodeError:
            return cls(data, bytes(data), "bytes")

    @property
    def has_duplicates(self) -> bool:
        """Whether an object of the JSON has a name twice, of which only the last one is read."""
        is_double = False

        def look(pairs: list[tuple[str, Any]]) -> None:
            nonlocal is_double
            is_double = is_double or len({name for name, _ in pairs}) < len(pairs)

        with suppress(ValueError, RecursionError):
            json.loads(self.data.removeprefix(_BOM), object_pairs_hook=look)
        return is_double

    def encode(self, value: Any) -> bytes:
        """Write another content of the same kind."""
        if self.kind == "json":
            return encode_json(value)
        return value.encode() if self.kind == "text" else bytes(value)


def _places(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two contents differ, by their paths in the new one."""
    if type(old) is not type(new):
        return [path]
    if isinstance(old, dict):
        before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        found: list[str] = []
        for (key, value), (name, other) in zip(before.items(), after.items(), strict=False):
            shown = name if _PLAIN.fullmatch(name) else "*"
            inner = f"{path}.{shown}" if path else shown
            found += [inner] if key != name else []
            found += _places(value, other, inner)
        return found + ([path] if len(before) != len(after) else [])
    if isinstance(old, list):
        items, others = old, cast("list[Any]", new)
        found = []
        for number, (value, other) in enumerate(zip(items, others, strict=False)):
            found += _places(value, other, f"{path}[{number}]")
        return found + ([path] if len(items) != len(others) else [])
    return [] if old == new else [path]
