"""`redact`: a text is found nowhere afterwards, and nothing else has changed."""

import asyncio
import json
import os
import uuid

import msgspec
import pytest

from histories import location_of
from snapstore import (
    FileStorage,
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    S3Storage,
    Snapshot,
    SnapshotEncodeError,
    SnapshotExistsError,
    SnapshotManifest,
)
from snapstore.operations import redact, redaction, verify
from snapstore.stores import MemoryObjectStore
from snapstore.testing import FaultyObjectStore
from snapstore.testing.server import create_bucket

CANARY = "canary-Zürich-51b0"
ASCII = json.dumps(CANARY)[1:-1]
CHANGE = redaction([CANARY])
LOCATION = location_of("s-1")


def snapshot(turn):
    """A snapshot that has the canary in every kind of place."""
    data = {
        "messages": [
            {"role": "user", "content": [{"text": f"I am {CANARY}."}, {"n": turn}]},
            {"role": "assistant", "content": [{"toolUse": {"input": {CANARY: [CANARY]}}}]},
        ],
        "state": {f"key {CANARY}": 0.1, "big": 2**70, "other": None},
    }
    made = Snapshot.new(data, app_data={"user": CANARY, "plain": 1})
    return msgspec.structs.replace(made, extra={"newField": {"deep": [CANARY]}})


async def write_session(storage, session_id="s-1"):
    location = location_of(session_id)
    ids = []
    for turn in range(3):
        saved = await storage.checkpoint(location=location, snapshot=snapshot(turn))
        ids.append(saved.snapshot_id)
    manifest = SnapshotManifest("1.0", "then", {"note": CANARY})
    await storage.save_manifest(location=location, manifest=manifest)
    layout = storage.layout
    put = storage.objects.put
    await put(f"{layout.stash_prefix(session_id)}text", f"# {CANARY}\n".encode())
    await put(f"{layout.stash_prefix(session_id)}json", json.dumps([{CANARY: CANARY}]).encode())
    await put(f"{layout.stash_prefix(session_id)}image", b"\x89PNG\xff" + CANARY.encode())
    await put(layout.damaged(location, "x.json"), f'{{"text":"{CANARY}'.encode())
    await put(f"{layout.session_prefix(session_id)}note", CANARY.encode())
    return ids


async def bodies(storage, prefixes=("",)):
    found = {}
    for prefix in prefixes:
        full = storage.layout.sessions_prefix + prefix
        async for page in storage.objects.scan(full):
            for key in page:
                found[key] = (await storage.objects.get(key, max_bytes=2**20)).data
    return found


def has_canary(body):
    return CANARY.encode() in body or ASCII.encode() in body


async def test_the_text_is_nowhere_and_nothing_else_has_changed(storage):
    ids = await write_session(storage)
    await write_session(storage, "s-10")
    others = await bodies(storage, ["s-10/", "context/s-10/"])
    before = await bodies(storage, ["s-1/", "context/s-1/"])
    assert all(map(has_canary, before.values()))

    operation = redact(storage, session_id="s-1", change=CHANGE)
    async with operation:
        events = [event async for event in operation]

    after = await bodies(storage, ["s-1/", "context/s-1/"])
    assert after.keys() == before.keys()
    assert not any(map(has_canary, after.values()))
    assert await bodies(storage, ["s-10/", "context/s-10/"]) == others
    assert operation.report.passes == 2
    assert operation.report.redacted == len(before) == 10
    assert CANARY not in str([*events, operation.report])
    latest = await storage.load_versioned(location=LOCATION)
    if not isinstance(storage, FileStorage):
        assert latest.snapshot_id == ids[-1]
    assert latest.snapshot.data["state"]["big"] == 2**70
    assert latest.snapshot.data["messages"][0]["content"] == [
        {"text": "I am [redacted]."},
        {"n": 2},
    ]
    assert latest.snapshot.extra == {"newField": {"deep": ["[redacted]"]}}
    assert latest.snapshot.app_data == {"user": "[redacted]", "plain": 1}
    assert await storage.list_snapshot_ids(location=LOCATION) == ids
    with pytest.raises(SnapshotExistsError):
        await storage.save_snapshot(
            location=LOCATION, snapshot=snapshot(0), is_latest=False, snapshot_id=ids[0]
        )
    if isinstance(storage, MemoryStorage):
        kinds = {finding.kind for finding in [f async for f in verify(storage, sessions=["s-1"])]}
        assert kinds == {"set aside", "foreign object"}


