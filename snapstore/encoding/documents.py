"""JSON text to documents, which are plain dicts and lists, and back.

It is msgspec's JSON, and beside it what msgspec does not read or write although JSON has it: lone
surrogates, as JavaScript writes them, and long integers.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import suppress
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, NoReturn, cast

import msgspec

from snapstore.encoding.exact import encode_at_once, is_larger, pickle_at_once
from snapstore.encoding.frames import drop_frames
from snapstore.encoding.validation import MAX_DEPTH, is_too_deep, validate_exact
from snapstore.errors import SnapshotDecodeError, SnapshotEncodeError

__all__ = [
    "ESCAPED_SURROGATE",
    "UTF8_BOM",
    "NotJSONError",
    "check_size",
    "decode_document",
    "decode_json",
    "decode_value",
    "encode_document",
    "encode_document_in_steps",
    "encode_json",
    "raise_decode_error",
    "run_steps",
]

_encode_json = msgspec.json.Encoder().encode
decode_json: Final = msgspec.json.Decoder().decode
"""Decodes JSON that msgspec reads; `decode_value` also what it does not."""

UTF8_BOM: Final = b"\xef\xbb\xbf"
"""What may stand before a document, and is no part of it."""

ESCAPED_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
"""The beginning of the escape of a surrogate, lone or of a pair."""

_LARGE: Final = 2**19
"""Bytes of a document that takes milliseconds to encode."""

_LARGE_PICKLE: Final = 2**16
"""Bytes of a pickle, which has once what a document may have often, and takes longer."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_CONSTANT = re.compile(rb"NaN|-?Infinity")
_BYTE = re.compile(r"\(byte (\d+)\)")
_TOO_DEEP: Final = f"it is more than {MAX_DEPTH} objects and lists deep"
_UNCHANGED: Final[Mapping[str, str]] = MappingProxyType({})


class NotJSONError(Exception):
    """A text is not JSON as it is read here. The message says why, without any of the text."""


@drop_frames
def encode_json(content: Any) -> bytes:
    """Write any content as compact JSON, by the rules for what is in a snapshot.

    Raises:
        SnapshotEncodeError: As `validate_exact`.
    """
    # A document is an object: what is around the content is taken off again.
    return encode_document({"content": content}, sys.maxsize)[len('{"content":') : -1]


def encode_document(
    document: dict[str, Any], max_bytes: int, labels: Mapping[str, str] = _UNCHANGED
) -> bytes:
    """Write a document as compact JSON in UTF-8.

    What is checked is what is written, also while other threads change it: see
    `docs/design/exact-encoding.md`.

    Args:
        document: The fields of an object.
        max_bytes: How many bytes it may have.
        labels: What fields are called in errors, where that is not their name.

    Raises:
        SnapshotEncodeError: As `validate_exact`, or it is larger than `max_bytes`.
    """
    return run_steps(encode_document_in_steps(document, max_bytes, labels))


def encode_document_in_steps(
    document: dict[str, Any], max_bytes: int, labels: Mapping[str, str] = _UNCHANGED
) -> Generator[None, None, bytes]:
    """Write a document as `encode_document` does, and yield between the steps of a large one.

    What is written is what it was when it first yields, also if it is changed afterwards.

    Args and errors: as `encode_document`.
    """
    written = encode_at_once(document, max_bytes)
    if written is None:
        return (yield from _encode_copy(document, max_bytes, labels))
    is_large = len(written.data) >= _LARGE
    if is_large:
        yield
    if written.is_too_deep():
        del written
        with suppress(RuntimeError):  # a dict that changes while it is looked at
            validate_exact(document, max_bytes, labels)
        raise SnapshotEncodeError(_TOO_DEEP)
    if is_large:
        yield
    return check_size(written.data, max_bytes)


