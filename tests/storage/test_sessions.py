"""Sessions are found, listed and described as a naive model does it, on any kind of server."""

import asyncio
import bisect
import re
from collections import Counter
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers import EPOCH, ORDERS, ListingServer, SixMethods
from snapstore import (
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    ObjectTotals,
    S3Storage,
    SnapshotLocation,
    SnapshotManifest,
    StorageUnavailableError,
    new_snapshot_id,
    snapshot_time,
)
from snapstore.stores import MemoryObjectStore, ObjectDetails
from snapstore.testing import FaultyObjectStore, LatencyObjectStore, StoreFault, faults_in_turn

TIMEOUT = 60
"""Seconds after which a test gives up on what would otherwise hang."""

# The naive model

IDENTIFIER = r"[a-z0-9_-]{1,255}"
UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def names_in(keys, base):
    """The ids under which anything lies in `scopes/`."""
    found = (re.match(rf"{re.escape(base)}({IDENTIFIER})/scopes/", key) for key in keys)
    return {match[1] for match in found if match}


def in_keys(name):
    return f"{name}/"


def is_session(keys, prefix):
    own = re.compile(rf"{re.escape(prefix)}scopes/(agent|multiAgent)/[^/]+/snapshots/.*", re.DOTALL)
    return any(own.fullmatch(key) for key in keys)


def model_of(server, base, session_id):
    """The figures of a session; `None` if there is none."""
    prefix = f"{base}{session_id}/"
    if not is_session(server.objects, prefix):
        return None
    locations, bytes_, snapshots, archive, foreign, last, latest = set(), 0, 0, 0, 0, {}, {}
    for key, body in server.objects.items():
        if not key.startswith(prefix):
            continue
        parts = key[len(prefix) :].split("/")
        own = (
            len(parts) > 4
            and parts[0] == "scopes"
            and parts[1] in ("agent", "multiAgent")
            and re.fullmatch(IDENTIFIER, parts[2])
            and parts[3] == "snapshots"
        )
        name = "/".join(parts[4:])
        snapshot = re.fullmatch(rf"immutable_history/snapshot_({UUID7})\.json", name)
        known = name in ("snapshot_latest.json", "manifest.json") or snapshot
        if not own or not (known or name.startswith("archive/")):
            foreign += 1
            continue
        location = (parts[1], parts[2])
        locations.add(location)
        bytes_ += len(body)
        archive += not known
        if snapshot:
            snapshots += 1
            last[location] = max(last.get(location, ""), snapshot[1])
        elif name == "snapshot_latest.json":
            latest[location] = server.modified.get(key, EPOCH)
    times = {**latest, **{location: snapshot_time(newest) for location, newest in last.items()}}
    return {
        "updated_at": max(times.values(), default=None),
        "locations": len(locations),
        "snapshots": snapshots,
        "bytes": bytes_,
        "archive": archive,
        "foreign": foreign,
    }


# Storages full of everything

NAMES = [
    "s",
    "s-",
    "s-1",
    "s-1-",
    "s-1-1",
    "s-10",
    "-",
    "--s",
    "s_1",
    "s1",
    "a",
    "scopes",
    "context",
    "t",
    "z9",
]
UUIDS = [f"01912a3b-{n:04x}-7000-8000-0000000000{n:02x}" for n in range(8)]
SCOPES = ["agent/weather", "agent/other", "multiAgent/graph"]
OBJECTS = [
    *(f"immutable_history/snapshot_{snapshot_id}.json" for snapshot_id in UUIDS[:4]),
    *("snapshot_latest.json", "manifest.json", "archive/x.jsonl.zst", "notes.txt"),
    "immutable_history/snapshot_zzz.json",
]
SNAPSHOTS = st.builds(
    "{}/scopes/{}/snapshots/{}".format,
    st.sampled_from(NAMES + UUIDS),
    st.sampled_from([*SCOPES, "agent/Not An Id", "other/x"]),
    st.sampled_from(OBJECTS),
)
KEYS = (
    SNAPSHOTS
    | st.builds("{}/{}".format, st.sampled_from(NAMES), SNAPSHOTS)  # nested, or stash
    | st.builds(
        "{}/{}".format,
        st.sampled_from([*NAMES, "Backups", "x.y"]),
        st.sampled_from(["notes.txt", "scopes/notes.txt", "\uffff", "scopes", "z/z"]),
    )
    | st.sampled_from(["readme.md", "S-1/scopes/agent/a/snapshots/snapshot_latest.json"])
)
SEEDS = st.dictionaries(KEYS, st.binary(max_size=3), max_size=40)