async def test_a_dry_run_changes_nothing_and_names_places(storage):
    ids = await write_session(storage)
    before = await bodies(storage)
    operation = redact(storage, session_id="s-1", change=CHANGE, dry_run=True)
    async with operation:
        events = {event.key: event async for event in operation}
    assert await bodies(storage) == before
    assert operation.report.is_clean is None
    event = events[storage.layout.history(LOCATION, ids[0])]
    assert event.result == "planned"
    assert set(event.places) >= {
        "data.messages[0].content[0].text",
        "data.messages[1].content[0].toolUse.input.*",
        "appData.user",
        "newField.deep[0]",
    }


async def test_what_does_not_have_it_is_not_written(storage):
    await storage.checkpoint(location=LOCATION, snapshot=Snapshot.new({"n": 1}))
    before = await bodies(storage)
    report = await redact(storage, session_id="s-1", change=CHANGE).run()
    assert await bodies(storage) == before
    assert (report.redacted, report.passes) == (0, 1)
    none = await redact(storage, session_id="none", change=CHANGE).run()
    assert none.objects == 0


async def versions_of(client, bucket):
    found = []
    async for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for one in page.get("Versions", []):
            read = await client.get_object(
                Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"]
            )
            async with read["Body"] as body:
                found.append((one["Key"], await body.read()))
    return found


@pytest.mark.seaweedfs
@pytest.mark.moto
async def test_in_no_version_of_a_versioned_bucket_either(s3_server, s3_client):
    bucket = f"versions-{uuid.uuid4().hex}"
    create_bucket(s3_server, bucket)
    await s3_client.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    async with S3Storage(bucket, **s3_server.storage_options) as storage:
        ids = await write_session(storage)
        await storage.objects.delete([storage.layout.history(LOCATION, ids[0])])
        report = await redact(storage, session_id="s-1", change=CHANGE, erase_versions=False).run()
        assert report.is_clean is None
        assert any(has_canary(body) for _, body in await versions_of(s3_client, bucket))
        report = await redact(storage, session_id="s-1", change=CHANGE).run()
        assert report.ok
        assert report.versions > 0
        assert not any(has_canary(body) for _, body in await versions_of(s3_client, bucket))
        assert await storage.list_snapshot_ids(location=LOCATION) == ids[1:]
        assert await storage.load_snapshot(location=LOCATION, snapshot_id=ids[0]) is None


@pytest.mark.ceph  # it writes nothing on a condition in a versioned bucket
async def test_what_can_not_be_written_is_not_clean(s3_server, s3_client):
    bucket = f"versions-{uuid.uuid4().hex}"
    create_bucket(s3_server, bucket)
    await s3_client.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    async with S3Storage(bucket, **s3_server.storage_options) as storage:
        await write_session(storage)
        operation = redact(storage, session_id="s-1", change=CHANGE, erase_versions=False)
        async with operation:
            results = {event.result async for event in operation}
        assert results == {"changed"}
        assert operation.report.is_clean is False


async def test_a_dry_run_names_versions_too(s3_server, s3_client):
    bucket = f"versions-{uuid.uuid4().hex}"
    create_bucket(s3_server, bucket)
    await s3_client.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    async with S3Storage(bucket, **s3_server.storage_options) as storage:
        await write_session(storage)
        operation = redact(storage, session_id="s-1", change=CHANGE, dry_run=True)
        async with operation:
            events = [event async for event in operation]
        planned = [event for event in events if event.version_id is not None]
        # Two earlier versions of latest.
        assert {event.key for event in planned} == {storage.layout.latest(LOCATION)}
        assert {event.result for event in planned} == {"planned"}
        assert operation.report.versions == len(planned) == 2
        assert len(await versions_of(s3_client, bucket)) == 12


@pytest.mark.seaweedfs
@pytest.mark.moto
async def test_a_dry_run_names_the_versions_of_a_session_that_was_deleted(s3_server, s3_client):
    bucket = f"versions-{uuid.uuid4().hex}"
    create_bucket(s3_server, bucket)
    await s3_client.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    async with S3Storage(bucket, **s3_server.storage_options) as storage:
        await write_session(storage)
        await storage.delete_session(session_id="s-1")

        async def run(**options):
            operation = redact(storage, session_id="s-1", change=CHANGE, **options)
            async with operation:
                found = {(e.key, e.version_id) async for e in operation if e.version_id is not None}
            return found, operation.report

        kept, report = await run(dry_run=True, erase_versions=False)
        assert (kept, report.versions) == (set(), 0)
        kept, report = await run(erase_versions=False)
        assert (kept, report.versions, report.is_clean) == (set(), 0, None)
        planned, dry = await run(dry_run=True)
        erased, report = await run()
    assert planned == erased
    assert dry.versions == report.versions == len(erased) == 12
    assert not any(has_canary(body) for _, body in await versions_of(s3_client, bucket))


