"""`prune` and `delete_snapshots`: what a policy does not keep is deleted, and nothing else."""

import asyncio
import bisect
import random
import tracemalloc
from contextlib import aclosing
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from histories import NOW, id_days_ago, location_of, write_history
from snapstore import (
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    S3Storage,
    Snapshot,
    SnapshotManifest,
    new_snapshot_id,
    snapshot_id_at,
)
from snapstore.model.keys import Layout
from snapstore.operations import (
    RetentionPolicy,
    delete_snapshots,
    prune,
)
from snapstore.stores import MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault

LAST_TWO = RetentionPolicy(keep_last=2)
LOCATION = location_of("session-1")
OTHER = location_of("session-1", "travel")
LAYOUT = Layout()


async def collected(operation):
    async with operation:
        return [event async for event in operation]


async def test_each_location_keeps_what_the_policy_keeps(storage):
    one = await write_history(storage, LOCATION, range(5))
    other = await write_history(storage, OTHER, range(1))
    elsewhere = await write_history(storage, location_of("session-10"), range(3))
    await storage.save_snapshot(location=LOCATION, snapshot=Snapshot.new({}), is_latest=True)
    await storage.save_manifest(location=LOCATION, manifest=SnapshotManifest("1.0", "now"))

    operation = prune(storage, LAST_TWO)
    events = await collected(operation)

    assert await storage.list_snapshot_ids(location=LOCATION) == one[-2:]
    assert await storage.list_snapshot_ids(location=OTHER) == other
    assert await storage.list_snapshot_ids(location=location_of("session-10")) == elsewhere[-2:]
    assert await storage.load_snapshot(location=LOCATION) is not None
    assert (await storage.load_manifest(location=LOCATION)).updated_at == "now"
    deleted = {storage.layout.history(LOCATION, found) for found in one[:3]}
    deleted.add(storage.layout.history(location_of("session-10"), elsewhere[0]))
    assert {event.key for event in events} == deleted
    assert {event.result for event in events} == {"deleted"}
    report = operation.report
    assert (report.sessions, report.locations, report.deleted, report.kept) == (2, 3, 4, 5)
    assert report.bytes == sum(event.size for event in events) > 0
    assert report.ok


async def test_a_dry_run_changes_nothing_and_says_what_would_be_deleted(storage):
    ids = await write_history(storage, LOCATION, range(5))
    operation = prune(storage, LAST_TWO, dry_run=True)
    events = await collected(operation)
    assert await storage.list_snapshot_ids(location=LOCATION) == ids
    assert {event.key for event in events} == {
        storage.layout.history(LOCATION, found) for found in ids[:3]
    }
    assert {event.result for event in events} == {"planned"}
    assert (operation.report.deleted, operation.report.requests_needed) == (3, 1)
    again = await prune(storage, LAST_TWO).run()
    assert again.deleted == 3


async def test_only_the_sessions_given_are_pruned(storage):
    for session_id in ("s-1", "s-2", "s-3"):
        await write_history(storage, location_of(session_id), range(4))
    await prune(storage, LAST_TWO, sessions=["s-1", "s-1"]).run()

    closed = []

    async def more():
        try:
            yield "s-3"
            yield "s-3"
        finally:
            closed.append(True)

    report = await prune(storage, LAST_TWO, sessions=more()).run()
    assert report.sessions == 1
    assert closed == [True]
    left = [
        len(await storage.list_snapshot_ids(location=location_of(session_id)))
        for session_id in ("s-1", "s-2", "s-3")
    ]
    assert left == [2, 4, 2]


async def test_what_latest_was_saved_from_is_kept_where_it_is_known():
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(6))
        await storage.rewind(location=LOCATION, snapshot_id=ids[1])
        report = await prune(storage, LAST_TWO).run()
        assert await storage.list_snapshot_ids(location=LOCATION) == [ids[1], *ids[-2:]]
        assert report.kept == 3


async def test_on_s3_too_what_latest_was_saved_from_is_kept(s3_server, bucket, prefix):
    async with S3Storage(bucket, prefix=prefix, **s3_server.storage_options) as storage:
        ids = await write_history(storage, LOCATION, range(6))
        await storage.rewind(location=LOCATION, snapshot_id=ids[1])
        await prune(storage, LAST_TWO).run()
        assert await storage.list_snapshot_ids(location=LOCATION) == [ids[1], *ids[-2:]]


async def test_what_a_rewind_makes_latest_while_pages_are_listed_is_kept():
    """Up to the last look at latest, which comes just before the request that deletes."""
    for step in range(1, 20):
        store = FaultyObjectStore(MemoryObjectStore())
        async with ObjectSnapshotStorage(store) as storage:
            ids = await write_history(storage, LOCATION, range(6))
            latest = storage.layout.latest(LOCATION)
            begun, reads = len(store.calls), 0

            async def rewind(_):
                nonlocal reads
                reads += 1
                if reads == step:  # noqa: B023
                    async with ObjectSnapshotStorage(store.inner) as other:  # noqa: B023
                        await other.rewind(location=LOCATION, snapshot_id=ids[0])  # noqa: B023

            store.fault = rewind
            await prune(storage, LAST_TWO).run()
            looked = [call.keys for call in store.calls[begun:]].index((latest,)) + 1
            if step > looked:
                break
            assert ids[0] in await storage.list_snapshot_ids(location=LOCATION)
    assert step > 2