def store_of(server, kind):
    return SixMethods(server) if kind == "six methods" else server


KINDS = {"delimiters": ("/", "/scopes/"), "one delimiter": ("/",), "six methods": ()}
SERVERS = {
    "kind": st.sampled_from(list(KINDS)),
    "order": st.sampled_from(ORDERS),
    "page_size": st.integers(1, 5),
    "prefix": st.sampled_from(["", "p", "p/session", "session", "my-session"]),
}


async def ids_of(storage, **which):
    async with aclosing(storage.iter_sessions(**which)) as ids:
        return [session_id async for session_id in ids]


async def all_pages(storage, limit, order):
    seen, cursor = [], None
    while True:
        page = await storage.list_sessions(limit=limit, order=order, cursor=cursor)
        assert len(page.sessions) <= limit
        seen += page.sessions
        cursor = page.cursor
        if cursor is None:
            return seen
        assert len(page.sessions) == limit
        assert re.fullmatch("[A-Za-z0-9_-]+", cursor)


@settings(max_examples=300)
@given(seeds=SEEDS, written=SEEDS, data=st.data(), **SERVERS)
async def test_ids_that_are_there_all_the_while_come_exactly_once(
    seeds, written, data, kind, order, page_size, prefix
):
    base = f"{prefix}/" if prefix else ""
    stable = {base + key: body for key, body in seeds.items()}
    others = {base + key: body for key, body in written.items() if base + key not in stable}
    server = ListingServer(
        {**stable, "pq/scopes/agent/a/snapshots/manifest.json": b""},
        order=order,
        page_size=page_size,
        delimiters=KINDS[kind],
    )
    random = data.draw(st.randoms())

    def write_or_delete():
        for key, body in others.items():
            if random.random() < 0.3:
                server.objects[key] = body
            elif random.random() < 0.3:
                server.objects.pop(key, None)

    server.between = write_or_delete
    async with ObjectSnapshotStorage(store_of(server, kind), prefix=prefix) as storage:
        found = await ids_of(storage)
        server.between = lambda: None
        for key in others:
            server.objects.pop(key, None)
        quiet = await ids_of(storage)
        after = data.draw(st.sampled_from([*NAMES, *UUIDS, "s-0", "s-1-2", "--"]))
        rest = await ids_of(storage, start_after=after)

    expected = names_in(stable, base)
    if prefix == "":
        expected.add("pq")
    counted = Counter(found)
    assert all(counted[name] == 1 for name in expected)
    assert set(found) <= expected | names_in(others, base)
    assert quiet == sorted(expected, key=in_keys)
    assert rest == [name for name in quiet if in_keys(name) > in_keys(after)]


@settings(max_examples=200)
@given(seeds=SEEDS, limit=st.integers(1, 6), data=st.data(), **SERVERS)
async def test_pages_in_each_order_are_those_of_a_naive_model(
    seeds, limit, data, kind, order, page_size, prefix
):
    base = f"{prefix}/" if prefix else ""
    server = ListingServer(
        {base + key: body for key, body in seeds.items()},
        order=order,
        page_size=page_size,
        delimiters=KINDS[kind],
    )
    for key in server.objects:
        server.modified[key] = EPOCH + timedelta(microseconds=data.draw(st.integers(0, 3)))
    expected = {}
    for name in names_in(server.objects, base):
        model = model_of(server, base, name)
        if model is not None:
            if kind == "six methods":
                model["updated_at"] = time_in_ids(server, base, name)
                model["bytes"] = None if model["locations"] else 0
            expected[name] = {
                field: model[field] for field in ("updated_at", "locations", "snapshots", "bytes")
            }

    async with ObjectSnapshotStorage(store_of(server, kind), prefix=prefix) as storage:
        by_id = await all_pages(storage, limit, "id")
        updated = await all_pages(storage, limit, "updated")
        ids = await ids_of(storage)
        if set(ids) <= set(UUIDS):
            created = await all_pages(storage, limit, "created")
            assert [found.session_id for found in created] == sorted(expected, reverse=True)
        else:
            with pytest.raises(InvalidIdentifierError, match="new_snapshot_id"):
                await storage.list_sessions(limit=1_000, order="created")

    assert [found.session_id for found in by_id] == sorted(expected, key=in_keys)
    shown = {found.session_id: fields_of(found) for found in by_id}
    assert shown == expected
    oldest = datetime(1970, 1, 1, tzinfo=UTC)
    assert [found.session_id for found in updated] == sorted(
        expected,
        key=lambda name: (expected[name]["updated_at"] or oldest, name),
        reverse=True,
    )
    assert {found.session_id: fields_of(found) for found in updated} == expected


