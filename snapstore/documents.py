"""JSON text to documents, which are plain dicts and lists, and back.

It is msgspec's JSON, and beside it what msgspec does not read or write although JSON has it: lone
surrogates, as JavaScript writes them, and long integers. What is large is read in slices.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from math import isfinite
from typing import Any, Final, NoReturn, cast

import msgspec

from snapstore.errors import SnapshotDecodeError, SnapshotEncodeError
from snapstore.strictness import MAX_DEPTH, is_too_deep, refuse_inexact

__all__ = [
    "UTF8_BOM",
    "decode_document",
    "decode_document_in_slices",
    "decode_outline",
    "encode_document",
    "encode_json",
    "refuse",
    "refuse_large",
]

_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw] | list[msgspec.Raw]).decode

_Scalar = str | int | float | bool | None
_Members = _Scalar | list[msgspec.Raw] | dict[str, msgspec.Raw]
_decode_outer_levels = msgspec.json.Decoder(
    dict[str, _Scalar | list[msgspec.Raw] | dict[str, _Members]]
).decode
"""Scans a document once down to its single messages, for one scan takes milliseconds."""

_A_MOMENT: Final = 1e-6
"""Seconds for others to run: after 0, what is due by a timer would not have had its turn."""

_SLICE: Final = 128 * 1024
"""Bytes of JSON that are decoded in one go; a millisecond or two."""

_EMPTY: Final[dict[bytes, type]] = {b"{": dict, b"[": list}
"""What stands for an object or a list that nobody looks into, by the bracket it begins with."""

UTF8_BOM: Final = b"\xef\xbb\xbf"
"""What may stand before a document, and is no part of it."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_TOO_DEEP: Final = f"it is more than {MAX_DEPTH} objects and lists deep"


def encode_json(content: Any) -> bytes:
    """Write any content as compact JSON, by the rules for what is in a snapshot.

    Raises:
        SnapshotEncodeError: As `refuse_inexact`.
    """
    refuse_inexact({"content": content}, sys.maxsize)
    return encode_document(content, sys.maxsize)


def encode_document(document: Any, max_bytes: int) -> bytes:
    """Write a document as compact JSON in UTF-8.

    Args:
        document: What `refuse_inexact` does not refuse.
        max_bytes: How many bytes it may have.

    Raises:
        SnapshotEncodeError: It is larger than `max_bytes`.
    """
    data = None
    # A UnicodeEncodeError holds the text, and must not be in the chain of what is raised next.
    with suppress(UnicodeEncodeError):
        data = _encode_json(document)
    if data is None:
        data = _encode_with_surrogates(document)
    return refuse_large(data, max_bytes)


def refuse_large(data: bytes, max_bytes: int) -> bytes:
    """Hand back a document's bytes, if there are no more of them than allowed.

    Raises:
        SnapshotEncodeError: There are.
    """
    if len(data) > max_bytes:
        raise SnapshotEncodeError(
            f"too large: {len(data):,} bytes of JSON, where {max_bytes:,} are allowed"
        )
    return data


def decode_document(data: bytes, key: str, what: str) -> dict[str, Any]:
    """Read a document from JSON of any layout.

    Args:
        data: The stored bytes.
        key: Where they were stored, for the error.
        what: What they should be (`"snapshot"`), for the error.

    Raises:
        SnapshotDecodeError: They are not a JSON object in UTF-8, or it is too deep.
    """
    if not data:
        refuse(key, what, "the object is empty")
    # An error in the chain would hold the text it failed on: only its words are kept.
    document, problem, again = None, None, False
    try:
        with _no_garbage_collection():
            document = _decode_json(data.removeprefix(UTF8_BOM))
    except msgspec.MsgspecError as error:
        problem = f"it is not valid JSON ({error})"
        # Two things are valid JSON that msgspec does not read, or not always.
        out_of_range = isinstance(error, msgspec.ValidationError)
        again = out_of_range or _ESCAPED_SURROGATE.search(data) is not None
    except UnicodeDecodeError:
        problem = "it is not valid UTF-8"
    except RecursionError:
        problem = _TOO_DEEP
    if again:
        document = _decode_with_json(data)
        problem = problem if document is None else None
    if problem:
        refuse(key, what, problem)
    if type(document) is not dict:
        refuse(key, what, "it is not a JSON object")
    if is_too_deep(document):
        refuse(key, what, _TOO_DEEP)
    return cast("dict[str, Any]", document)


