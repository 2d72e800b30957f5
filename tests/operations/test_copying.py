"""`copy`: the target has what the source has, byte for byte, and loses nothing of its own."""

import asyncio
import re
import tracemalloc
from contextlib import asynccontextmanager, suppress
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copies import KINDS, bodies, collected, contents, opened, results, write_session
from examples import examples
from snapstore import (
    FileStorage,
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    S3Storage,
    Snapshot,
    SnapshotLocation,
    StorageClosedError,
    StorageUnavailableError,
)
from snapstore.operations import (
    CopyEvent,
    RetentionPolicy,
    apply_copies,
    copy,
    decode_events,
    encode_event,
    prune,
)
from snapstore.stores import MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault

LOCATION = SnapshotLocation.agent("s-1", "weather")
PREFIXES = [("", ""), ("prod", "session"), ("session", "backup"), ("a/session", "session")]


class SixMethods:
    """A store that can do nothing but what every store can."""

    name = "six methods"

    def __init__(self, store):
        self._store = store
        for method in ("open", "aclose", "get", "put", "scan", "delete"):
            setattr(self, method, getattr(store, method))


@pytest.fixture(params=[(one, other) for one in KINDS for other in KINDS], ids="-to-".join)
async def pair(request, tmp_path):
    one, other = request.param
    async with (
        opened(one, request, tmp_path, "one") as source,
        opened(other, request, tmp_path, "other") as target,
    ):
        yield source, target


@asynccontextmanager
async def memories(source_prefix="", target_prefix="", **faults):
    """Two storages in memory; faults are those of the source, or of the target."""
    stores = [FaultyObjectStore(MemoryObjectStore()) for _ in range(2)]
    async with (
        ObjectSnapshotStorage(stores[0], prefix=source_prefix) as source,
        ObjectSnapshotStorage(stores[1], prefix=target_prefix) as target,
    ):
        yield source, target


def calls_of(storage):
    return storage.objects.store.calls


async def test_all_of_each_session_is_copied_byte_for_byte(pair):
    source, target = pair
    for session_id in ("s-1", "s-10"):
        await write_session(source, session_id)

    report = await copy(source, target).run()

    assert report.ok
    assert (report.sessions, report.copied, report.equal) == (2, 24, 0)
    for session_id in ("s-1", "s-10"):
        expected = await contents(source, session_id)
        found = await contents(target, session_id)
        assert len(expected) == 12
        assert bodies(found) == bodies(expected)
        if ... not in {origin for found in (expected, found) for _, origin in found.values()}:
            assert found == expected  # with the origins of latest snapshots
    again = await copy(source, target).run()
    assert (again.copied, again.equal, again.ok) == (0, 24, True)


@pytest.mark.parametrize(("one", "other"), PREFIXES)
async def test_the_stash_goes_to_where_the_target_has_it(one, other):
    async with memories(one, other) as (source, target):
        await write_session(source)
        await copy(source, target).run()
        assert await contents(target) == await contents(source)
        keys = list(target.objects.store.inner.objects)
    assert f"{target.layout.stash_prefix('s-1')}a/offloaded" in keys


async def test_only_the_sessions_that_are_named_are_copied():
    async with memories() as (source, target):
        for session_id in ("s-1", "s-2", "s-3"):
            await write_session(source, session_id)

        async def ids():
            yield "s-3"

        await copy(source, target, sessions=["s-1", "s-1"]).run()
        await copy(source, target, sessions=ids()).run()
        assert [one async for one in target.iter_sessions()] == ["s-1", "s-3"]


async def test_a_session_that_does_not_exist_is_an_event():
    async with memories() as (source, target):
        await source.objects.put("backups/2026.zip", b"no session")
        operation = copy(source, target, sessions=["backups"])
        events = await collected(operation)
        assert [(event.key, event.result) for event in events] == [("backups/", "missing")]
        assert (operation.report.missing, operation.report.sessions) == (1, 0)
        assert target.objects.store.inner.objects == {}


async def test_what_is_new_comes_with_the_next_copy_and_costs_no_reading_of_the_rest():
    async with memories() as (source, target):
        await write_session(source, turns=20)
        await copy(source, target).run()
        await source.checkpoint(location=LOCATION, snapshot=Snapshot.new({"turn": "new"}))
        calls_of(source).clear()
        calls_of(target).clear()
        report = await copy(source, target, on_conflict="overwrite").run()
        assert (report.copied, report.replaced, report.ok) == (1, 1, True)
        read = [call.keys[0] for call in calls_of(source) if call.operation == "get"]
        assert len([key for key in read if "immutable_history" in key]) == 1
        read = [call.keys[0] for call in calls_of(target) if call.operation == "get"]
        assert not [key for key in read if "immutable_history" in key or "context/" in key]
        assert await contents(target) == await contents(source)


