"""Error trackers send the local variables of frames: ours hold no text of a snapshot."""

import asyncio
import json
import traceback

import pytest

from snapstore import (
    ObjectSnapshotStorage,
    RawSnapshot,
    ScopeMismatchError,
    Snapshot,
    SnapshotDecodeError,
    SnapshotEncodeError,
    SnapshotLocation,
    SnapshotManifest,
)
from snapstore.encoding import slices
from snapstore.encoding.documents import decode_document, encode_json
from snapstore.encoding.envelope import (
    decode_manifest,
    decode_raw_snapshot,
    decode_raw_snapshot_in_slices,
    decode_snapshot,
    decode_snapshot_in_slices,
    encode_manifest,
    encode_snapshot,
)
from snapstore.stores.memory import MemoryObjectStore

CANARY = "c4n4ry text"  # not a plain name, which a path would show
LOCATION = SnapshotLocation.agent("s", "a")
GOOD = {
    "scope": "agent",
    "schemaVersion": "1.0",
    "createdAt": "now",
    "data": {"messages": [CANARY] * 3, CANARY: {CANARY: [CANARY]}},
    "appData": {CANARY: CANARY},
}


def shown_by(error):
    """All that the frames of snapstore, and of what is in the chain, would show."""
    shown, chain = [], [error]
    while chain:
        link = chain.pop()
        if link is None:
            continue
        shown += [str(link), repr(link), repr(link.args), repr(vars(link))]
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if frame.f_globals["__name__"].startswith("snapstore"):
                shown += [f"{name}={value!r}" for name, value in frame.f_locals.items()]
        chain += [link.__cause__, link.__context__]
    return "\n".join(shown)


def error_of(function, *arguments, **options):
    try:
        result = function(*arguments, **options)
        if asyncio.iscoroutine(result):
            asyncio.run(result)
    except (SnapshotDecodeError, SnapshotEncodeError) as error:
        return error
    raise AssertionError("no error")


def body_with(value):
    return json.dumps({**GOOD, "later": 0}).encode().replace(b'"later": 0', b'"later": ' + value)


BODIES = {
    "empty": b"",
    "cut": json.dumps(GOOD).encode()[:-1],
    "two": json.dumps(GOOD).encode() * 2,
    "not UTF-8": json.dumps(GOOD).encode().replace(CANARY.encode(), CANARY.encode() + b"\xff"),
    "NaN": body_with(b"NaN"),
    "NaN and a surrogate": body_with(rb'["\ud83d",NaN]'),
    "out of range": body_with(b"1e400"),
    "deep": body_with(b"[" * 300 + b'"c4n4ry text"' + b"]" * 300),
    "very deep": body_with(b"[" * 100_000),
    "a list": json.dumps([GOOD]).encode(),
    "a surrogate in a list": json.dumps(["\ud83d", GOOD]).encode(),
    "no envelope": json.dumps({"data": GOOD}).encode(),
    "no data": json.dumps({key: GOOD[key] for key in GOOD if key != "data"}).encode(),
    "data a text": json.dumps({**GOOD, "data": CANARY}).encode(),
    "a scope unknown": json.dumps({**GOOD, "scope": CANARY}).encode(),
    "mixed": json.dumps({**GOOD, "app_data": {CANARY: 1}}).encode(),
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("size", ["small", "sliced"])
@pytest.mark.parametrize(
    "decode",
    [
        decode_snapshot,
        decode_raw_snapshot,
        decode_manifest,
        decode_snapshot_in_slices,
        decode_raw_snapshot_in_slices,
    ],
)
def test_an_error_of_decoding_has_no_frame_with_text(decode, kind, size, monkeypatch):
    if size == "sliced":
        monkeypatch.setattr(slices, "_SLICE", 16)
    error = error_of(decode, BODIES[kind], key="key-1")
    assert CANARY not in shown_by(error)
    assert error.__context__ is None


def test_decode_error_of_any_document_has_no_text_in_frames():
    error = error_of(decode_document, BODIES["cut"], "key-1", "snapshot")
    assert CANARY not in shown_by(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {CANARY: [CANARY, {1}]}},
        {"data": {CANARY: [CANARY, {1: CANARY}]}},
        {"data": {"a": [CANARY, float("nan")]}},
        {"data": {"a": CANARY.encode()}},
        {"data": {"\ud83d\ude00": CANARY, "\U0001f600": CANARY}},
        {"data": {"\ud83d": CANARY, "b": {1}}},
        {"data": [CANARY]},
        {"app_data": {CANARY: {CANARY}}},
        {"extra": {"data": CANARY}},
        {"extra": {CANARY: {1}}},
        {"scope": CANARY},
        {"created_at": [CANARY]},
    ],
)
def test_an_error_of_encoding_has_no_frame_with_text(changes):
    fields = {
        "scope": "agent",
        "schema_version": "1.0",
        "created_at": "now",
        "data": {CANARY: CANARY},
        "app_data": {CANARY: CANARY},
    }
    snapshot = Snapshot(**(fields | changes))
    assert CANARY not in shown_by(error_of(encode_snapshot, snapshot, max_bytes=2**20))


def test_an_error_of_size_has_no_frame_with_text():
    snapshot = Snapshot.new({CANARY: [CANARY] * 100})
    assert CANARY not in shown_by(error_of(encode_snapshot, snapshot, max_bytes=200))


def test_an_error_of_other_content_has_no_frame_with_text():
    assert CANARY not in shown_by(error_of(encode_json, [CANARY, {CANARY: {1}}]))
    manifest = SnapshotManifest("1.0", "now", {CANARY: {CANARY}})
    assert CANARY not in shown_by(error_of(encode_manifest, manifest, max_bytes=2**20))
    raw = RawSnapshot(BODIES["cut"], "agent", "1.0", "now", "typescript")
    assert CANARY not in shown_by(error_of(encode_snapshot, raw, max_bytes=2**20))


async def test_a_save_that_is_refused_has_no_frame_with_text():
    async with ObjectSnapshotStorage(MemoryObjectStore()) as storage:
        for data, scope, kind in (
            ({CANARY: {1}}, "agent", SnapshotEncodeError),
            ({CANARY: CANARY}, "multiAgent", ScopeMismatchError),
        ):
            snapshot = Snapshot.new(data, scope=scope)
            for save in (storage.save_snapshot, storage.checkpoint):
                options = {} if save == storage.checkpoint else {"is_latest": True}
                with pytest.raises(kind) as caught:
                    await save(location=LOCATION, snapshot=snapshot, **options)
                assert CANARY not in shown_by(caught.value)


async def test_a_cancelled_decoding_has_no_frame_with_text(monkeypatch):
    monkeypatch.setattr(slices, "_SLICE", 16)
    decoding = asyncio.create_task(
        decode_snapshot_in_slices(json.dumps(GOOD).encode(), key="key-1")
    )
    await asyncio.sleep(0)
    decoding.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await decoding
    assert CANARY not in shown_by(caught.value)
