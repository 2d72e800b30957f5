"""A document as it is at one moment: encoded, or copied, in one step that no thread comes between.

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
from typing import Any, Final, NoReturn, cast

import msgspec

from snapstore.strictness import is_too_deep

__all__ = ["copy_at_once", "encode_at_once"]

_call: Callable[[Callable[[], Any]], Any] = operator.call
_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode
_pack_into = msgspec.msgpack.Encoder().encode_into
_pack_text_keys_into = msgspec.msgpack.Encoder(order="deterministic").encode_into
"""Raises for a key that is not a str (msgspec documentation, "Encoder", `order`)."""

_PROTOCOL: Final = 2
"""Of pickle: the last one that has neither bytes nor sets, and leaves them to
`reducer_override`."""

_SIZES: Final = (2**14, 2**17, 2**22)
"""Bytes that are tried before all that are allowed."""

_NOTED: Final = 50
"""Dicts and lists in each other from which on a pickler without a memo notes those it is in
(CPython, `FAST_NESTING_LIMIT`)."""

_FEW: Final = 100
_COMMA: Final = ord(",")

# A float of MessagePack whose exponent is all ones: NaN or an infinity.
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff]")


class _StrictPickler(pickle.Pickler):
    """Takes None, bool, int, float, str, dict, list and tuple, and no subclass of them."""

    __slots__ = ()

    def reducer_override(self, obj: Any) -> NoReturn:
        """Refuse what pickle has no opcode for."""
        raise TypeError(type(obj).__name__)


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
        The JSON; `None` where nothing is known about it. That is so for all that JSON can't carry,
        and for some that it can: long integers, lone surrogates, 50 objects and lists in each
        other, lists in lists, more than `max_bytes`.
    """
    # Whatever fails, whoever checks the document next says why.
    with suppress(Exception):
        if _IS_ONE_STEP:
            return _encode(document, max_bytes)
    return None


def copy_at_once(document: dict[str, Any]) -> dict[str, Any] | None:
    """Copy a document in one step, at all depths.

    Returns:
        The copy, in which what occurred twice occurs twice; `None` if not all values and keys are
        None, bool, int, float, str, dict, list or tuple.
    """
    file = io.BytesIO()
    with suppress(Exception):
        _StrictPickler(file, _PROTOCOL).dump(document)
        return cast("dict[str, Any]", pickle.loads(file.getbuffer()))  # noqa: S301 -- our own
    return None


def _encode(document: dict[str, Any], max_bytes: int) -> bytes | None:
    # What holds itself over and over is found to be too large before anything takes its time.
    packed = _pack(document, max_bytes)
    if packed is None:
        return None
    pickler = _StrictPickler(_NOWHERE, _PROTOCOL)
    pickler.fast = True
    # While it is looked at, the buffer can't grow.
    with memoryview(packed):
        steps: tuple[Callable[[], Any], ...] = (
            partial(pickler.dump, document),
            partial(_pack_text_keys_into, document, packed),
            partial(_encode_json, document),
        )
        data: bytes
        _, _, data = map(_call, steps)
    # To note depth it makes objects, for which Python 3.11 may run its collector, and other code.
    if _has_noted_depth(pickler) or _NOT_FINITE.search(packed):
        return None
    if _may_nest_lists(data) and is_too_deep(_decode_json(data)):
        return None
    return data


def _pack(document: dict[str, Any], max_bytes: int) -> bytearray | None:
    """Write a document as MessagePack, if it fits."""
    for size in (*_SIZES, max_bytes):
        packed = bytearray(min(size, max_bytes))
        # With a view of it, it can't grow.
        with suppress(BufferError), memoryview(packed):
            _pack_into(document, packed)
            return packed
        if size >= max_bytes:
            break
    return None


def _has_noted_depth(pickler: _StrictPickler) -> bool:
    """Whether 50 dicts and lists lay in each other: from there on, it notes them in a dict."""
    return dict in map(type, gc.get_referents(pickler))


def _may_nest_lists(data: bytes) -> bool:
    """Whether 100 lists and tuples may lie in each other, with fewer than 50 dicts and lists.

    In compact JSON, one that lies directly in another one follows a bracket or a comma.
    """
    before = data.split(b"[")[:-1]
    return len(before) > _FEW and any(not part or part[-1] == _COMMA for part in before)


def _is_one_step() -> bool:
    """Whether this interpreter does what the argument for exactness rests on."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    nested: list[Any] = []
    for _ in range(_NOTED - 2):
        nested = [nested]
    for noted in (False, True):
        pickler = _StrictPickler(_NOWHERE, _PROTOCOL)
        pickler.fast = True
        pickler.dump(nested)
        if _has_noted_depth(pickler) is not noted:
            return False
        nested = [nested]
    others: tuple[Any, ...] = (b"", b"-", set(), frozenset())
    return all(copy_at_once({"": other}) is None for other in others)


_IS_ONE_STEP: Final = _is_one_step()
