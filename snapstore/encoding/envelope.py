"""JSON to snapshots and back, exactly.

Two spellings of the envelope are read and written, those of the two Strands SDKs. What is inside
`data` is never translated, so what one SDK wrote stays readable by it. Nothing that JSON can't
carry is let through on the way out, and nothing that is not a whole envelope on the way in.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, Final
from weakref import WeakValueDictionary

from snapstore.encoding.documents import (
    UTF8_BOM,
    check_size,
    decode_document,
    encode_document,
    encode_document_in_steps,
    raise_decode_error,
    run_steps,
)
from snapstore.encoding.frames import drop_frames, drop_frames_of_coroutine
from snapstore.encoding.slices import decode_document_in_slices
from snapstore.errors import SnapshotDecodeError, SnapshotEncodeError
from snapstore.model.ids import SCOPES
from snapstore.model.snapshot import Dialect, RawSnapshot, Snapshot, SnapshotManifest

__all__ = [
    "decode_manifest",
    "decode_raw_snapshot",
    "decode_raw_snapshot_in_slices",
    "decode_snapshot",
    "decode_snapshot_in_slices",
    "encode_manifest",
    "encode_snapshot",
    "encode_snapshot_in_steps",
]

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
_LABELS: Final = {"appData": "app_data"}

_validated: WeakValueDictionary[int, RawSnapshot] = WeakValueDictionary()
"""The raw snapshots that were made here, by their ids: they need not be decoded to be saved."""


@drop_frames
def encode_snapshot(snapshot: Snapshot | RawSnapshot, *, max_bytes: int) -> bytes:
    """Write a snapshot as compact JSON, in its own dialect's envelope.

    Args:
        snapshot: The snapshot. Tuples in it are written as lists; a raw one is written as it is.
        max_bytes: How many bytes the document may have.

    Raises:
        SnapshotEncodeError: It holds a value that JSON can't carry exactly, is more than 200
            objects and lists deep, or larger than `max_bytes`; another thread changes it all the
            while; or a raw one is not what it says.
    """
    return run_steps(encode_snapshot_in_steps(snapshot, max_bytes=max_bytes))


def encode_snapshot_in_steps(
    snapshot: Snapshot | RawSnapshot, *, max_bytes: int
) -> Generator[None, None, bytes]:
    """Write a snapshot as `encode_snapshot` does, and yield between the steps of a large one.

    What is written is what it was when it first yields. Its errors have frames that hold it.

    Args and errors: as `encode_snapshot`.
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
    _validate_fields(snapshot.extra, _ONLY_TYPESCRIPT | _ONLY_PYTHON | envelope.keys())
    document = {theirs: getattr(snapshot, ours) for theirs, ours in envelope.items()}
    return (yield from encode_document_in_steps(document | snapshot.extra, max_bytes, _LABELS))


def _encode_raw(snapshot: RawSnapshot, max_bytes: int) -> bytes:
    """The document of a raw snapshot, which anybody may have made."""
    if not isinstance(snapshot.document, bytes):
        raise SnapshotEncodeError("document: not bytes")
    if _validated.get(id(snapshot)) is snapshot:
        return check_size(snapshot.document, max_bytes)
    problem = "document: its envelope is not that of the RawSnapshot"
    try:
        if decode_raw_snapshot(snapshot.document, key="document") == snapshot:
            return check_size(snapshot.document, max_bytes)
    except SnapshotDecodeError as error:
        problem = str(error)
    raise SnapshotEncodeError(problem)


@drop_frames
def decode_snapshot(data: bytes, *, key: str) -> Snapshot:
    """Read a snapshot from JSON of any layout, in either dialect.

    Args:
        data: The stored bytes.
        key: Where they were stored, for the error.

    Raises:
        SnapshotDecodeError: They are not one whole snapshot: not JSON in UTF-8, not an envelope
            of one dialect with every field of the right type, or more than 200 objects and lists
            deep.
    """
    return _snapshot_of(decode_document(data, key, "snapshot"), key)