async def test_another_latest_is_a_conflict_and_nothing_of_it_changes():
    async with memories() as (source, target):
        await write_session(source)
        await target.save_snapshot(location=LOCATION, snapshot=Snapshot.new({}), is_latest=True)
        kept = target.objects.store.inner.objects[target.layout.latest(LOCATION)]
        operation = copy(source, target)
        events = await collected(operation)
        assert results(events) == ["conflict"] + ["copied"] * 11
        [conflict] = [event for event in events if event.result == "conflict"]
        assert conflict.key == source.layout.latest(LOCATION)
        assert (operation.report.conflicts, operation.report.ok) == (1, False)
        assert target.objects.store.inner.objects[target.layout.latest(LOCATION)] == kept
        report = await copy(source, target, on_conflict="overwrite").run()
        assert (report.replaced, report.ok) == (1, True)
        assert await contents(target) == await contents(source)


@pytest.mark.parametrize("on_conflict", ["error", "overwrite"])
async def test_history_is_never_overwritten_and_its_latest_is_held(on_conflict):
    async with memories() as (source, target):
        await write_session(source)
        [first, *_] = await source.list_snapshot_ids(location=LOCATION)
        await target.save_snapshot(
            location=LOCATION, snapshot=Snapshot.new({}), is_latest=False, snapshot_id=first
        )
        kept = dict(target.objects.store.inner.objects)
        operation = copy(source, target, on_conflict=on_conflict)
        events = await collected(operation)
        assert {event.key: event.result for event in events if event.result != "copied"} == {
            source.layout.history(LOCATION, first): "conflict",
            source.layout.latest(LOCATION): "held",
        }
        assert not operation.report.ok
        assert kept.items() <= target.objects.store.inner.objects.items()
        assert await target.load_snapshot(location=LOCATION) is None


async def test_replaced_is_only_what_was_seen():
    async with memories() as (source, target):
        await write_session(source)
        mine = Snapshot.new({"mine": True})
        await target.save_snapshot(location=LOCATION, snapshot=Snapshot.new({}), is_latest=True)

        async def save_before(call):
            if call.operation == "put" and call.keys == (target.layout.latest(LOCATION),):
                target.objects.store.fault = nothing
                await target.save_snapshot(location=LOCATION, snapshot=mine, is_latest=True)

        target.objects.store.fault = save_before
        events = await collected(copy(source, target, on_conflict="overwrite"))
        assert [event.key for event in events if event.result == "conflict"] == [
            source.layout.latest(LOCATION)
        ]
        assert await target.load_snapshot(location=LOCATION) == mine


async def nothing(call):
    return None


async def test_equal_by_etag_is_enough_unless_bytes_are_asked_for():
    """A server's damage that left size and etag alone is found by `verify`."""
    async with memories() as (source, target):
        await write_session(source)
        await copy(source, target).run()
        [key] = [key for key in target.objects.store.inner.objects if key.endswith("offloaded")]

        class Damaged(MemoryObjectStore):
            async def get(self, key, *, max_bytes):
                stored = await super().get(key, max_bytes=max_bytes)
                if not key.endswith("offloaded"):
                    return stored
                return type(stored)(b"CONTENT", stored.version, stored.metadata)

        damaged = Damaged()
        damaged.objects = target.objects.store.inner.objects
        async with ObjectSnapshotStorage(damaged) as other:
            assert (await copy(source, other).run()).ok
            events = await collected(copy(source, other, verify=True))
        assert [(event.key, event.result) for event in events] == [(key, "conflict")]


@pytest.mark.parametrize("poor", ["source", "target", "both"])
async def test_stores_of_six_methods_do(poor):
    stores = [MemoryObjectStore(), MemoryObjectStore()]
    wrapped = [
        SixMethods(store) if poor in (name, "both") else store
        for name, store in zip(("source", "target"), stores, strict=True)
    ]
    async with (
        ObjectSnapshotStorage(wrapped[0]) as source,
        ObjectSnapshotStorage(wrapped[1]) as target,
    ):
        await write_session(source)
        planned = await collected(copy(source, target, sessions=["s-1"], dry_run=True))
        assert results(planned) == ["planned"] * 12
        assert stores[1].objects == {}
        report = await copy(source, target, sessions=["s-1"]).run()
        assert (report.copied, report.ok) == (12, True)
        assert stores[1].objects == stores[0].objects
        again = await copy(source, target, sessions=["s-1"]).run()
        assert (again.copied, again.equal) == (0, 12)