def run_steps(steps: Generator[None, None, bytes]) -> bytes:
    """Do all steps of an encoding at once."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        data: bytes = end.value
        return data


def _encode_copy(
    document: dict[str, Any], max_bytes: int, labels: Mapping[str, str]
) -> Generator[None, None, bytes]:
    """Check and write a copy that nobody else has."""
    pickled = pickle_at_once(document)
    if pickled is None:
        with suppress(RuntimeError):  # a dict that changes while it is looked at
            validate_exact(document, max_bytes, labels)
        raise SnapshotEncodeError("it was changed by another thread while it was being saved")
    is_large = len(pickled) >= _LARGE_PICKLE
    if is_large:
        yield
    copy = pickle.loads(pickled)  # noqa: S301 -- our own
    del pickled
    if is_large:
        yield
    validate_exact(copy, max_bytes, labels)
    if is_larger(copy, max_bytes):
        raise SnapshotEncodeError(f"too large: more bytes of JSON than {max_bytes:,}")
    if is_large:
        yield
    data = None
    # A UnicodeEncodeError holds the text, and must not be in the chain of what is raised next.
    with suppress(UnicodeEncodeError):
        data = _encode_json(copy)
    if data is None:
        data = _encode_with_surrogates(copy)
    if is_large:
        yield
    return check_size(data, max_bytes)


def check_size(data: bytes, max_bytes: int) -> bytes:
    """Hand back a document's bytes, if there are no more of them than allowed.

    Raises:
        SnapshotEncodeError: There are.
    """
    if len(data) > max_bytes:
        raise SnapshotEncodeError(
            f"too large: {len(data):,} bytes of JSON, where {max_bytes:,} are allowed"
        )
    return data


@drop_frames
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
        raise_decode_error(key, what, "the object is empty")
    document, problem = None, ""
    try:
        document = decode_value(data.removeprefix(UTF8_BOM))
    except NotJSONError as error:
        problem = str(error)
    if problem:
        raise_decode_error(key, what, problem)
    if type(document) is not dict:
        raise_decode_error(key, what, "it is not a JSON object")
    if is_too_deep(document):
        raise_decode_error(key, what, _TOO_DEEP)
    return cast("dict[str, Any]", document)


def decode_value(text: bytes) -> Any:
    """Decode JSON, also what msgspec does not read.

    Raises:
        NotJSONError: It is not JSON. How deep it is is not looked at, unless it is too deep for
            the decoder.
    """
    # An error in the chain would hold the text it failed on: only its words are kept.
    problem, again = "", False
    try:
        return decode_json(text)
    except msgspec.MsgspecError as error:
        problem = _problem_of(error, text)
        # Two things are valid JSON that msgspec does not read, or not always.
        out_of_range = isinstance(error, msgspec.ValidationError)
        again = out_of_range or ESCAPED_SURROGATE.search(text) is not None
    except UnicodeDecodeError:
        problem = "it is not valid UTF-8"
    except RecursionError:
        problem = _TOO_DEEP
    if again:
        with suppress(ValueError, RecursionError):
            return json.loads(text.decode(), parse_float=_finite, parse_constant=_reject_constant)
    raise NotJSONError(problem)


def raise_decode_error(key: str, what: str, why: str) -> NoReturn:
    """Raise the error for bytes that are not what they should be.

    Args:
        key: Where they are stored.
        what: What they should be.
        why: Why they are not.

    Raises:
        SnapshotDecodeError: Always.
    """
    raise SnapshotDecodeError(f"{key} is not a {what}: {why}", key=key)


def _problem_of(error: msgspec.MsgspecError, text: bytes) -> str:
    """What is wrong with a text that msgspec refuses, in words."""
    place = _BYTE.search(str(error))
    if place is not None:
        byte = int(place[1])
        # Of -Infinity, the sign may have been read already.
        for start in (max(byte - 1, 0), byte):
            constant = _CONSTANT.match(text, start)
            if constant is not None and constant.end() > byte:
                return f"it is not valid JSON: it has {constant[0].decode()} (byte {byte})"
    return f"it is not valid JSON ({error})"


def _reject_constant(name: str) -> NoReturn:
    raise NotJSONError(f"it is not valid JSON: it has {name}")


def _finite(number: str) -> float:
    value = float(number)
    if not isfinite(value):
        raise ValueError("out of range")
    return value


def _encode_with_surrogates(document: Any) -> bytes:
    r"""Write lone surrogates as JavaScript does, as `\udXXX`, and join the pairs.

    A text cut in the middle of an emoji has one (ECMA-262, "QuoteJSONString").
    """
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    json.loads(joined, object_pairs_hook=_reject_equal_keys)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", joined).encode()


def _reject_equal_keys(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        raise SnapshotEncodeError("two keys become one where a surrogate pair is joined")