def fields_of(summary):
    return {
        name: getattr(summary, name) for name in ("updated_at", "locations", "snapshots", "bytes")
    }


def time_in_ids(server, base, name):
    """When a session was updated, where a store tells no times."""
    history = (
        rf"{re.escape(base)}{name}/scopes/(?:agent|multiAgent)/{IDENTIFIER}/snapshots/"
        rf"immutable_history/snapshot_({UUID7})\.json"
    )
    found = (re.fullmatch(history, key) for key in server.objects)
    return max((snapshot_time(match[1]) for match in found if match), default=None)


@settings(max_examples=200)
@given(seeds=SEEDS, **SERVERS)
async def test_a_description_is_that_of_a_naive_model(seeds, kind, order, page_size, prefix):
    base = f"{prefix}/" if prefix else ""
    server = ListingServer(
        {base + key: body for key, body in seeds.items()},
        order=order,
        page_size=page_size,
        delimiters=KINDS[kind],
    )
    beside = {"p/session": "p/context/", "session": "context/"}.get(prefix, f"{base}context/")
    server.objects[f"{beside}s/scopes/agent/a/call_0"] = b"12345"
    server.objects[f"{beside}s/scopes/agent/a/snapshots/snapshot_latest.json"] = b"a stashed one"
    async with ObjectSnapshotStorage(store_of(server, kind), prefix=prefix) as storage:
        for name in NAMES:
            found = await storage.describe_session(session_id=name)
            model = model_of(server, base, name)
            if model is None:
                assert found is None
                continue
            assert found.session_id == name
            assert len(found.locations) == model["locations"]
            assert sum(place.snapshots for place in found.locations) == model["snapshots"]
            total = sum(place.bytes for place in found.locations) + found.archive.bytes
            assert total == model["bytes"]
            assert found.archive.objects == model["archive"]
            assert found.foreign.objects == model["foreign"]
            stash = [
                body for key, body in server.objects.items() if key.startswith(f"{beside}{name}/")
            ]
            assert found.stash == ObjectTotals(len(stash), sum(map(len, stash)))
            if kind != "six methods":
                assert found.updated_at == model["updated_at"]


# Costs


def latest_of(session_id):
    return f"{session_id}/scopes/agent/weather/snapshots/snapshot_latest.json"


class FastServer(MemoryObjectStore):
    """Sessions with one object each, listed without sorting them anew. Counts its listings."""

    def __init__(self, ids):
        super().__init__()
        self.ids = sorted(ids)
        self.prefix_requests = 0
        self.listed = []

    async def scan_prefixes(self, prefix, *, delimiter, start_after=None, page_size=1_000):
        assert (prefix, delimiter) == ("", "/scopes/")
        first = bisect.bisect_left(self.ids, (start_after or "").removesuffix("/"))
        while True:
            self.prefix_requests += 1
            page = self.ids[first : first + page_size]
            yield [f"{session_id}/scopes/" for session_id in page]
            first += page_size
            if first >= len(self.ids):
                return

    async def scan_details(self, prefix, *, start_after=None, page_size=1_000):
        assert prefix.endswith("/scopes/")
        self.listed.append(prefix)
        await self.answer()
        yield [ObjectDetails(latest_of(prefix.removesuffix("/scopes/")), 5, EPOCH, "etag")]

    async def answer(self):
        await asyncio.sleep(0)