async def decode_document_in_slices(data: bytes, key: str, what: str) -> dict[str, Any]:
    """Read a document as `decode_document` does, and let the event loop run every few milliseconds.

    It takes longer, and threads would not help: the decoder holds the GIL. A single long text is
    read in one go, and so is a document with half a surrogate pair.

    Args and errors: as `decode_document`.
    """
    document, ended = None, False
    # To put a large body together has taken a while, too.
    await asyncio.sleep(_A_MOMENT)
    # Whatever is wrong is found out again, and put into words, without slices.
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = data.removeprefix(UTF8_BOM).lstrip(b" \t\r\n")
        outer = _decode_outer_levels(text)
        await asyncio.sleep(_A_MOMENT)
        slices = _decode_each(outer, 1)
        with _no_garbage_collection() as collecting:
            while not ended:
                try:
                    next(slices)
                except StopIteration as end:
                    document, ended = end.value, True
                if collecting:
                    # What this slice has made grows old now, and not all at once at the end.
                    gc.collect(1)
                await asyncio.sleep(_A_MOMENT)
    return document if type(document) is dict else decode_document(data, key, what)


def decode_outline(data: bytes, key: str, what: str) -> dict[str, Any]:
    """Read what a document has on its first level: objects and lists come out empty.

    Args and errors: as `decode_document`, but what is too deep, or a number out of range, is not
    noticed.
    """
    # Whatever is wrong, or is not read by msgspec, is found out again by reading all of it.
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = data.removeprefix(UTF8_BOM)
        text.decode()
        return {
            name: _EMPTY[bracket]()
            if (bracket := bytes(memoryview(part)[:1])) in _EMPTY
            else _decode_json(part)
            for name, part in _decode_fields(text).items()
        }
    return decode_document(data, key, what)


def refuse(key: str, what: str, why: str) -> NoReturn:
    """Raise the error for bytes that are not what they should be.

    Args:
        key: Where they are stored.
        what: What they should be.
        why: Why they are not.

    Raises:
        SnapshotDecodeError: Always.
    """
    raise SnapshotDecodeError(f"{key} is not a {what}: {why}", key=key)


def _encode_with_surrogates(document: Any) -> bytes:
    r"""Write lone surrogates as JavaScript does, as `\udXXX`, and join the pairs.

    A text cut in the middle of an emoji has one (ECMA-262, "QuoteJSONString").
    """
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    json.loads(joined, object_pairs_hook=_refuse_equal_keys)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", joined).encode()


def _refuse_equal_keys(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        raise SnapshotEncodeError("two keys become one where a surrogate pair is joined")


def _decode_in_slices(part: msgspec.Raw, depth: int) -> Generator[None, None, Any]:
    """Decode JSON, and yield where others may have their turn.

    Args:
        part: The JSON.
        depth: How many objects and lists it lies in, itself included.

    Raises:
        RecursionError: It is too deep.
    """
    if len(part) <= _SLICE or bytes(memoryview(part)[:1]) not in _EMPTY:
        return _decode_slice(part, depth)
    members = _decode_members(part)
    yield
    return (yield from _decode_each(members, depth))


def _decode_each(members: Any, depth: int) -> Generator[None, None, Any]:
    """Decode the members of an object or a list as they were scanned, in slices."""
    if type(members) is list:
        values: list[Any] = []
        for run in _runs(members):
            if len(run) == 1:
                values.append((yield from _decode_in_slices(run[0], depth + 1)))
            else:
                # A call for each of many short ones would cost as much as decoding them.
                values += _decode_slice(b"[%b]" % b",".join(run), depth)
            yield
        return values
    taken = 0
    for name, member in members.items():
        if isinstance(member, msgspec.Raw):
            members[name] = yield from _decode_in_slices(member, depth + 1)
            taken += len(member)
        elif isinstance(member, dict | list):
            members[name] = yield from _decode_each(member, depth + 1)
        if taken > _SLICE:
            taken = 0
            yield
    return members


def _decode_slice(part: Any, depth: int) -> Any:
    value = _decode_json(part)
    is_container = type(value) is dict or type(value) is list
    if is_container and (depth > MAX_DEPTH or is_too_deep(value, depth)):
        raise RecursionError
    return value


def _runs(parts: Iterable[msgspec.Raw]) -> Iterator[list[msgspec.Raw]]:
    """Put consecutive parts together until they are a slice."""
    run: list[msgspec.Raw] = []
    length = 0
    for part in parts:
        more = len(part)
        if run and length + more > _SLICE:
            yield run
            run, length = [], 0
        run.append(part)
        length += more
    if run:
        yield run


@contextmanager
def _no_garbage_collection() -> Iterator[bool]:
    """Hold off the cyclic garbage collector: it would visit all that is being made, in vain.

    Yields:
        Whether it was on.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield collecting
    finally:
        if collecting:
            gc.enable()


def _decode_with_json(data: bytes) -> Any:
    """Read what msgspec can't: an escaped lone surrogate, a long integer. Else `None`."""
    try:
        return json.loads(
            data.removeprefix(UTF8_BOM).decode(),
            parse_float=_finite,
            parse_constant=_finite,
        )
    except (ValueError, RecursionError):
        return None


def _finite(number: str) -> float:
    value = float(number)
    if not isfinite(value):
        raise ValueError("out of range")
    return value