KEYS = {
    "history": [
        f"s-1/scopes/agent/weather/snapshots/immutable_history/"
        f"snapshot_0000000{n}-0000-7000-8000-000000000000.json"
        for n in range(3)
    ],
    "latest": ["s-1/scopes/agent/weather/snapshots/snapshot_latest.json"],
    "other": [
        "s-1/scopes/agent/weather/snapshots/manifest.json",
        "s-1/note.txt",
        "context/s-1/a",
        "context/s-1/b",
    ],
}
STATES = st.fixed_dictionaries(
    {
        key: st.sampled_from([None, b"one", b"two", b"three"])
        for keys in KEYS.values()
        for key in keys
    }
)


def copied(source, target, *, overwrites):
    """What a target has after a copy: all that `copy` promises, in a few lines."""
    if not any("/scopes/" in key for key in source):
        return target
    result = dict(target)
    clashes = {key for key in source if target.get(key, source[key]) != source[key]}
    for key, body in source.items():
        is_held = key in KEYS["latest"] and clashes & set(KEYS["history"])
        may_replace = overwrites and key not in KEYS["history"]
        if not is_held and (key not in clashes or may_replace):
            result[key] = body
    return result


@given(
    source=STATES,
    target=STATES,
    overwrites=st.booleans(),
    verify=st.booleans(),
    poor=st.tuples(st.booleans(), st.booleans()),
    planned=st.booleans(),
)
@examples(200)
async def test_a_target_has_what_it_should(source, target, overwrites, verify, poor, planned):
    stores = []
    for state in (source, target):
        stores.append(MemoryObjectStore())
        stores[-1].objects.update({key: body for key, body in state.items() if body is not None})
    expected = copied(stores[0].objects, stores[1].objects, overwrites=overwrites)
    before = dict(stores[0].objects)
    wrapped = [
        SixMethods(store) if is_poor else store for store, is_poor in zip(stores, poor, strict=True)
    ]
    async with (
        ObjectSnapshotStorage(wrapped[0]) as one,
        ObjectSnapshotStorage(wrapped[1]) as other,
    ):
        options = {
            "sessions": ["s-1"],
            "verify": verify,
            "on_conflict": "overwrite" if overwrites else "error",
        }
        if planned:
            events = await collected(copy(one, other, dry_run=True, **options))
            report = await apply_copies(one, other, events).run()
        else:
            report = await copy(one, other, **options).run()
    assert stores[1].objects == expected
    assert stores[0].objects == before
    if not planned and "s-1" in {key.split("/")[0] for key in before if "/scopes/" in key}:
        assert report.ok == (before.items() <= expected.items())


# While others write.


async def test_checkpoints_at_every_step_never_yield_a_latest_without_its_history(pair):
    """The source is written before each of its calls; the target is consistent at any time."""
    source, target = pair
    faulty = FaultyObjectStore(source.objects.store)
    await write_session(source)
    seen = []

    async def write(call):
        if not any("weather" in key or key.endswith("s-1/") for key in call.keys):
            return
        snapshot = Snapshot.new({"turn": len(seen)})
        seen.append(await source.checkpoint(location=LOCATION, snapshot=snapshot))

    faulty.fault = write
    faulty.open = faulty.aclose = nothing_at_all
    view = ObjectSnapshotStorage(faulty, prefix=source.layout.sessions_prefix.removesuffix("/"))
    async with view:
        for _ in range(3):
            report = await copy(view, target, sessions=["s-1"], on_conflict="overwrite").run()
            assert not report.conflicts
            await assert_latest_has_its_history(target)
    assert len(seen) > 10


async def nothing_at_all():
    pass


async def assert_latest_has_its_history(storage):
    found = bodies(await contents(storage))
    for (kind, key), body in found.items():
        if key.endswith("snapshot_latest.json") and "agent/" in key:
            history = key.replace("snapshot_latest.json", "immutable_history/")
            documents = {data for (_, other), data in found.items() if other.startswith(history)}
            assert body.rstrip(b" \t") in documents, (kind, key)