async def test_the_ids_of_10000_sessions_are_10_requests():
    ids = [f"session-{n:05}" for n in range(10_000)]
    server = FastServer(ids)
    async with ObjectSnapshotStorage(server) as storage:
        assert await ids_of(storage) == ids
        assert server.prefix_requests == 10
        assert server.listed == []


async def test_a_page_by_id_lists_its_own_sessions_only():
    ids = [f"session-{n:05}" for n in range(3_000)]
    server = FastServer(ids)
    async with ObjectSnapshotStorage(server) as storage:
        page = await storage.list_sessions(limit=20)
        assert [found.session_id for found in page.sessions] == ids[:20]
        assert (server.prefix_requests, len(server.listed)) == (1, 20)
        page = await storage.list_sessions(limit=20, cursor=page.cursor)
        assert [found.session_id for found in page.sessions] == ids[20:40]
        assert (server.prefix_requests, len(server.listed)) == (2, 40)


async def test_the_last_created_of_many_sessions_cost_few_requests():
    ids = sorted(new_snapshot_id() for _ in range(30_000))
    server = FastServer(ids)
    async with ObjectSnapshotStorage(server) as storage:
        page = await storage.list_sessions(limit=20, order="created")
        assert [found.session_id for found in page.sessions] == ids[:-21:-1]
        assert server.prefix_requests <= 24
        assert len(server.listed) == 20
        page = await storage.list_sessions(limit=20, order="created", cursor=page.cursor)
        assert [found.session_id for found in page.sessions] == ids[-21:-41:-1]


@settings(max_examples=50)
@given(
    count=st.integers(0, 2_500),
    foreign=st.sets(st.integers(0, 2_499)),
    limit=st.sampled_from([1, 7, 500, 999, 1_000]),
)
async def test_sessions_newest_first_are_exact_for_any_number(count, foreign, limit):
    ids = [f"{0x01912A3B0000 + n // 3:012x}" for n in range(count)]
    ids = [f"{time[:8]}-{time[8:]}-7000-8000-{n:012x}" for n, time in enumerate(ids)]
    gone = {ids[n] for n in foreign if n < count}

    class Server(FastServer):
        async def scan_details(self, prefix, **which):
            # What lies under `scopes/` is nobody's: only a listing of the session tells.
            if prefix.removesuffix("/scopes/") in gone:
                yield [ObjectDetails(f"{prefix}notes.txt", 1, EPOCH, None)]
            else:
                async for page in super().scan_details(prefix, **which):
                    yield page

    async with ObjectSnapshotStorage(Server(ids)) as storage:
        first = await storage.list_sessions(limit=limit, order="created")
        expected = [session_id for session_id in ids[::-1] if session_id not in gone]
        assert [found.session_id for found in first.sessions] == expected[:limit]
        if limit > 7:
            seen = await all_pages(storage, limit, "created")
            assert [found.session_id for found in seen] == expected


async def test_a_check_that_was_cancelled_does_not_end_the_order_by_creation():
    async with MemoryStorage() as storage:
        objects = storage.objects.store.objects
        ids = [new_snapshot_id() for _ in range(3)]
        for session_id in [*ids, f"snapstore-check-{new_snapshot_id()}"]:
            objects[latest_of(session_id)] = b"{}"
        page = await storage.list_sessions(limit=10, order="created")
        assert [found.session_id for found in page.sessions] == ids[::-1]
        objects[latest_of("chat-1")] = b"{}"
        with pytest.raises(
            InvalidIdentifierError, match=r"chat-1; use the order 'id' or 'updated'"
        ):
            await storage.list_sessions(limit=10, order="created")


async def test_at_most_100_sessions_are_listed_at_the_same_time():
    class Server(FastServer):
        in_flight = most = 0

        async def answer(self):
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
            for _ in range(5):
                await asyncio.sleep(0)
            self.in_flight -= 1

    server = Server([f"session-{n:05}" for n in range(1_500)])
    async with ObjectSnapshotStorage(server) as storage:
        page = await storage.list_sessions(limit=1, order="updated")
    assert page.sessions[0].session_id == "session-01499"
    assert server.most == 100
    assert len(server.listed) == 1_500


