"""JSON to snapshots and back, exactly.

Two spellings of the envelope are read and written, those of the two Strands SDKs. What is inside
`data` is never translated, so what one SDK wrote stays readable by it. Nothing that JSON can't
carry is let through on the way out, and nothing that is not a whole envelope on the way in.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from math import isfinite, isnan
from typing import Any, Final, NoReturn, cast

import msgspec

from snapstore.errors import SnapshotDecodeError, SnapshotEncodeError
from snapstore.ids import SCOPES
from snapstore.types import Dialect, RawSnapshot, Snapshot, SnapshotManifest

__all__ = [
    "MAX_DEPTH",
    "decode_manifest",
    "decode_raw_snapshot",
    "decode_snapshot",
    "decode_snapshot_in_slices",
    "encode_json",
    "encode_manifest",
    "encode_snapshot",
]

MAX_DEPTH: Final = 200
"""How many objects and lists may lie in each other, the envelope included."""

# Python reads and writes integers of at most 4,300 digits
# (Python documentation, "Integer string conversion length limitation").
_INT_BOUND: Final = 10**4300

_KINDS: Final[dict[str, type]] = {
    "scope": str,
    "schema_version": str,
    "created_at": str,
    "data": dict,
    "app_data": dict,
}
_ENVELOPES: Final[dict[Dialect, dict[str, str]]] = {
    "typescript": {
        "scope": "scope",
        "schemaVersion": "schema_version",
        "createdAt": "created_at",
        "data": "data",
        "appData": "app_data",
    },
    "python": {
        "scope": "scope",
        "schema_version": "schema_version",
        "created_at": "created_at",
        "data": "data",
        "app_data": "app_data",
    },
}
_ONLY_TYPESCRIPT: Final = _ENVELOPES["typescript"].keys() - _ENVELOPES["python"].keys()
_ONLY_PYTHON: Final = _ENVELOPES["python"].keys() - _ENVELOPES["typescript"].keys()

_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode
_decode_parts_of_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_parts_of_list = msgspec.json.Decoder(list[msgspec.Raw]).decode

_SLICE: Final = 128 * 1024
"""Bytes of JSON that are decoded in one go; a millisecond or two."""

_EMPTY: Final[dict[bytes, type]] = {b"{": dict, b"[": list}
"""What stands for an object or a list that nobody looks into, by the bracket it begins with."""

_UTF8_BOM: Final = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)


def encode_snapshot(snapshot: Snapshot | RawSnapshot, *, max_bytes: int) -> bytes:
    """Write a snapshot as compact JSON, in its own dialect's envelope.

    Args:
        snapshot: The snapshot. Tuples in it are written as lists; a raw one is written as it is.
        max_bytes: How many bytes the document may have.

    Raises:
        SnapshotEncodeError: It holds a value that JSON can't carry exactly, is more than
            `MAX_DEPTH` deep, or larger than `max_bytes`; or a raw one is not what it says.
    """
    if isinstance(snapshot, RawSnapshot):
        return _encode_raw(snapshot, max_bytes)
    if not isinstance(snapshot, Snapshot):
        raise SnapshotEncodeError(f"a Snapshot is needed, not a {type(snapshot).__name__}")
    for name, kind in _KINDS.items():
        if type(getattr(snapshot, name)) is not kind:
            raise SnapshotEncodeError(f"{name}: not a {kind.__name__}")
    if snapshot.dialect not in ("typescript", "python"):
        raise SnapshotEncodeError("dialect: neither 'typescript' nor 'python'")
    if snapshot.scope not in SCOPES:
        raise SnapshotEncodeError("scope: neither 'agent' nor 'multiAgent'")
    envelope = _ENVELOPES[snapshot.dialect]
    _refuse_fields(snapshot.extra, _ONLY_TYPESCRIPT | _ONLY_PYTHON | envelope.keys())
    _check({"data": snapshot.data, "app_data": snapshot.app_data} | snapshot.extra, max_bytes)
    document = {theirs: getattr(snapshot, ours) for theirs, ours in envelope.items()}
    return _encode(document | snapshot.extra, max_bytes)


def _encode_raw(snapshot: RawSnapshot, max_bytes: int) -> bytes:
    """The document of a raw snapshot, which anybody may have made."""
    if type(snapshot.document) is not bytes:
        raise SnapshotEncodeError("document: not bytes")
    problem = "document: its envelope is not that of the RawSnapshot"
    try:
        if decode_raw_snapshot(snapshot.document, key="document") == snapshot:
            return _refuse_large(snapshot.document, max_bytes)
    except SnapshotDecodeError as error:
        problem = str(error)
    raise SnapshotEncodeError(problem)


def decode_snapshot(data: bytes, *, key: str) -> Snapshot:
    """Read a snapshot from JSON of any layout, in either dialect.

    Args:
        data: The stored bytes.
        key: Where they were stored, for the error.

    Raises:
        SnapshotDecodeError: They are not one whole snapshot: not JSON in UTF-8, not an envelope
            of one dialect with every field of the right type, or more than `MAX_DEPTH` deep.
    """
    return _snapshot_of(_decode(data, key, "snapshot"), key)


async def decode_snapshot_in_slices(data: bytes, *, key: str) -> Snapshot:
    """Read a snapshot as `decode_snapshot` does, and let the event loop run every few milliseconds.

    It takes longer, and threads would not help: the decoder holds the GIL. A single long text is
    read in one go.

    Args and errors: as `decode_snapshot`.
    """
    document, ended = None, False
    # To put a large body together has taken a while, too.
    await asyncio.sleep(0)
    # Whatever is wrong is found out again, and put into words, without slices.
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = data.removeprefix(_UTF8_BOM).lstrip(b" \t\r\n")
        slices = _decode_in_slices(memoryview(text), 1)
        with _no_garbage_collection() as collecting:
            while not ended:
                try:
                    next(slices)
                except StopIteration as end:
                    document, ended = end.value, True
                if collecting:
                    # What this slice has made grows old now, and not all at once at the end.
                    gc.collect(1)
                await asyncio.sleep(0)
    if type(document) is not dict:
        return decode_snapshot(data, key=key)
    return _snapshot_of(document, key)


def decode_raw_snapshot(data: bytes, *, key: str) -> RawSnapshot:
    """Read the envelope of a snapshot, and of the rest no more than that it is JSON in UTF-8.

    Args and errors: as `decode_snapshot`, but what is too deep inside of `data` is not noticed.
    """
    text = data.removeprefix(_UTF8_BOM)
    document: dict[str, Any] | None = None
    # Whatever is wrong, or is not read by msgspec, is found out again by reading all of it.
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text.decode()
        document = {
            name: _EMPTY[bracket]()
            if (bracket := bytes(part)[:1]) in _EMPTY
            else _decode_json(part)
            for name, part in _decode_parts_of_object(text).items()
        }
    snapshot = decode_snapshot(data, key=key) if document is None else _snapshot_of(document, key)
    return RawSnapshot(
        text, snapshot.scope, snapshot.schema_version, snapshot.created_at, snapshot.dialect
    )


def _snapshot_of(document: dict[str, Any], key: str) -> Snapshot:
    if not document.keys().isdisjoint(_ONLY_TYPESCRIPT):
        if not document.keys().isdisjoint(_ONLY_PYTHON):
            _refuse(key, "snapshot", "its envelope mixes the spellings of two SDKs")
        dialect: Dialect = "typescript"
    elif not document.keys().isdisjoint(_ONLY_PYTHON):
        dialect = "python"
        # What that SDK fills in when it reads (strands.types._snapshot.Snapshot.from_dict).
        document.setdefault("scope", "agent")
        document.setdefault("app_data", {})
    else:
        _refuse(key, "snapshot", "it has no envelope")
    fields = {
        ours: _take(document, theirs, _KINDS[ours], key, "snapshot")
        for theirs, ours in _ENVELOPES[dialect].items()
    }
    if fields["scope"] not in SCOPES:
        _refuse(key, "snapshot", "its scope is neither 'agent' nor 'multiAgent'")
    return Snapshot(**fields, dialect=dialect, extra=document)


def encode_manifest(manifest: SnapshotManifest, *, max_bytes: int) -> bytes:
    """Write a manifest as compact JSON.

    Raises:
        SnapshotEncodeError: As `encode_snapshot`.
    """
    if not isinstance(manifest, SnapshotManifest):
        raise SnapshotEncodeError(f"a SnapshotManifest is needed, not a {type(manifest).__name__}")
    document = {"schemaVersion": manifest.schema_version, "updatedAt": manifest.updated_at}
    for name, value in document.items():
        if type(value) is not str:
            raise SnapshotEncodeError(f"{name}: not a str")
    _refuse_fields(manifest.extra, document.keys())
    _check(manifest.extra, max_bytes)
    return _encode(document | manifest.extra, max_bytes)


def decode_manifest(data: bytes, *, key: str) -> SnapshotManifest:
    """Read a manifest from JSON.

    Raises:
        SnapshotDecodeError: The bytes are not one whole manifest.
    """
    document = _decode(data, key, "manifest")
    return SnapshotManifest(
        schema_version=_take(document, "schemaVersion", str, key, "manifest"),
        updated_at=_take(document, "updatedAt", str, key, "manifest"),
        extra=document,
    )


def encode_json(content: Any) -> bytes:
    """Write any content as compact JSON, by the rules for what is in a snapshot.

    Raises:
        SnapshotEncodeError: As `encode_snapshot`, but for the size.
    """
    _check({"content": content}, sys.maxsize)
    return _encode(content, sys.maxsize)


class _Unencodable(Exception):  # noqa: N818 -- it carries the path up and is never seen outside
    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.path: list[str] = []

    @classmethod
    def at(cls, node: Any, place: Any, why: str) -> _Unencodable:
        found = cls(why)
        found.path.append(_step(node, place))
        return found


def _check(fields: dict[str, Any], max_bytes: int) -> None:
    """Refuse whatever would not load as it was saved."""
    try:
        _walk(fields, 1, max_bytes)
    except _Unencodable as found:
        path = "".join(reversed(found.path)).removeprefix(".")
        if len(path) > 200:
            path = f"{path[:100]}…{path[-99:]}"
        raise SnapshotEncodeError(f"{path}: {found}") from None


def _encode(document: Any, max_bytes: int) -> bytes:
    data = None
    # A UnicodeEncodeError holds the text, and must not be in the chain of what is raised next.
    with suppress(UnicodeEncodeError):
        data = _encode_json(document)
    if data is None:
        data = _encode_with_surrogates(document)
    return _refuse_large(data, max_bytes)


def _refuse_large(data: bytes, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise SnapshotEncodeError(
            f"too large: {len(data):,} bytes of JSON, where {max_bytes:,} are allowed"
        )
    return data


def _walk(node: Any, depth: int, room: int) -> int:
    """Look at each value; return how many members more there is room for.

    It is by far the costliest part of a save, and written for speed: exact types, the common ones
    first. A subclass of str, int or dict would load as another type.
    """
    if depth > MAX_DEPTH:
        raise _Unencodable(f"more than {MAX_DEPTH} objects and lists deep")
    # What occurs many times is written many times, and each member takes a byte at least.
    room -= len(node)
    if room < 0:
        raise SnapshotEncodeError("too large: more members than bytes are allowed")
    values = node
    if type(node) is dict:
        for key in node:
            if type(key) is not str:
                raise _Unencodable.at(node, key, f"a key that is a {type(key).__name__}, not a str")
        values = node.values()
    for value in values:
        kind = type(value)
        if kind is str:
            continue
        if kind is dict or kind is list or kind is tuple:
            try:
                room = _walk(value, depth + 1, room)
            except _Unencodable as found:
                found.path.append(_step(node, _place_of(value, node)))
                raise
        elif value is None or kind is bool:
            continue
        elif kind is int:
            if not -_INT_BOUND < value < _INT_BOUND:
                why = "an integer of more than 4,300 digits"
                raise _Unencodable.at(node, _place_of(value, node), why)
        elif kind is float:
            if not isfinite(value):
                why = "NaN" if isnan(value) else "Infinity"
                raise _Unencodable.at(node, _place_of(value, node), why)
        else:
            raise _Unencodable.at(node, _place_of(value, node), f"a {kind.__qualname__}")
    return room


def _place_of(value: Any, node: Any) -> Any:
    """The key or index of a value: of the first one, if it occurs more than once."""
    items: Iterable[tuple[Any, Any]] = node.items() if type(node) is dict else enumerate(node)
    return next(place for place, inner in items if inner is value)


def _step(node: Any, step: Any) -> str:
    """One step of a path; of a key that is not a plain name, and may be private, its place."""
    if type(node) is not dict:
        return f"[{step}]"
    if type(step) is str and _PLAIN_KEY.fullmatch(step):
        return f".{step}"
    return f"[key {list(node).index(step)}]"


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


def _decode(data: bytes, key: str, what: str) -> dict[str, Any]:
    if not data:
        _refuse(key, what, "the object is empty")
    # An error in the chain would hold the text it failed on: only its words are kept.
    document, problem, again = None, None, False
    try:
        with _no_garbage_collection():
            document = _decode_json(data.removeprefix(_UTF8_BOM))
    except msgspec.MsgspecError as error:
        problem = f"it is not valid JSON ({error})"
        # Two things are valid JSON that msgspec does not read, or not always.
        out_of_range = isinstance(error, msgspec.ValidationError)
        again = out_of_range or _ESCAPED_SURROGATE.search(data) is not None
    except UnicodeDecodeError:
        problem = "it is not valid UTF-8"
    except RecursionError:
        problem = f"it is more than {MAX_DEPTH} objects and lists deep"
    if again:
        document = _decode_with_json(data)
        problem = problem if document is None else None
    if problem:
        _refuse(key, what, problem)
    if type(document) is not dict:
        _refuse(key, what, "it is not a JSON object")
    # So few brackets can't lie too deep in each other.
    brackets = data.count(b"{") + data.count(b"[")
    if brackets > MAX_DEPTH and _is_too_deep(document):
        _refuse(key, what, f"it is more than {MAX_DEPTH} objects and lists deep")
    return cast("dict[str, Any]", document)


def _decode_in_slices(part: Any, depth: int) -> Generator[None, None, Any]:
    """Decode JSON, and yield where others may have their turn.

    Args:
        part: The JSON.
        depth: How many objects and lists it lies in, itself included.

    Raises:
        RecursionError: It is too deep.
    """
    kind = bytes(memoryview(part)[:1])
    if len(part) <= _SLICE or kind not in (b"{", b"["):
        return _decode_slice(part, depth)
    if kind == b"{":
        members: dict[str, Any] = _decode_parts_of_object(part)
        yield
        taken = 0
        for name, inner in members.items():
            members[name] = yield from _decode_in_slices(inner, depth + 1)
            taken += len(inner)
            if taken > _SLICE:
                taken = 0
                yield
        return members
    values: list[Any] = []
    parts = _decode_parts_of_list(part)
    yield
    for run in _runs(parts):
        if len(run) == 1:
            values.append((yield from _decode_in_slices(run[0], depth + 1)))
        else:
            # A call for each of many short ones would cost as much as decoding them.
            values += _decode_slice(b"[%b]" % b",".join(run), depth)
        yield
    return values


def _decode_slice(part: Any, depth: int) -> Any:
    value = _decode_json(part)
    is_container = type(value) is dict or type(value) is list
    if is_container and (depth > MAX_DEPTH or _is_too_deep(value, depth)):
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
            data.removeprefix(_UTF8_BOM).decode(),
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


def _is_too_deep(document: Any, depth: int = 1) -> bool:
    """Whether objects and lists in it lie too deep, if it is itself at this depth.

    What the garbage collector knows tells this at a fifth of the cost of looking at each type: it
    tracks no texts and numbers, and may leave out objects that hold nothing else (Python
    documentation, `gc.is_tracked`), which matter only on the last level.
    """
    level = [document]
    for _ in range(depth, MAX_DEPTH):
        level = list(filter(gc.is_tracked, gc.get_referents(*level)))
        if not level:
            return False
    return any(type(child) in (dict, list) for child in gc.get_referents(*level))


def _take(document: dict[str, Any], name: str, kind: type, key: str, what: str) -> Any:
    """Move a field out of the document, so that what stays behind is what nobody knows."""
    if name not in document:
        _refuse(key, what, f"it has no {name}")
    value = document.pop(name)
    if type(value) is not kind:
        _refuse(key, what, f"its {name} is not {'an object' if kind is dict else 'a string'}")
    return value


def _refuse_fields(extra: object, known: Iterable[str]) -> None:
    if type(extra) is not dict:
        raise SnapshotEncodeError("extra: not a dict")
    for name in known:
        if name in extra:
            raise SnapshotEncodeError(f"extra: {name} is a field of the envelope")


def _refuse(key: str, what: str, why: str) -> NoReturn:
    raise SnapshotDecodeError(f"{key} is not a {what}: {why}", key=key)
