"""Decoding of large documents in slices, between which the event loop runs.

A large object or list is scanned once in C for where its members begin and end, and then decoded a
slice of members at a time. The result, and what is refused, is that of `decode_document`: whatever
the slices can't tell (a key that occurs twice, an error) is left to it.
"""

from __future__ import annotations

import asyncio
import gc
import operator
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any, Final

import msgspec

from snapstore.encoding.documents import (
    ESCAPED_SURROGATE,
    UTF8_BOM,
    NotJSONError,
    decode_document,
    decode_json,
    decode_value,
)
from snapstore.encoding.frames import drop_frames_of_coroutine
from snapstore.encoding.turns import YIELD
from snapstore.encoding.validation import MAX_DEPTH, is_too_deep

__all__ = ["decode_document_in_slices"]

_SLICE: Final = 128 * 1024
"""Bytes of JSON that are decoded in one go; a millisecond or two."""

_MANY: Final = 4096
"""Members that are passed over in one go; a millisecond or two."""

_WINDOW: Final = 1024 * 1024
"""Bytes that are searched in one go; a millisecond or two."""

_SCANS: Final = 8
"""How often a document may be scanned, on an average of its bytes. Each level of large containers
takes a scan; without a bound, deep ones would take time for depth times size."""

_call: Callable[[Callable[[], Any]], Any] = operator.call
_scan = msgspec.json.Decoder(dict[str, msgspec.Raw] | list[msgspec.Raw]).decode

_SPACE = re.compile(rb"[ \t\n\r]*")
_KEY = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_COLON = re.compile(rb"[ \t\n\r]*:[ \t\n\r]*")
_COMMA = re.compile(rb"[ \t\n\r]*,[ \t\n\r]*")

_Steps = Generator[None, None, Any]


class _UndecidedError(Exception):
    """Only decoding all of it can tell."""


@drop_frames_of_coroutine
async def decode_document_in_slices(
    data: bytes, key: str, what: str, *, keep: bool = True
) -> dict[str, Any]:
    """Read a document as `decode_document` does, and let the event loop run every few milliseconds.

    It takes longer, and threads would not help: the decoder holds the GIL. In one go are read: a
    single long text, a document that is not valid, one with the same key twice in a large object,
    and what lies in more than some eight large containers.

    Args:
        data: The stored bytes.
        key: Where they were stored, for the error.
        what: What they should be, for the error.
        keep: Whether all of it is returned. If not, objects and lists that are large are checked
            and come back empty, which takes the memory of a slice.

    Raises:
        SnapshotDecodeError: As `decode_document`.
    """
    document = None
    steps = _Document(data.removeprefix(UTF8_BOM), keep).steps()
    with closing(steps), suppress(NotJSONError, _UndecidedError):
        try:
            while True:
                # To put a large body together has taken a while, too.
                await asyncio.sleep(YIELD)
                next(steps)
        except StopIteration as end:
            document = end.value
    return document if type(document) is dict else decode_document(data, key, what)