@drop_frames_of_coroutine
async def decode_snapshot_in_slices(data: bytes, *, key: str) -> Snapshot:
    """Read a snapshot as `decode_snapshot` does, and let the event loop run every few milliseconds.

    Args and errors: as `decode_snapshot`.
    """
    return _snapshot_of(await decode_document_in_slices(data, key, "snapshot"), key)


@drop_frames
def decode_raw_snapshot(data: bytes, *, key: str) -> RawSnapshot:
    """Read the envelope of a snapshot, after a look at all of it.

    Args and errors: as `decode_snapshot`.
    """
    return _raw_snapshot_of(decode_document(data, key, "snapshot"), data, key)


@drop_frames_of_coroutine
async def decode_raw_snapshot_in_slices(data: bytes, *, key: str) -> RawSnapshot:
    """Read as `decode_raw_snapshot` does, and let the event loop run every few milliseconds.

    It takes the memory of a slice.

    Args and errors: as `decode_snapshot`.
    """
    document = await decode_document_in_slices(data, key, "snapshot", keep=False)
    return _raw_snapshot_of(document, data, key)


def _raw_snapshot_of(document: dict[str, Any], data: bytes, key: str) -> RawSnapshot:
    snapshot = _snapshot_of(document, key)
    # `removeprefix` would give plain bytes, which show themselves.
    text = type(data)(data.removeprefix(UTF8_BOM)) if data.startswith(UTF8_BOM) else data
    raw = RawSnapshot(
        text,
        snapshot.scope,
        snapshot.schema_version,
        snapshot.created_at,
        snapshot.dialect,
    )
    _validated[id(raw)] = raw
    return raw


def _snapshot_of(document: dict[str, Any], key: str) -> Snapshot:
    if not document.keys().isdisjoint(_ONLY_TYPESCRIPT):
        if not document.keys().isdisjoint(_ONLY_PYTHON):
            raise_decode_error(key, "snapshot", "its envelope mixes the spellings of two SDKs")
        dialect: Dialect = "typescript"
    elif not document.keys().isdisjoint(_ONLY_PYTHON):
        dialect = "python"
        # What that SDK fills in when it reads (strands.types._snapshot.Snapshot.from_dict).
        document.setdefault("scope", "agent")
        document.setdefault("app_data", {})
    else:
        raise_decode_error(key, "snapshot", "it has no envelope")
    fields = {
        ours: _take(document, theirs, _KINDS[ours], key, "snapshot")
        for theirs, ours in _ENVELOPES[dialect].items()
    }
    if fields["scope"] not in SCOPES:
        raise_decode_error(key, "snapshot", "its scope is neither 'agent' nor 'multiAgent'")
    return Snapshot(**fields, dialect=dialect, extra=document)


@drop_frames
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
    _validate_fields(manifest.extra, document.keys())
    return encode_document(document | manifest.extra, max_bytes)


@drop_frames
def decode_manifest(data: bytes, *, key: str) -> SnapshotManifest:
    """Read a manifest from JSON.

    Raises:
        SnapshotDecodeError: The bytes are not one whole manifest.
    """
    document = decode_document(data, key, "manifest")
    return SnapshotManifest(
        schema_version=_take(document, "schemaVersion", str, key, "manifest"),
        updated_at=_take(document, "updatedAt", str, key, "manifest"),
        extra=document,
    )


def _take(document: dict[str, Any], name: str, kind: type, key: str, what: str) -> Any:
    """Move a field out of the document, so that what stays behind is what nobody knows."""
    if name not in document:
        raise_decode_error(key, what, f"it has no {name}")
    value = document.pop(name)
    if type(value) is not kind:
        raise_decode_error(
            key, what, f"its {name} is not {'an object' if kind is dict else 'a string'}"
        )
    return value


def _validate_fields(extra: object, known: Iterable[str]) -> None:
    if type(extra) is not dict:
        raise SnapshotEncodeError("extra: not a dict")
    for name in known:
        if name in extra:
            raise SnapshotEncodeError(f"extra: {name} is a field of the envelope")