async def test_objects_that_are_no_snapshots_stay(storage):
    ids = await write_history(storage, LOCATION, range(4))
    history = storage.layout.history_prefix(LOCATION)
    await storage.objects.put(f"{history}notes.txt", b"mine")
    await prune(storage, RetentionPolicy(keep_last=1)).run()
    assert await storage.list_snapshot_ids(location=LOCATION) == ids[-1:]
    assert await storage.objects.get(f"{history}notes.txt", max_bytes=9) is not None


def many(count, rng):
    """Ids over the last two months, some of them of one millisecond."""
    return sorted(
        {
            snapshot_id_at(NOW - timedelta(minutes=rng.choice([0, 1, 7, 1440]) * rng.random() * 60))
            for _ in range(count)
        }
        | {new_snapshot_id() for _ in range(count // 4)}
    )


@examples(25)
@given(st.integers(0, 3_500), st.randoms(use_true_random=False))
def test_pages_make_no_difference_to_what_is_kept(count, rng):
    async def run():
        ids = many(count, rng)
        store = MemoryObjectStore()
        store.objects = {LAYOUT.history(LOCATION, found): b"{}" for found in ids}
        policy = RetentionPolicy(keep_last=rng.randint(1, 1200), keep_daily=rng.randint(0, 9))
        async with ObjectSnapshotStorage(store) as storage:
            await prune(storage, policy, sessions=["session-1"]).run()
            return ids, policy, await storage.list_snapshot_ids(location=LOCATION)

    ids, policy, left = asyncio.run(run())
    by_day = {found[:8]: found for found in ids}  # nothing asserted of days beyond that they stay
    assert set(ids[-policy.keep_last :]) <= set(left) <= set(ids)
    assert len(left) <= min(policy.keep_last + policy.keep_daily, len(ids))
    assert by_day.keys() >= {found[:8] for found in left}


async def test_what_is_saved_meanwhile_is_not_deleted():
    """Whatever its id is: also one that is lower than those there are."""
    store = FaultyObjectStore(MemoryObjectStore())
    rng = random.Random(7)
    async with ObjectSnapshotStorage(store) as storage:
        before = await write_history(storage, LOCATION, range(50))
        saved = []

        async def save_one(call):
            # Between any two calls. It may lie among those that are judged at that moment.
            snapshot_id = id_days_ago(rng.random() * 50)
            store.inner.objects[LAYOUT.history(LOCATION, snapshot_id)] = b"{}"
            saved.append((call.operation, snapshot_id))

        store.fault = save_one
        events = await collected(prune(storage, LAST_TWO, sessions=["session-1"]))
        left = await storage.list_snapshot_ids(location=LOCATION)
        listed = max(n for n, (operation, _) in enumerate(saved) if operation == "scan")
        after_listing = {snapshot_id for _, snapshot_id in saved[listed + 1 :]}
    assert after_listing <= set(left)
    assert {event.key for event in events} <= {LAYOUT.history(LOCATION, i) for i in before} | {
        LAYOUT.history(LOCATION, i) for _, i in saved[: listed + 1]
    }
    assert set(before[-2:]) & set(left)


async def test_keys_that_are_not_deleted_are_events_and_the_rest_goes_on():
    store = FaultyObjectStore(MemoryObjectStore())
    async with ObjectSnapshotStorage(store) as storage:
        ids = await write_history(storage, LOCATION, range(5))
        refused = LAYOUT.history(LOCATION, ids[1])

        async def refuse(call):
            return StoreFault(failed={refused: "AccessDenied"})

        store.fault = lambda call: refuse(call) if call.operation == "delete" else asyncio.sleep(0)
        operation = prune(storage, LAST_TWO, sessions=["session-1"])
        events = await collected(operation)
        assert await storage.list_snapshot_ids(location=LOCATION) == [ids[1], *ids[-2:]]
    failed = [event for event in events if event.result == "failed"]
    assert [(event.key, event.code) for event in failed] == [(refused, "AccessDenied")]
    assert (operation.report.deleted, operation.report.failed) == (2, 1)
    assert not operation.report.ok


async def test_nothing_is_done_before_it_is_iterated_nor_after_it_is_left():
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(3))
        operation = prune(storage, LAST_TWO, sessions=["session-1"])
        await operation.aclose()
        assert await storage.list_snapshot_ids(location=LOCATION) == ids
        assert operation.report.requests == 0


async def test_leaving_it_early_leaves_no_task_and_can_be_made_again():
    async with MemoryStorage() as storage:
        for session in range(40):
            await write_history(storage, location_of(f"s-{session}"), range(100))
        sessions = [f"s-{session}" for session in range(40)]
        before = asyncio.all_tasks()
        async with prune(storage, LAST_TWO, sessions=sessions) as operation:
            async for _ in operation:
                break
        assert asyncio.all_tasks() == before
        assert operation.report.deleted == 1_000
        await prune(storage, LAST_TWO, sessions=sessions).run()
        for session in sessions:
            assert len(await storage.list_snapshot_ids(location=location_of(session))) == 2


async def test_a_pace_spreads_the_requests():
    async with MemoryStorage() as storage:
        await write_history(storage, LOCATION, range(5))
        loop = asyncio.get_running_loop()
        began = loop.time()
        report = await prune(
            storage, LAST_TWO, sessions=["session-1"], max_requests_per_second=20
        ).run()
        # The first one need not wait.
        assert loop.time() - began >= (report.requests - 1) / 20
        assert report.requests >= 3


async def test_a_store_of_six_methods_can_be_pruned():
    class SixMethods:
        name = "six"

        def __init__(self):
            self._inner = MemoryObjectStore()
            for method in ("open", "aclose", "get", "put", "scan", "delete"):
                setattr(self, method, getattr(self._inner, method))

        def capability(self, kind):
            return None

    async with ObjectSnapshotStorage(SixMethods()) as storage:
        ids = await write_history(storage, LOCATION, range(5))
        [*events] = await collected(prune(storage, LAST_TWO, sessions=["session-1"]))
        assert await storage.list_snapshot_ids(location=LOCATION) == ids[-2:]
    assert {(event.size, event.etag, event.modified) for event in events} == {(None, None, None)}


async def test_given_snapshots_are_deleted(storage):
    ids = await write_history(storage, LOCATION, range(4))
    missing = new_snapshot_id()
    operation = delete_snapshots(storage, LOCATION, [ids[0], ids[2].upper(), missing, ids[0]])
    events = await collected(operation)
    assert await storage.list_snapshot_ids(location=LOCATION) == [ids[1], ids[3]]
    assert [event.result for event in events] == ["deleted"] * 3
    assert (operation.report.deleted, operation.report.requests) == (3, 1)
    dry = await delete_snapshots(storage, LOCATION, ids, dry_run=True).run()
    assert (dry.deleted, dry.requests, dry.requests_needed) == (4, 0, 1)
    assert len(await storage.list_snapshot_ids(location=LOCATION)) == 2


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s: prune(s, None), TypeError, "policy must be a RetentionPolicy"),
        (lambda s: prune(s, LAST_TWO, sessions="s-1"), TypeError, "not one text"),
        (lambda s: prune(s, LAST_TWO, sessions=["S"]), InvalidIdentifierError, "session_id"),
        (lambda s: prune(s, LAST_TWO, max_requests_per_second=0), ValueError, "more than 0"),
        (lambda s: prune(s, LAST_TWO, max_requests_per_second=-1), ValueError, "more than 0"),
        (lambda s: delete_snapshots(s, LOCATION, "x"), TypeError, "not one text"),
        (lambda s: delete_snapshots(s, LOCATION, ["x"]), InvalidIdentifierError, "UUIDv7"),
        (lambda s: delete_snapshots(s, "s-1", []), TypeError, "location"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(call, error, words):
    with pytest.raises(error, match=words):
        call(MemoryStorage())


async def test_a_bad_session_among_those_walked_is_refused():
    async def sessions():
        yield "Not one"

    async with MemoryStorage() as storage:
        operation = prune(storage, LAST_TWO, sessions=sessions())
        async with aclosing(operation):
            with pytest.raises(InvalidIdentifierError, match="session_id"):
                await operation.run()


class LongHistory(MemoryObjectStore):
    """A history of 100,000 snapshots within a year, whose memory is taken before."""

    def __init__(self):
        super().__init__()
        step = timedelta(days=365) / 100_000
        prefix = LAYOUT.history_prefix(LOCATION)
        self.keys = [
            f"{prefix}snapshot_{snapshot_id_at(NOW - step * place)}.json"
            for place in range(100_000, 0, -1)
        ]
        self.gone = bytearray(len(self.keys))
        self.requests = 0

    def capability(self, kind):
        return None

    async def scan(self, prefix, *, start_after=None, page_size=1_000):
        place = bisect.bisect_right(self.keys, start_after or prefix)
        page = []
        self.requests += 1
        for index in range(place, len(self.keys)):
            if not self.gone[index]:
                page.append(self.keys[index])
            if len(page) == page_size:
                yield page
                page = []
                self.requests += 1
        yield page

    async def delete(self, keys):
        self.requests += 1
        for key in keys:
            self.gone[bisect.bisect_left(self.keys, key)] = True
        return {}


async def test_a_long_history_is_pruned_in_little_memory_and_few_requests():
    store = LongHistory()
    policy = RetentionPolicy(keep_last=10, keep_daily=30)
    async with ObjectSnapshotStorage(store) as storage:
        operation = prune(storage, policy, sessions=["session-1"])
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            await operation.run()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        left = await storage.list_snapshot_ids(location=LOCATION)
    assert operation.report.deleted == 100_000 - len(left)
    assert operation.report.kept == len(left) in range(39, 41)
    assert peak - before < 10 * 2**20
    # Its locations from the keys, the history forwards and backwards, and the batches.
    assert store.requests < 101 + 2 * 101 + 2 * 101 + 3