async def test_a_session_deleted_at_any_step_leaves_no_latest_without_its_history():
    async with memories() as (source, target):
        await write_session(source)
        await copy(source, target, dry_run=True).run()
        steps = len(calls_of(source))
    assert steps > 10
    for step in range(steps):
        async with memories() as (source, target):
            await write_session(source)
            calls_of(source).clear()

            async def delete(call, source=source, step=step):
                if len(calls_of(source)) == step + 1:
                    source.objects.store.fault = nothing
                    await source.delete_session(session_id="s-1")

            source.objects.store.fault = delete
            await copy(source, target, sessions=["s-1"]).run()
            await assert_latest_has_its_history(target)


@pytest.mark.parametrize("has_origin", [True, False])
async def test_history_that_goes_while_latest_stays_holds_latest(has_origin):
    """As in the middle of a delete, which takes history first."""
    async with memories() as (source, target):
        await write_session(source)
        ids = await source.list_snapshot_ids(location=LOCATION)
        if not has_origin:
            latest = await source.load_snapshot(location=LOCATION)
            await source.save_snapshot(location=LOCATION, snapshot=latest, is_latest=True)

        async def delete(call):
            if call.keys == (source.layout.history(LOCATION, ids[0]),):
                source.objects.store.fault = nothing
                for snapshot_id in ids:
                    del source.objects.store.inner.objects[
                        source.layout.history(LOCATION, snapshot_id)
                    ]

        source.objects.store.fault = delete
        operation = copy(source, target)
        events = await collected(operation)
        assert {event.key: event.result for event in events if "weather" in event.key} == {
            **{source.layout.history(LOCATION, one): "missing" for one in ids},
            source.layout.latest(LOCATION): "changed",
        }
        assert not operation.report.ok
        assert await target.load_snapshot(location=LOCATION) is None
        assert (await copy(source, target).run()).ok  # a session that has no history
        assert await contents(target) == await contents(source)


async def test_a_session_pruned_at_any_step_leaves_no_latest_without_its_history():
    async with memories() as (source, target):
        await write_session(source)
        calls_of(source).clear()
        await copy(source, target, dry_run=True).run()
        steps = len(calls_of(source))
    for step in range(steps):
        async with memories() as (source, target):
            await write_session(source)
            calls_of(source).clear()

            async def renew_and_prune(call, source=source, step=step):
                if len(calls_of(source)) == step + 1:
                    source.objects.store.fault = nothing
                    await source.checkpoint(location=LOCATION, snapshot=Snapshot.new({"n": 1}))
                    await prune(source, RetentionPolicy(keep_last=1)).run()

            source.objects.store.fault = renew_and_prune
            await copy(source, target, sessions=["s-1"]).run()
            await assert_latest_has_its_history(target)
            report = await copy(source, target, sessions=["s-1"], on_conflict="overwrite").run()
            assert report.ok
            await assert_latest_has_its_history(target)


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("fault", [StoreFault(), StoreFault(applied=True)])
async def test_killed_at_every_call_and_run_again_it_ends_the_same(side, fault):
    async with memories() as (source, target):
        await write_session(source)
        await target.save_snapshot(location=LOCATION, snapshot=Snapshot.new({}), is_latest=True)
        calls_of(source).clear()
        calls_of(target).clear()
        await copy(source, target, on_conflict="overwrite").run()
        steps = len(calls_of(source if side == "source" else target))
    assert steps > 10
    for step in range(steps):
        async with memories() as (source, target):
            await write_session(source)
            await target.save_snapshot(location=LOCATION, snapshot=Snapshot.new({}), is_latest=True)
            store = (source if side == "source" else target).objects.store
            store.calls.clear()

            async def fail(call, store=store, step=step):
                return fault if len(store.calls) > step else None

            store.fault = fail
            with suppress(StorageUnavailableError):
                async with asyncio.timeout(60):
                    await copy(source, target, on_conflict="overwrite").run()
            store.fault = nothing
            await assert_latest_has_its_history_or_is_old(target)
            report = await copy(source, target, on_conflict="overwrite").run()
            assert report.ok
            assert await contents(target) == await contents(source)


async def assert_latest_has_its_history_or_is_old(storage):
    latest = await storage.load_snapshot(location=LOCATION)
    if latest is not None and latest.data:
        await assert_latest_has_its_history(storage)