class _Document:
    """A document that is being decoded.

    All positions are those in the text. The scanned text is the text itself, or one of the same
    length in which no surrogate is escaped, since the scan refuses lone ones.
    """

    def __init__(self, text: bytes, keep: bool) -> None:
        self._text = text
        self._scanned_text = text
        self._keep = keep
        self._room = _SCANS * len(text)

    def steps(self) -> _Steps:
        """Decode it, and yield where others may run.

        Raises:
            NotJSONError: It is not JSON, or too deep.
            _UndecidedError: Only decoding all of it can tell.
        """
        start = _skip(_SPACE, self._text, 0)
        end = len(self._text.rstrip(b" \t\n\r"))
        return (yield from self._decode(start, end, 1, keep=True))

    def _decode(self, start: int, end: int, depth: int, *, keep: bool) -> _Steps:
        """Decode a value.

        Args:
            start: Where it begins.
            end: Where it ends.
            depth: How many objects and lists it lies in, itself included if it is one.
            keep: Whether it is wanted.
        """
        is_container = self._text[start : start + 1] in (b"{", b"[")
        if end - start <= _SLICE or not is_container or end - start > self._room:
            return _decode_slice(self._text[start:end], depth)
        members = yield from self._scan(start, end)
        yield
        is_dict = type(members) is dict
        value: Any = {} if is_dict else []
        if not members:
            return value
        wrapped = b"{%b}" if is_dict else b"[%b]"
        add = value.update if is_dict else value.extend
        spans = self._pairs(members, start, end) if is_dict else self._items(members, start)
        first = last = passed = 0
        for key, key_end, begin, stop in spans:
            if first and stop - first > _SLICE:
                run = _decode_slice(wrapped % self._text[first:last], depth)
                if keep:
                    add(run)
                first = passed = 0
                yield
            if stop - begin > _SLICE:
                inner = yield from self._decode(begin, stop, depth + 1, keep=keep and self._keep)
                if is_dict:
                    add({_decode_slice(self._text[key:key_end], depth): inner})
                elif keep:
                    value.append(inner)
                continue
            first, last, passed = first or key, stop, passed + 1
            if passed % _MANY == 0:
                yield
        if first:
            run = _decode_slice(wrapped % self._text[first:last], depth)
            if keep:
                add(run)
        yield
        return value

    def _scan(self, start: int, end: int) -> _Steps:
        """Find out what is in an object or a list, without decoding it."""
        for last in (False, True):
            self._room -= end - start
            with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return _scan(memoryview(self._scanned_text)[start:end])
            if not last:
                self._scanned_text = yield from _without_surrogates(self._scanned_text)
        raise _UndecidedError

    def _items(self, members: list[msgspec.Raw], start: int) -> Iterator[tuple[int, int, int, int]]:
        """Where the items of a list lie: as `_pairs`, with nothing for a key."""
        text, here = self._scanned_text, start + 1
        for number, member in enumerate(members):
            here = _skip(_COMMA if number else _SPACE, text, here)
            begin, here = here, here + len(member)
            yield begin, begin, begin, here

    def _pairs(
        self, members: dict[str, msgspec.Raw], start: int, end: int
    ) -> Iterator[tuple[int, int, int, int]]:
        """Where the members of an object lie: key from and to, value from and to.

        Raises:
            _UndecidedError: There are more members than were scanned: a key occurs twice.
        """
        text, here = self._scanned_text, start + 1
        for number, member in enumerate(members.values()):
            key = _skip(_COMMA if number else _SPACE, text, here)
            key_end = _skip(_KEY, text, key)
            begin = _skip(_COLON, text, key_end)
            # The scan has the last value of a key, at the place of the first.
            if not text.startswith(member, begin):
                raise _UndecidedError
            here = begin + len(member)
            yield key, key_end, begin, here
        if _skip(_SPACE, text, here) != end - 1:
            raise _UndecidedError


def _skip(pattern: re.Pattern[bytes], text: bytes, here: int) -> int:
    found = pattern.match(text, here)
    if found is None:
        raise _UndecidedError
    return found.end()


def _without_surrogates(text: bytes) -> Generator[None, None, bytes]:
    """The text with another escape of the same length for each escaped surrogate."""
    parts: list[bytes] = []
    start = 0
    while start < len(text):
        end = min(start + _WINDOW, len(text))
        # No escape may be cut in two.
        while end < len(text) and b"\\" in text[end - 6 : end]:
            end += 1
        parts.append(ESCAPED_SURROGATE.sub(rb"\\u00", text[start:end]))
        start = end
        yield
    return b"".join(parts)


def _decode_slice(text: bytes, depth: int) -> Any:
    """Decode a part of a document.

    Args:
        text: The JSON of a value.
        depth: How many objects and lists it lies in, itself included if it is one.

    Raises:
        NotJSONError: It is not JSON, or too deep.
    """
    value = _decode_uncollected(text)
    if type(value) in (dict, list) and (depth > MAX_DEPTH or is_too_deep(value, depth)):
        raise NotJSONError("")
    return value


def _decode_uncollected(text: bytes) -> Any:
    """Decode while the cyclic garbage collector is held off.

    It would visit all that is being made, in vain, and now and then all there is. What was made
    counts as old afterwards. Where the collector is off, it stays off.
    """
    if gc.isenabled():
        # One step for Python: no other thread sees the collector off, or switches it meanwhile.
        steps: tuple[Callable[[], Any], ...] = (
            gc.isenabled,
            gc.disable,
            partial(decode_json, text),
            gc.enable,
        )
        try:
            was_enabled, _, value, _ = map(_call, steps)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            gc.enable()
        else:
            if was_enabled:
                gc.collect(1)
            else:
                gc.disable()
            return value
    return decode_value(text)