HIDDEN = {
    "in a name that comes twice": b'{"a":"canary-1","a":"x"}',
    "in a name that comes twice, deep": b'[{"b":[{"a":{"x":"canary-1"},"a":1}]}]',
    "escaped, in a name that comes twice": b'{"a":"c\\u0061nary-1","a":"x"}',
    "after a byte order mark": b'\xef\xbb\xbf{"a":"canary-1"}',
    "escaped, after a byte order mark": b'\xef\xbb\xbf{"a":"c\\u0061nary-1"}',
    "in many lines": b'{\n  "a": "canary-1"\n}',
    "as a text": b'"canary-1"',
}


@pytest.mark.parametrize("content", HIDDEN.values(), ids=HIDDEN.keys())
async def test_what_a_reader_of_json_does_not_see_is_gone_too(storage, content):
    key = f"{storage.layout.stash_prefix('s-1')}content"
    await storage.objects.put(key, content)
    report = await redact(storage, session_id="s-1", change=redaction(["canary-1"])).run()
    assert report.is_clean is not False
    body = (await storage.objects.get(key, max_bytes=999)).data
    assert b"canary-1" not in body
    assert b"nary-1" not in body
    if not body.startswith(b"["):
        json.loads(body.removeprefix(b"\xef\xbb\xbf"))


async def test_digits_of_numbers_are_found(storage):
    await storage.checkpoint(
        location=LOCATION, snapshot=Snapshot.new({"card": 4111111111111111, "n": [1.5, True, 42]})
    )
    change = redaction(["4111111111111111"], patterns=[r"\b1\.5\b"])
    report = await redact(storage, session_id="s-1", change=change).run()
    assert report.is_clean is not False
    loaded = await storage.load_snapshot(location=LOCATION)
    assert loaded.data == {"card": "[redacted]", "n": ["[redacted]", True, 42]}


async def test_text_of_the_syntax_of_json_is_written_once(storage):
    key = f"{storage.layout.stash_prefix('s-1')}content"
    await storage.objects.put(key, b'{"a": [1, null]}')
    report = await redact(storage, session_id="s-1", change=redaction(["null", ": "])).run()
    assert report.passes <= 2
    assert json.loads((await storage.objects.get(key, max_bytes=99)).data) == {"a": [1, None]}


async def test_a_key_that_has_the_text_is_named_and_not_clean(storage):
    key = f"{storage.layout.stash_prefix('s-1')}canary-1/x"
    await storage.objects.put(key, b"canary-1")
    operation = redact(storage, session_id="s-1", change=redaction(["canary-1"]))
    async with operation:
        events = [event async for event in operation]
    assert [(event.key, event.result) for event in events] == [(key, "redacted"), (key, "named")]
    assert operation.report.is_clean is False


async def test_without_erasing_versions_it_is_not_said_to_be_clean(storage):
    await write_session(storage)
    operation = redact(storage, session_id="s-1", change=CHANGE, erase_versions=False)
    assert (await operation.run()).is_clean is None


async def test_what_an_interrupted_write_has_left_in_a_directory_is_removed(tmp_path):
    async with FileStorage(tmp_path) as storage:
        await write_session(storage)
        folder = (tmp_path / storage.layout.latest(LOCATION)).parent
        left = folder / f".snapstore-{uuid.uuid4().hex}"
        names = {path.name for path in folder.rglob("*")}
        left.write_text(CANARY)
        os.utime(left, (0, 0))
        await redact(storage, session_id="s-1", change=CHANGE).run()
        assert {path.name for path in folder.rglob("*")} == names