async def test_left_early_it_has_begun_nothing_that_it_did_not_end():
    async with memories() as (source, target):
        await write_session(source, turns=50)
        operation = copy(source, target)
        async with asyncio.timeout(60), operation:
            async for _ in operation:
                break
        await assert_latest_has_its_history(target)
        assert len(target.objects.store.inner.objects) < 60
        assert (await copy(source, target).run()).ok
        assert await contents(target) == await contents(source)


async def yield_to_others(call):
    """As a store does that has to wait for something."""
    await asyncio.sleep(0)


async def test_left_early_it_does_not_compare_the_rest():
    """Where all is equal, no more events come by which it would notice that nobody listens."""
    prefix = "s-1/scopes/agent/weather/snapshots/immutable_history/snapshot_"
    stores = [MemoryObjectStore(), MemoryObjectStore()]
    for store in stores:
        for n in range(2_000):
            store.objects[f"{prefix}{n:08x}-0000-7000-8000-000000000000.json"] = b"equal"
    stores[0].objects["s-1/note.txt"] = b"new"
    faulty = FaultyObjectStore(stores[1], yield_to_others)
    async with (
        ObjectSnapshotStorage(SixMethods(stores[0])) as source,
        ObjectSnapshotStorage(SixMethods(faulty)) as target,
    ):
        operation = copy(source, target, sessions=["s-1"])
        async with asyncio.timeout(60), operation:
            async for event in operation:
                assert event.key == "s-1/note.txt"
                break
        assert len([call for call in faulty.calls if call.operation == "get"]) < 500


async def test_a_failing_copy_raises_and_tells_what_failed():
    async with memories() as (source, target):
        await write_session(source)

        async def fail(call):
            return StoreFault() if call.operation == "put" else None

        target.objects.store.fault = fail
        with pytest.raises(StorageUnavailableError, match="put of"):
            await copy(source, target).run()


async def test_what_is_too_large_fails_alone():
    async with (
        MemoryStorage() as source,
        MemoryStorage(max_snapshot_bytes=10_000, prefix="x") as target,
    ):
        await write_session(source)
        await source.objects.put(f"{source.layout.stash_prefix('s-1')}large", bytes(20_000))
        large = Snapshot.new({"text": "x" * 20_000})
        await source.save_snapshot(location=LOCATION, snapshot=large, is_latest=True)
        operation = copy(source, target)
        events = await collected(operation)
        failed = {event.key: event.code for event in events if event.result == "failed"}
        assert failed == {
            "context/s-1/large": "TooLarge",
            source.layout.latest(LOCATION): "TooLarge",
        }
        assert (operation.report.failed, operation.report.copied) == (2, 11)


async def test_a_key_that_the_target_can_t_have_fails_alone(tmp_path):
    async with MemoryStorage() as source, FileStorage(tmp_path) as target:
        await write_session(source)
        await source.objects.put("s-1/.hidden", b"no name for a file store")
        await source.objects.put("s-1/directory/", b"")  # made by a console
        operation = copy(source, target)
        events = await collected(operation)
        assert [(event.key, event.code) for event in events if event.result != "copied"] == [
            ("s-1/.hidden", "InvalidKey")
        ]


async def test_what_belongs_to_a_store_nested_in_the_session_is_not_copied():
    async with memories() as (source, target):
        await write_session(source)
        nested = source.namespace("s-1")
        await write_session(nested, "inner")
        await copy(source, target).run()
        keys = target.objects.store.inner.objects
        # `delete_session` takes the note for one of the session as well.
        assert [key for key in keys if "inner" in key] == ["s-1/inner/note.txt"]


# What is planned, and done later.


async def test_a_dry_run_changes_nothing_and_is_applied_later():
    async with memories("prod", "session") as (source, target):
        await write_session(source)
        await target.save_snapshot(location=LOCATION, snapshot=Snapshot.new({}), is_latest=True)
        before = dict(target.objects.store.inner.objects)
        operation = copy(source, target, dry_run=True, on_conflict="overwrite")
        planned = await collected(operation)
        assert target.objects.store.inner.objects == before
        assert results(planned) == ["planned"] * 12
        assert (operation.report.copied, operation.report.replaced) == (11, 1)
        assert {call.operation for call in calls_of(target)} <= {"get", "scan", "put"}
        saved = b"".join(map(encode_event, planned))
        events = [*decode_events(BytesIO(saved))]
        assert events == planned
        report = await apply_copies(source, target, events).run()
        assert (report.copied, report.replaced, report.ok) == (11, 1, True)
        assert await contents(target) == await contents(source)
        again = await apply_copies(source, target, events).run()
        assert (again.copied, again.replaced, again.equal) == (0, 0, 12)