async def test_a_long_session_is_skipped_where_all_keys_are_listed():
    def history(session_id, number):
        prefix = f"{session_id}/scopes/agent/weather/snapshots/immutable_history"
        return {
            f"{prefix}/snapshot_{n:08x}-0000-7000-8000-000000000000.json": b""
            for n in range(number)
        }

    server = ListingServer(history("s", 5_000) | history("s-1", 10) | history("z", 5_000))
    async with ObjectSnapshotStorage(SixMethods(server)) as storage:
        assert await ids_of(storage) == ["s-1", "s", "z"]
        assert server.requests == 4
        assert await ids_of(storage, start_after="s") == ["z"]
        assert server.requests == 6


# A real server


@pytest.fixture
def records():
    return []


@pytest.fixture
async def s3_storage(s3_server, bucket, prefix, records):
    options = s3_server.storage_options
    async with S3Storage(bucket, prefix=prefix, on_operation=records.append, **options) as storage:
        yield storage


async def seed(storage, ids):
    slots = asyncio.Semaphore(32)

    async def put(session_id):
        async with slots:
            key = storage.layout.latest(SnapshotLocation.agent(session_id, "weather"))
            await storage.objects.put(key, b"{}")

    await asyncio.gather(*map(put, ids))


async def test_ids_are_one_request_for_1000_of_a_real_server(s3_storage, records):
    ids = [f"session-{n:05}" for n in range(1_005)]
    await seed(s3_storage, ids)
    assert await ids_of(s3_storage) == ids
    assert [request.operation for request in records[-1].requests] == ["ListObjectsV2"] * 2
    page = await s3_storage.list_sessions(limit=5, order="updated")
    assert len(page.sessions) == 5
    assert all(found.bytes == 2 for found in page.sessions)
    assert len(records[-1].requests) == 2 + 1_005


async def test_small_pages_of_a_real_server_are_in_one_order(s3_storage, monkeypatch):
    names = [name for name in NAMES if name != "context"]
    await seed(s3_storage, names)
    in_order = sorted(names, key=in_keys)
    store = s3_storage.objects.store
    for page_size in (1, 2, 3, 5):
        with monkeypatch.context() as patch:
            patch.setattr(store, "scan_prefixes", partial(store.scan_prefixes, page_size=page_size))
            assert await ids_of(s3_storage) == in_order
            for after in [*names, "s-0", "s-1-2", "--"]:
                expected = [name for name in in_order if in_keys(name) > in_keys(after)]
                assert await ids_of(s3_storage, start_after=after) == expected, (page_size, after)
            pages = await all_pages(s3_storage, 2, "id")
            assert [found.session_id for found in pages] == in_order


async def test_what_was_set_aside_is_no_manifest():
    location = SnapshotLocation.agent("s-1", "weather")
    async with MemoryStorage() as storage:
        await storage.objects.put(storage.layout.damaged(location, "manifest-1"), b"broken")
        described = await storage.describe_session(session_id="s-1")
        assert [found.has_manifest for found in described.locations] == [False]
        assert described.locations[0].bytes == len(b"broken")
        await storage.save_manifest(location=location, manifest=SnapshotManifest("1.0", "today"))
        described = await storage.describe_session(session_id="s-1")
        assert [found.has_manifest for found in described.locations] == [True]