async def test_what_is_saved_meanwhile_is_kept_and_redacted_too():
    for step in range(1, 200):
        store = FaultyObjectStore(MemoryObjectStore())
        async with ObjectSnapshotStorage(store) as storage:
            await write_session(storage)
            calls, saved = 0, []

            async def save(_):
                nonlocal calls
                calls += 1
                if calls == step:  # noqa: B023
                    async with ObjectSnapshotStorage(store.inner) as writer:  # noqa: B023
                        done = await writer.checkpoint(location=LOCATION, snapshot=snapshot(99))
                        saved.append(done.snapshot_id)  # noqa: B023

            store.fault = save
            await redact(storage, session_id="s-1", change=CHANGE).run()
            if calls < step:
                break
            # What comes when the last pass has gone by is for the next redaction.
            await redact(storage, session_id="s-1", change=CHANGE).run()
            assert not any(map(has_canary, store.inner.objects.values()))
            latest = await storage.load_versioned(location=LOCATION)
            assert latest.snapshot_id == saved[0]
            assert latest.snapshot.data["messages"][0]["content"][1] == {"n": 99}
    assert step > 30


def breaks(value):
    return {"something": "else"} if isinstance(value, dict) and "scope" in value else value


def grows(value):
    if isinstance(value, dict) and "data" in value:
        return {**value, "data": {"x": "y" * 5_000}}
    return value


@pytest.mark.parametrize("change", [breaks, grows, lambda _: "text", lambda _: None])
async def test_a_change_that_breaks_a_snapshot_is_refused(change):
    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store, max_snapshot_bytes=3_000) as storage:
        await storage.checkpoint(location=LOCATION, snapshot=snapshot(1))
        before = dict(store.objects)
        with pytest.raises(SnapshotEncodeError) as caught:
            await redact(storage, session_id="s-1", change=change).run()
        assert CANARY not in str(caught.value)
        assert store.objects == before


async def test_a_change_that_never_ends_is_said_not_to_be_clean():
    def changes(value):
        return f"{value}." if isinstance(value, str) else value

    async with MemoryStorage() as storage:
        await storage.objects.put(f"{storage.layout.stash_prefix('s-1')}a", b"text")
        report = await redact(storage, session_id="s-1", change=changes).run()
    assert report.passes == 8
    assert report.is_clean is False


async def test_what_change_raises_comes_through_and_what_was_done_stays():
    class StopError(Exception):
        pass

    def stops(value):
        raise StopError

    async with MemoryStorage() as storage:
        await storage.checkpoint(location=LOCATION, snapshot=snapshot(1))
        before = asyncio.all_tasks()
        with pytest.raises(StopError):
            await redact(storage, session_id="s-1", change=stops).run()
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    ("texts", "options", "error", "words"),
    [
        ([], {}, ValueError, "nothing to replace"),
        ("one", {}, TypeError, "several texts"),
        ([""], {}, ValueError, "empty"),
        ([], {"patterns": ["x*"]}, ValueError, "matches the empty text"),
        (["a"], {"replacement": "bad"}, ValueError, "has what is to be replaced"),
        ([], {"patterns": ["[a-z]+"]}, ValueError, "has what is to be replaced"),
    ],
)
def test_a_redaction_that_makes_no_sense_is_refused(texts, options, error, words):
    with pytest.raises(error, match=words):
        redaction(texts, **options)


def test_longer_texts_go_first_and_keys_stay_apart():
    change = redaction(["Jane", "Jane Doe"], patterns=[r"\d{4}-\d{4}"], replacement="*")
    assert change("Jane Doe, Jane, 1234-5678") == "*, *, *"
    assert change({"Jane": 1, "Jane Doe": 2, "*": 3, "x": ["Jane"]}) == {
        "* (2)": 1,
        "* (3)": 2,
        "*": 3,
        "x": ["*"],
    }
    assert change(b"\xffJane Doe") == b"\xff*"
    assert [change(value) for value in (1, 1.5, True, None)] == [1, 1.5, True, None]
    once = change({"Jane": 1})
    assert change(once) == once
    assert "Jane" not in repr(change)


@pytest.mark.parametrize("pattern", [r"(?=Jane)", r"(?=Jane)|Doe"])
def test_a_pattern_that_matches_nothing_at_a_place_replaces_nothing_there(pattern):
    change = redaction(patterns=[pattern])
    assert change("Jane") == "Jane"
    assert change(change("Jane Doe")) == change("Jane Doe")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"session_id": "S", "change": CHANGE}, InvalidIdentifierError),
        ({"session_id": "s", "change": "text"}, TypeError),
        ({"session_id": "s", "change": CHANGE, "max_requests_per_second": 0}, ValueError),
    ],
)
def test_bad_input_is_refused(arguments, error):
    with pytest.raises(error):
        redact(MemoryStorage(), **arguments)