async def test_what_has_changed_since_it_was_planned_is_left_alone():
    async with memories() as (source, target):
        await write_session(source)
        planned = await collected(copy(source, target, dry_run=True))
        await source.checkpoint(location=LOCATION, snapshot=Snapshot.new({"later": True}))
        await source.objects.put("s-1/note.txt", b"another")
        stash = f"{source.layout.stash_prefix('s-1')}a/offloaded"
        await target.objects.put(stash, b"somebody's")
        [first, *_] = await source.list_snapshot_ids(location=LOCATION)
        await source.objects.delete([source.layout.history(LOCATION, first)])
        operation = apply_copies(source, target, planned)
        events = await collected(operation)
        assert {event.key: event.result for event in events if event.result != "copied"} == {
            source.layout.latest(LOCATION): "held",
            "s-1/note.txt": "changed",
            stash: "changed",
            source.layout.history(LOCATION, first): "missing",
        }
        assert target.objects.store.inner.objects[stash] == b"somebody's"
        assert not operation.report.ok
        assert await target.load_snapshot(location=LOCATION) is None


async def test_a_latest_that_was_saved_since_is_not_copied():
    async with memories() as (source, target):
        await write_session(source)
        planned = await collected(copy(source, target, dry_run=True))
        await source.checkpoint(location=LOCATION, snapshot=Snapshot.new({"later": True}))
        events = await collected(apply_copies(source, target, planned))
        assert {event.key: event.result for event in events if event.result != "copied"} == {
            source.layout.latest(LOCATION): "changed"
        }
        assert await target.load_snapshot(location=LOCATION) is None


async def test_an_event_of_elsewhere_is_an_error():
    async with memories() as (source, target):
        event = CopyEvent(session_id="s-1", key="s-2/scopes/x", result="planned")
        with pytest.raises(ValueError, match="not of the source: s-2/scopes/x"):
            await apply_copies(source, target, [event]).run()
        conflict = CopyEvent(session_id="s-1", key="s-1/x", result="conflict")
        assert (await apply_copies(source, target, [conflict]).run()).copied == 0


# What is refused before anything is done.


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"sessions": "s-1"}, TypeError, "several ids"),
        ({"sessions": ["S 1"]}, InvalidIdentifierError, "session_id"),
        ({"on_conflict": "replace"}, ValueError, "on_conflict"),
        ({"max_requests_per_second": 0}, ValueError, "max_requests_per_second"),
        ({"max_requests_per_second": -1.0}, ValueError, "max_requests_per_second"),
    ],
)
async def test_bad_arguments_are_errors_at_once(arguments, error, match):
    async with memories() as (source, target):
        with pytest.raises(error, match=match):
            copy(source, target, **arguments)
        assert calls_of(source) == calls_of(target) == []


async def test_a_closed_storage_is_an_error_before_anything_changes(s3_server, bucket, prefix):
    closed = S3Storage(bucket, prefix=prefix, **s3_server.storage_options)
    async with MemoryStorage() as storage:
        await write_session(storage)
        for source, target in ((storage, closed), (closed, storage)):
            with pytest.raises(StorageClosedError):
                await copy(source, target, sessions=["s-1"]).run()
            with pytest.raises(StorageClosedError):
                await apply_copies(source, target, []).run()


INTO_ITSELF = re.compile("source and target are the same|lies in the session")