# Failures


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": -1}, "limit"),
        ({"limit": 1_001}, "limit"),
        ({"limit": 5, "order": "newest"}, "order"),
        ({"limit": 5, "order": None}, "order"),
        ({"limit": 5, "cursor": ""}, "cursor"),
        ({"limit": 5, "cursor": "session-1"}, "cursor"),
        ({"limit": 5, "cursor": "é" * 20}, "cursor"),
        ({"limit": 5, "cursor": "A" * 4_000}, "cursor"),
    ],
)
async def test_wrong_arguments_send_no_request(arguments, words):
    store = FaultyObjectStore(MemoryObjectStore())
    async with ObjectSnapshotStorage(store) as storage:
        with pytest.raises(ValueError, match=words):
            await storage.list_sessions(**arguments)
        with pytest.raises(TypeError, match="cursor"):
            await storage.list_sessions(limit=5, cursor=b"abcd")
        for limit in (1.5, 5.0, True, "5", None):
            with pytest.raises(TypeError, match="limit must be an int"):
                await storage.list_sessions(limit=limit)
        for wrong in ("", "S", "a/b", "x" * 256):
            with pytest.raises(InvalidIdentifierError):
                storage.iter_sessions(start_after=wrong)
            with pytest.raises(InvalidIdentifierError):
                await storage.describe_session(session_id=wrong)
    assert store.calls == []


async def test_a_cursor_that_was_changed_or_is_of_another_order_is_an_error():
    async with MemoryStorage() as storage:
        for n in range(3):
            session_id = UUIDS[n]
            storage.objects.store.objects[latest_of(session_id)] = b"{}"
        cursors = {}
        for order in ("id", "created", "updated"):
            page = await storage.list_sessions(limit=1, order=order)
            cursors[order] = page.cursor
        for order, cursor in cursors.items():
            for other in cursors.keys() - {order}:
                with pytest.raises(ValueError, match=f"'{order}'.*'{other}'"):
                    await storage.list_sessions(limit=1, order=other, cursor=cursor)
            for position in range(len(cursor)):
                letter = "A" if cursor[position] != "A" else "B"
                changed = cursor[:position] + letter + cursor[position + 1 :]
                for wrong in (changed, cursor[:position], f"{cursor}{letter}", f"{cursor}=="):
                    with pytest.raises(ValueError, match="cursor"):
                        await storage.list_sessions(limit=1, order=order, cursor=wrong)
            # The cursor is as good as before.
            assert (await storage.list_sessions(limit=1, order=order, cursor=cursor)).sessions


@pytest.mark.parametrize("order", ["id", "updated"])
async def test_an_error_of_one_listing_is_the_error_of_all(order):
    store = FaultyObjectStore(MemoryObjectStore())
    async with ObjectSnapshotStorage(LatencyObjectStore(store, 0)) as storage:
        for n in range(500):
            store.inner.objects[latest_of(f"s-{n:03}")] = b"{}"
        before = asyncio.all_tasks()
        store.fault = faults_in_turn("scan", *[None] * 50, StoreFault())
        with pytest.raises(StorageUnavailableError):
            await storage.list_sessions(limit=500, order=order)
        assert asyncio.all_tasks() == before
        assert len(store.calls) < 300  # those under way were cancelled, the others never begun


@pytest.mark.parametrize("order", ["id", "created", "updated"])
async def test_a_list_that_is_cancelled_leaves_no_task(order):
    store = FaultyObjectStore(MemoryObjectStore())
    async with ObjectSnapshotStorage(store) as storage:
        for _ in range(300):
            store.inner.objects[latest_of(new_snapshot_id())] = b"{}"
        before = asyncio.all_tasks()
        stalled = asyncio.Event()

        async def fault(call):
            if len(store.calls) < 50:
                return None
            stalled.set()
            return StoreFault(stall=True)

        store.fault = fault
        listing = asyncio.create_task(storage.list_sessions(limit=200, order=order))
        await asyncio.wait_for(stalled.wait(), TIMEOUT)
        listing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(listing, TIMEOUT)
        assert asyncio.all_tasks() == before


async def test_an_id_of_a_time_that_is_no_date_has_no_time():
    server = ListingServer({latest_of("s"): b"{}"})
    history = "s/scopes/agent/weather/snapshots/immutable_history"
    server.objects[f"{history}/snapshot_ffffffff-ffff-7000-8000-000000000000.json"] = b"{}"
    async with ObjectSnapshotStorage(server) as storage:
        found = await storage.describe_session(session_id="s")
        assert (found.locations[0].last_at, found.updated_at) == (None, EPOCH)
        page = await storage.list_sessions(limit=1, order="updated")
        assert page.sessions[0].updated_at == EPOCH
