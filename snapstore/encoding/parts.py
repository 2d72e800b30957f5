"""A document with a long list of objects, written in one step as `exact` does, part by part.

Each part is checked and encoded before the next one, while it is in the caches of the CPU, and all
in one step that no thread comes between. A part is small, so that its depth is known by the number
of its brackets, and its pickler may have a memo: no other pass is needed to bound it. What is
around the parts is captured before, and compared in the step. See `docs/design/exact-encoding.md`.
"""

from __future__ import annotations

import gc
import itertools
import operator
import secrets
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from snapstore.encoding.picklers import StrictPickler
from snapstore.encoding.validation import is_too_deep

__all__ = ["InParts", "encode_in_parts"]

_call: Callable[[Callable[[], Any]], Any] = operator.call
_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode
_pack_text_keys_into = msgspec.msgpack.Encoder(order="deterministic").encode_into
_view: Callable[[bytearray], object] = memoryview

_PART: Final = 24
"""Objects in a part: some ten kilobytes of a conversation, with fewer than `_SHALLOW` brackets."""

_LONG: Final = 256
"""Objects in a list that is encoded in parts. What is smaller is in the caches anyway."""

_SHALLOW: Final = 190
"""Brackets that can't be too deep, in a list that lies in two objects."""

_ROOM: Final = bytes(4096)
"""What a part may take more, as MessagePack, than its pickle, which has once what occurs often."""

_PLACE: Final = secrets.token_hex(16)
_PLACE_JSON: Final = _encode_json(_PLACE)

_COLLECTS_ANYWHERE: Final = sys.version_info < (3, 12)
"""Whether the garbage collector, and so other code, may run where objects are allocated."""


class InParts(NamedTuple):
    """A document as JSON.

    Attributes:
        data: The JSON.
        packed: The parts as MessagePack.
        ends: Where the first part begins, and where each one ends.
        depth: How many objects and lists a part lies in, its list included.
    """

    data: bytes
    packed: list[bytearray]
    ends: list[int]
    depth: int

    def is_too_deep(self) -> bool:
        """Whether it is more than 200 objects and lists deep."""
        first, last = self.ends[0], self.ends[-1]
        around = self._brackets(0, first) + self._brackets(last, len(self.data))
        if around > _SHALLOW and _is_too_deep(self.data[:first] + self.data[last:], 1):
            return True
        return any(
            self._brackets(start, end) > _SHALLOW
            and _is_too_deep(b"[%b]" % self.data[start:end].strip(b","), self.depth)
            for start, end in itertools.pairwise(self.ends)
        )

    def _brackets(self, start: int, end: int) -> int:
        return self.data.count(b"{", start, end) + self.data.count(b"[", start, end)


class _Room:
    """A file that makes room for what is written to it."""

    def __init__(self, room: bytearray) -> None:
        self.write = room.extend


def encode_in_parts(document: dict[str, Any], max_bytes: int) -> InParts | None:
    """Write a document as compact JSON.

    Args:
        document: The fields of an object.
        max_bytes: How many bytes are worth while.

    Returns:
        `None` where it has no long list, is larger, or was changed meanwhile. Floats may not be
        finite, and it may be too deep.

    Raises:
        Exception: JSON can't carry it; or it is not known whether it can.
    """
    found = _find_long_list(document) if type(document) is dict else None
    if found is None:
        return None
    holder, name = found
    around, fields = dict(document), dict(holder)
    items = fields[name]
    if type(items) is not list:
        return None
    members: list[Any] = list(items)
    unchanged: list[tuple[Callable[[], Any], Any]] = [
        *_unchanged(document, around),
        *_unchanged(holder, fields),
        (partial(len, items), len(members)),
        (partial(all, map(operator.is_, members, items)), True),
    ]
    shell = fields | {name: [_PLACE]}
    if holder is not document:
        shell = {key: shell if value is holder else value for key, value in around.items()}
    parts: list[Any] = [members[at : at + _PART] for at in range(0, len(members), _PART)]
    parts.append(shell)
    packed = [bytearray(_ROOM) for _ in parts]
    calls, expected = zip(*unchanged, strict=True)
    results = _do_at_once([*calls, *_steps(parts, packed, max_bytes)])
    found_same, results = results[: len(calls)], results[len(calls) :]
    if found_same != [*expected] or len(results) < _STEPS * len(parts):
        return None
    written: list[bytes] = results[_ENCODED::_STEPS]
    del results
    return _join(written, packed, 2 if holder is document else 3)


def _find_long_list(document: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    """The first long list of objects in a document or in a field of it, and its name."""
    for value in document.values():
        if type(value) is dict:
            for name, inner in value.items():
                if type(inner) is list and len(inner) >= _LONG and type(inner[0]) is dict:
                    return value, name
    for name, value in document.items():
        if type(value) is list and len(value) >= _LONG and type(value[0]) is dict:
            return document, name
    return None


def _unchanged(
    held: dict[str, Any], captured: dict[str, Any]
) -> Iterator[tuple[Callable[[], Any], Any]]:
    """Calls that tell, and allocate nothing, whether a dict is as it was captured."""
    yield partial(len, held), len(captured)
    yield partial(all, map(operator.is_, list(captured), iter(held))), True
    yield partial(all, map(operator.is_, list(captured.values()), iter(held.values()))), True


def _steps(
    parts: list[Any], packed: list[bytearray], max_bytes: int
) -> Iterator[Callable[[], Any]]:
    """What is to be done at once: `_STEPS` calls for each part, until there is too much."""
    room = bytearray()
    pickler = StrictPickler(_Room(room), 2)
    total = itertools.accumulate(map(len, itertools.repeat(room)))
    in_bounds = itertools.takewhile(partial(operator.ge, max_bytes), total)
    for part, buffer in zip(parts, packed, strict=True):
        yield partial(pickler.dump, part)
        yield partial(next, in_bounds)  # StopIteration ends it
        yield partial(buffer.extend, room)
        yield partial(_view, buffer)  # with a view of it, it can't grow
        yield partial(_pack_text_keys_into, part, buffer)
        yield partial(_encode_json, part)
        yield room.clear
        yield pickler.clear_memo


_STEPS: Final = 8
_ENCODED: Final = 5
"""Which of them returns the JSON."""


def _do_at_once(steps: list[Callable[[], Any]]) -> list[Any]:
    """Call functions in C with nothing in between, the garbage collector included."""
    if not (_COLLECTS_ANYWHERE and gc.isenabled()):
        return list(map(_call, steps))
    was_enabled = True
    try:
        # It may end early, at StopIteration.
        was_enabled, _, *results = map(_call, [gc.isenabled, gc.disable, *steps])
    finally:
        if was_enabled:
            gc.enable()
    return results


def _join(written: list[bytes], packed: list[bytearray], depth: int) -> InParts | None:
    """Put the parts into the place that was left for them."""
    before, place, after = written.pop().partition(_PLACE_JSON)
    if not place or _PLACE_JSON in after:
        return None
    ends = [len(before)]
    for part in written:
        ends.append(ends[-1] + len(part) - 1)  # with a comma, without brackets
    ends[-1] -= 1
    inner = b",".join([memoryview(part)[1:-1] for part in written])
    return InParts(b"%b%b%b" % (before, inner, after), packed, ends, depth)


def _is_too_deep(text: bytes, depth: int) -> bool:
    try:
        return is_too_deep(_decode_json(text), depth)
    except RecursionError:
        return True
