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
import pickle
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec

from snapstore.encoding.validation import is_too_deep

__all__ = ["encode_at_once", "is_written_too_deep", "pickle_at_once"]

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
_LITTLE: Final = 2**16
"""Bytes. A document of so much with so little in it holds the same over and over."""

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


class _StrictPickler(pickle.Pickler):
    """Takes None, bool, int, float, str, dict, list and tuple, and no subclass of them."""

    __slots__ = ()

    # Called for what pickle has no opcode for. It takes no argument, and so raises TypeError: it
    # is a function in C, so that a pickler runs no Python code at all.
    reducer_override: Any = [].clear


class _Counter:
    """A file that counts what is written to it, and keeps nothing."""

    def __init__(self, room: int, document: dict[str, Any] | None = None) -> None:
        self.bytes = 0
        self._room = room
        self._document = document

    def write(self, data: bytes) -> None:
        """Count.

        Raises:
            BufferError: There is more than there is room for, or much of little.
        """
        self.bytes += len(data)
        if self.bytes > self._room:
            raise BufferError
        if self.bytes > _MUCH and self._document is not None:
            document, self._document = self._document, None
            with suppress(BufferError):
                _StrictPickler(_Counter(_LITTLE), _FRAMED).dump(document)
                self._room = 0


class _Nowhere:
    """A file for what is not to be kept."""

    write = staticmethod(len)


_NOWHERE: Final = _Nowhere()


def encode_at_once(document: dict[str, Any], max_bytes: int) -> bytes | None:
    """Write a document as compact JSON, if it can be done in one step, and exactly.

    Args:
        document: The fields of an object.
        max_bytes: How many bytes are worth while.

    Returns:
        The JSON, unless `is_written_too_deep`; `None` where nothing is known about it. That is so
        for all else that JSON can't carry, and for some that it can: long integers, lone
        surrogates, 50 objects and lists in each other, more than `max_bytes`.
    """
    # If this fails, the check of the document that comes next says why.
    with suppress(Exception):
        if _IS_ONE_STEP:
            return _encode(document, max_bytes)
    return None


def is_written_too_deep(data: bytes) -> bool:
    """Whether what `encode_at_once` has written is more than 200 objects and lists deep.

    Fewer than 50 of them are dicts and lists. The others are tuples, which are rare.
    """
    # To look at the lists alone takes less than to decode.
    if _LIST_IN_LIST.search(data) is None or data.count(b"[") <= _FEW:
        return False
    try:
        return is_too_deep(_decode_json(data))
    except RecursionError:
        return True


def pickle_at_once(document: dict[str, Any]) -> bytes | None:
    """Pickle a document in one step, at all depths.

    Returns:
        A pickle that makes a copy, in which what occurs twice occurs twice; `None` if not all
        values and keys are None, bool, int, float, str, dict, list or tuple.
    """
    file = io.BytesIO()
    with suppress(Exception):
        _StrictPickler(file, _STRICT).dump(document)
        return file.getvalue()
    return None


def _encode(document: dict[str, Any], max_bytes: int) -> bytes | None:
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
    return None if _has_noted_depth(pickler) or _has_infinite(packed) else data


def _fast_pickler(file: _Counter | _Nowhere, protocol: int) -> _StrictPickler:
    """A pickler without a memo, which writes what occurs twice twice."""
    pickler = _StrictPickler(file, protocol)
    pickler.fast = True
    return pickler


def _has_noted_depth(pickler: _StrictPickler) -> bool:
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