def same_places(tmp_path):
    """Pairs of storages that are one place, or of which one lies in a session of the other."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    return {
        "files": (FileStorage(tmp_path), FileStorage(tmp_path)),
        "a link": (FileStorage(tmp_path), FileStorage(link)),
        "a prefix": (FileStorage(tmp_path, prefix="a"), FileStorage(tmp_path / "a")),
        "in a session": (FileStorage(tmp_path), FileStorage(tmp_path / "s-1")),
        "deep in a session": (FileStorage(tmp_path), FileStorage(tmp_path / "s-1/x", prefix="y")),
        "in a stash": (FileStorage(tmp_path), FileStorage(tmp_path / "context/s-1")),
    }


@pytest.mark.parametrize(
    "name", ["files", "a link", "a prefix", "in a session", "deep in a session", "in a stash"]
)
async def test_a_copy_into_itself_is_refused_before_anything_changes(name, tmp_path):
    one, other = same_places(tmp_path)[name]
    async with one as source, other as target:
        await write_session(source)
        before = sorted(map(str, tmp_path.rglob("*")))
        with pytest.raises(ValueError, match=INTO_ITSELF):
            await copy(source, target).run()
        with pytest.raises(ValueError, match=INTO_ITSELF):
            await copy(source, target, sessions=["s-1"]).run()

        async def ids():
            yield "s-1"

        with pytest.raises(ValueError, match=INTO_ITSELF):
            await copy(source, target, sessions=ids()).run()
        assert sorted(map(str, tmp_path.rglob("*"))) == before


async def test_the_same_store_in_memory_and_the_same_bucket_are_one_place(
    s3_server, bucket, prefix
):
    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store) as source, ObjectSnapshotStorage(store) as target:
        with pytest.raises(ValueError, match="the same"):
            await copy(source, target).run()
    six = SixMethods(store)
    async with ObjectSnapshotStorage(six) as source:
        with pytest.raises(ValueError, match="the same"):
            await copy(source, source).run()
    async with (
        S3Storage(bucket, prefix=prefix, **s3_server.storage_options) as source,
        S3Storage(bucket, prefix=prefix, **s3_server.storage_options) as target,
    ):
        with pytest.raises(ValueError, match="the same"):
            await copy(source, target).run()


async def test_to_a_namespace_of_the_same_storage_sessions_are_copied():
    async with MemoryStorage() as storage:
        await write_session(storage)
        tenant = storage.namespace("tenant-7")
        report = await copy(storage, tenant).run()
        assert (report.copied, report.ok) == (12, True)
        assert await contents(tenant) == await contents(storage)
        assert (await copy(storage, tenant).run()).equal == 12


async def test_one_bucket_has_one_place_in_all_regions():
    places = set()
    for endpoint in ("https://s3.eu-central-1.amazonaws.com", "https://s3.amazonaws.com"):
        storage = S3Storage("my-bucket", region="eu-central-1", endpoint_url=endpoint, direct=False)
        async with storage:
            places.add(await storage.objects.store.locate())
    assert places == {"s3://amazonaws.com/my-bucket/"}


# Figures.


class LongStore(MemoryObjectStore):
    """A long history, whose objects are made as they are asked for, or taken and forgotten."""

    def __init__(self, objects=0):
        super().__init__()
        self.keys = [
            f"s-1/scopes/agent/weather/snapshots/immutable_history/"
            f"snapshot_{n:08x}-0000-7000-8000-000000000000.json"
            for n in range(objects)
        ]
        self.written = 0

    def capability(self, kind):
        return None

    async def scan(self, prefix, *, start_after=None, page_size=1000):
        keys = [key for key in self.keys if key.startswith(prefix)]
        for first in range(0, len(keys), page_size):
            await asyncio.sleep(0)
            yield keys[first : first + page_size]

    async def get(self, key, *, max_bytes):
        await asyncio.sleep(0)
        if not self.keys or "immutable_history" not in key:
            return None
        return await MemoryObjectStore.get(Filled(key), key, max_bytes=max_bytes)

    async def put(self, key, data, **options):
        await asyncio.sleep(0)
        assert len(data) == SIZE
        self.written += 1


SIZE = 16_384


class Filled(MemoryObjectStore):
    def __init__(self, key):
        super().__init__()
        self.objects[key] = bytes(SIZE)


async def test_a_long_session_is_copied_in_the_memory_of_a_few_objects():
    store, there = LongStore(4_000), LongStore()
    async with ObjectSnapshotStorage(store) as source, ObjectSnapshotStorage(there) as target:
        operation = copy(source, target, sessions=["s-1"])
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            report = await operation.run()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (report.copied, there.written) == (4_000, 4_000)
    assert peak - before < 4 * 2**20  # of 64 MiB


async def test_each_call_of_both_waits_for_its_turn_and_is_counted():
    async with memories() as (source, target):
        await write_session(source)
        calls_of(source).clear()
        calls_of(target).clear()
        report = await copy(source, target, max_requests_per_second=10_000).run()
        calls = calls_of(source) + calls_of(target)
        empty_or_not = [call for call in calls if call.operation == "scan"]
        assert len(calls) - len(empty_or_not) < report.requests <= len(calls)
