"""A document as it is at one moment: encoded, or pickled, in one step that no thread comes between.

Encoders convert without a word what JSON can't carry: NaN, bytes, sets, keys that are numbers. To
check a document before it is encoded costs more than to encode it, and another thread may change
it in between. Here C code that is fast, and strict about one thing each, reads it beside the
encoder, in calls between which no Python code runs. Why that is exact, and what it costs, is in
`docs/design/exact-encoding.md`.
"""

from __future__ import annotations

import gc
import io
import operator
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from snapstore.encoding.parts import InParts, encode_in_parts
from snapstore.encoding.picklers import StrictPickler
from snapstore.encoding.validation import is_too_deep

__all__ = ["Whole", "encode_at_once", "is_larger", "pickle_at_once"]

_call: Callable[[Callable[[], Any]], Any] = operator.call
_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode
_pack_text_keys_into = msgspec.msgpack.Encoder(order="deterministic").encode_into
"""Raises for a key that is not a str (msgspec documentation, "Encoder", `order`)."""

_STRICT: Final = 2
"""The last protocol of pickle that has neither bytes nor sets, and leaves them to
`reducer_override`."""

_FRAMED: Final = 4
"""The first protocol of pickle that writes a frame after the other, and not all at the end."""

_NOTED: Final = 50
"""Dicts and lists in each other from which on a pickler without a memo notes those it is in
(CPython, `FAST_NESTING_LIMIT`)."""

_MUCH: Final = 2**20
_MUCH_OF_LITTLE: Final = 16
"""A document of so many bytes that has so many times fewer in it holds the same over and over."""

_FEW: Final = 100

_FLOAT: Final = 0xCB
_ALL_ONES: Final = (0x7F, 0xFF)
_SPARSE: Final = 512
"""Bytes for each byte that is looked for, on an average, from which on to jump from one to the
next, by `memchr`, is faster than a pattern."""

# A float of MessagePack whose exponent is all ones: NaN or an infinity.
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")

# A list directly in a list, in compact JSON. To begin with the bracket makes it twice as fast.
_LIST_IN_LIST = re.compile(rb"\[(?<=[\[,]\[)")


class _Counter:
    """A file that counts what is written to it, and keeps nothing."""

    def __init__(self, room: int, document: dict[str, Any] | None = None) -> None:
        self.bytes = 0
        self._room = room
        self._document = document
        self._much = _MUCH

    def write(self, data: bytes) -> None:
        """Count.

        Raises:
            BufferError: There is more than there is room for, or much of little.
        """
        self.bytes += len(data)
        if self.bytes > self._room:
            raise BufferError
        if self.bytes > self._much and self._document is not None:
            self._much = 4 * self.bytes
            with suppress(BufferError):
                little = _Counter(self.bytes // _MUCH_OF_LITTLE)
                StrictPickler(little, _FRAMED).dump(self._document)
                self._room = 0


class _Nowhere:
    """A file for what is not to be kept."""

    write = staticmethod(len)


_NOWHERE: Final = _Nowhere()


class Whole(NamedTuple):
    """A document as JSON, in which fewer than 50 dicts and lists lie in each other.

    Attributes:
        data: The JSON.
    """

    data: bytes

    def is_too_deep(self) -> bool:
        """Whether, with tuples, which are rare, it is more than 200 objects and lists deep."""
        # To look at the lists alone takes less than to decode.
        if _LIST_IN_LIST.search(self.data) is None or self.data.count(b"[") <= _FEW:
            return False
        try:
            return is_too_deep(_decode_json(self.data))
        except RecursionError:
            return True


def encode_at_once(document: dict[str, Any], max_bytes: int) -> Whole | InParts | None:
    """Write a document as compact JSON, if it can be done in one step, and exactly.

    Args:
        document: The fields of an object.
        max_bytes: How many bytes are worth while.

    Returns:
        The JSON, which has yet to be asked whether it is too deep; `None` where nothing is known
        about the document. That is so for all else that JSON can't carry, and for some that it
        can: long integers, lone surrogates, 50 objects and lists in each other, more than
        `max_bytes`.
    """
    if not _IS_ONE_STEP:
        return None
    # If this fails, the check of the document that comes next says why.
    with suppress(Exception):
        parts = encode_in_parts(document, max_bytes)
        if parts is not None and not any(map(_has_infinite, parts.packed)):
            return parts._replace(packed=[])
    with suppress(Exception):
        return _encode(document, max_bytes)
    return None


def pickle_at_once(document: dict[str, Any]) -> bytes | None:
    """Pickle a document in one step, at all depths.

    Returns:
        A pickle that makes a copy, in which what occurs twice occurs twice; `None` if not all
        values and keys are None, bool, int, float, str, dict, list or tuple.
    """
    file = io.BytesIO()
    with suppress(Exception):
        StrictPickler(file, _STRICT).dump(document)
        return file.getvalue()
    return None


def is_larger(document: dict[str, Any], max_bytes: int) -> bool:
    """Whether a document that JSON can carry is certainly larger, as JSON, than `max_bytes`.

    No value takes more than four times as much in a pickle.
    """
    with suppress(BufferError):
        _fast_pickler(_Counter(4 * max_bytes), _FRAMED).dump(document)
        return False
    return True


def _encode(document: dict[str, Any], max_bytes: int) -> Whole | None:
    # What holds itself over and over is found to be too large before anything takes its time, and
    # no other encoder may meet an object that it would run code of.
    size = _Counter(max_bytes, document)
    _fast_pickler(size, _FRAMED).dump(document)
    pickler = _fast_pickler(_NOWHERE, _STRICT)
    packed = bytearray(size.bytes)
    steps: tuple[Callable[[], Any], ...] = (
        partial(pickler.dump, document),
        partial(_pack_text_keys_into, document, packed),
        partial(_encode_json, document),
    )
    data: bytes
    # With a view of it, the buffer can't grow.
    with memoryview(packed):
        _, _, data = map(_call, steps)
    # To note depth it makes objects, for which Python 3.11 may run its collector, and other code.
    return None if _has_noted_depth(pickler) or _has_infinite(packed) else Whole(data)


def _fast_pickler(file: _Counter | _Nowhere, protocol: int) -> StrictPickler:
    """A pickler without a memo, which writes what occurs twice twice."""
    pickler = StrictPickler(file, protocol)
    pickler.fast = True
    return pickler


def _has_noted_depth(pickler: StrictPickler) -> bool:
    """Whether 50 dicts and lists lay in each other: from there on, it notes them in a dict."""
    return dict in map(type, gc.get_referents(pickler))


def _has_infinite(packed: bytearray) -> bool:
    """Whether bytes of NaN or an infinity occur, as such or by chance."""
    at, end = -1, len(packed) - 8  # a float has eight bytes more
    for _ in range(1 + end // _SPARSE):
        at = packed.find(_FLOAT, at + 1, end)
        if at < 0:
            return False
        if packed[at + 1] in _ALL_ONES:
            break
    return _NOT_FINITE.search(packed, at) is not None


def _is_one_step() -> bool:
    """Whether this interpreter does what the argument for exactness rests on."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    nested: list[Any] = []
    for _ in range(_NOTED - 2):
        nested = [nested]
    for noted in (False, True):
        pickler = _fast_pickler(_NOWHERE, _STRICT)
        pickler.dump(nested)
        if _has_noted_depth(pickler) is not noted:
            return False
        nested = [nested]
    others: tuple[Any, ...] = (b"", b"-", set(), frozenset())
    return all(pickle_at_once({"": other}) is None for other in others)


_IS_ONE_STEP: Final = _is_one_step()
