"""Identifiers: which are valid, in which order they come, and the time in them."""

import enum
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest

from snapstore import (
    InvalidIdentifierError,
    MemoryStorage,
    ObjectSnapshotStorage,
    Snapshot,
    SnapshotLocation,
    new_snapshot_id,
    snapshot_id_at,
    snapshot_time,
)
from snapstore.stores.memory import MemoryObjectStore

LOCATION = SnapshotLocation.agent("session-1", "weather")


class Name(str, enum.Enum):  # noqa: UP042 -- unlike a StrEnum it shows as another text
    """Names as an application may have them."""

    SESSION, AGENT, SCOPE, PREFIX = "session-1", "weather", "agent", "prod"


SNAPSHOT_ID = "01912a3b-0000-7000-8000-0000000000ab"

BAD_IDENTIFIERS = [
    pytest.param("A", id="upper case"),
    pytest.param("a/b", id="slash"),
    pytest.param("a\\b", id="backslash"),
    pytest.param("a.b", id="dot"),
    pytest.param(".", id="this folder"),
    pytest.param("..", id="folder above"),
    pytest.param("a b", id="space"),
    pytest.param(" a", id="space before"),
    pytest.param("a\n", id="newline at the end"),
    pytest.param("\na", id="newline before"),
    pytest.param("a\0", id="NUL"),
    pytest.param("a%2f", id="escape"),
    pytest.param("ü", id="umlaut"),
    pytest.param("\uff41", id="full-width a"),
    pytest.param("\u0131", id="dotless i"),
    pytest.param("\u0663", id="Arabic digit"),
    pytest.param("\u212a", id="Kelvin sign"),
    pytest.param("a\u0301", id="combining accent"),
    pytest.param("\ud83d", id="lone surrogate"),
    pytest.param("", id="empty"),
    pytest.param("a" * 256, id="256 characters"),
    pytest.param("a" * 100_000, id="100,000 characters"),
    pytest.param("\U0001f600" * 2_000, id="2,000 emoji"),
    pytest.param(None, id="None"),
    pytest.param(7, id="int"),
    pytest.param(b"a", id="bytes"),
    pytest.param(["a"], id="list"),
]
BAD_SNAPSHOT_IDS = [
    pytest.param("", id="empty"),
    pytest.param("latest", id="latest"),
    pytest.param("c2d3e4f5-1a2b-4c3d-8e4f-5a6b7c8d9e0f", id="UUIDv4"),
    pytest.param("5f1b3c2e-9a4d-11ee-8c90-0242ac120002", id="UUIDv1"),
    pytest.param("1eec9a4d-5f1b-6c2e-8c90-0242ac120002", id="UUIDv6"),
    pytest.param("01912a3b-0000-7000-c000-0000000000ab", id="another variant"),
    pytest.param("00000000-0000-0000-0000-000000000000", id="nil"),
    pytest.param("{01912a3b-0000-7000-8000-0000000000ab}", id="braces"),
    pytest.param("urn:uuid:01912a3b-0000-7000-8000-0000000000ab", id="urn"),
    pytest.param("01912a3b0000700080000000000000ab", id="no dashes"),
    pytest.param("01912a3b-0000-7000-8000-0000000000ab\n", id="newline at the end"),
    pytest.param(" 01912a3b-0000-7000-8000-0000000000ab", id="space before"),
    pytest.param("01912a3b-0000-7000-8000-0000000000a", id="too short"),
    pytest.param("01912a3b-0000-7000-8000-0000000000abc", id="too long"),
    pytest.param("01912a3b-0000-7000-8000-0000000000ag", id="not hexadecimal"),
    pytest.param("\uff10" + SNAPSHOT_ID[1:], id="full-width digit"),
    pytest.param(SNAPSHOT_ID[:-2] + "\uff41\uff42", id="full-width letters"),
    pytest.param("../" + SNAPSHOT_ID, id="folder above"),
    pytest.param(SNAPSHOT_ID * 1_000, id="36,000 characters"),
    pytest.param(7, id="int"),
    pytest.param(SNAPSHOT_ID.encode(), id="bytes"),
    pytest.param(uuid.UUID(SNAPSHOT_ID), id="UUID object"),
]


def snapshot():
    return Snapshot("agent", "1.0", "2026-01-01T00:00:00.000Z", {}, {})


def assert_plain_and_short(error):
    assert str(error).isascii()
    assert len(str(error)) < 1_000


def test_a_hundred_thousand_ids_strictly_increase():
    ids = [new_snapshot_id() for _ in range(100_000)]

    assert all(earlier < later for earlier, later in pairwise(ids))


def test_ids_strictly_increase_from_thread_to_thread():
    ids, turn = [], threading.Lock()

    def make():
        for _ in range(10_000):
            with turn:
                ids.append(new_snapshot_id())

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 40_000
    assert all(earlier < later for earlier, later in pairwise(ids))


def test_ids_of_concurrent_threads_are_distinct():
    ids = [[], [], [], []]

    def make(own):
        own.extend(new_snapshot_id() for _ in range(25_000))

    threads = [threading.Thread(target=make, args=(own,)) for own in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for own in ids:
        assert all(earlier < later for earlier, later in pairwise(own))
    assert len(set().union(*ids)) == 100_000


FORKING = """
import os
import sys

from snapstore import new_snapshot_id

new_snapshot_id()
pipes = []
for _ in range(3):
    reader, writer = os.pipe()
    if os.fork() == 0:
        ids = "\\n".join(new_snapshot_id() for _ in range(20_000))
        with open(writer, "w") as pipe:
            pipe.write(ids)
        os._exit(0)
    os.close(writer)
    pipes.append(reader)
print("\\n".join(new_snapshot_id() for _ in range(20_000)))
for reader in pipes:
    with open(reader) as pipe:
        print(pipe.read())
    os.wait()
"""


def test_ids_of_a_process_and_of_its_forks_are_distinct():
    ids = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()

    assert len(ids) == 80_000
    assert len(set(ids)) == 80_000


def test_an_id_is_a_uuid7_in_lower_case():
    made = new_snapshot_id()

    assert uuid.UUID(made).version == 7
    assert uuid.UUID(made).variant == uuid.RFC_4122
    assert str(uuid.UUID(made)) == made


def test_an_id_holds_the_time_at_which_it_was_made():
    slack = timedelta(seconds=1)  # a clock may be set meanwhile
    before = datetime.now(UTC)
    made = snapshot_time(new_snapshot_id())

    assert made.tzinfo is UTC
    assert before - slack <= made <= datetime.now(UTC) + slack


@pytest.mark.parametrize(
    "time",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 11, 22, 11, 13, 20, 395_000, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    ],
)
def test_a_time_survives_the_way_through_an_id(time):
    assert snapshot_time(snapshot_id_at(time)) == time


def test_a_time_in_an_id_is_cut_to_its_millisecond():
    time = datetime(2026, 11, 22, 11, 13, 20, 395_999, tzinfo=UTC)

    assert snapshot_time(snapshot_id_at(time)) == time.replace(microsecond=395_000)


def test_one_moment_gives_one_id_in_every_time_zone():
    time = datetime(2026, 11, 22, 11, 13, 20, tzinfo=UTC)

    assert snapshot_id_at(time.astimezone(timezone(timedelta(hours=-8)))) == snapshot_id_at(time)


def test_snapshot_id_at_is_the_lowest_of_its_millisecond():
    time = datetime(2024, 8, 7, 2, 5, 21, 216_000, tzinfo=UTC)

    lowest = snapshot_id_at(time)

    assert lowest[14:] == "7000-8000-000000000000"
    assert snapshot_id_at(time - timedelta(milliseconds=1)) < lowest


def test_no_id_is_made_of_a_time_without_a_zone():
    with pytest.raises(ValueError, match="time zone"):
        snapshot_id_at(datetime(2026, 11, 22))  # noqa: DTZ001


def test_no_id_is_made_of_a_time_before_1970():
    with pytest.raises(ValueError, match="1970"):
        snapshot_id_at(datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC))


async def test_the_id_at_a_time_is_a_cursor_that_leaves_out_all_before():
    time = datetime(2026, 11, 22, 11, 13, 20, 395_000, tzinfo=UTC)
    millisecond = timedelta(milliseconds=1)
    before, at, after = (
        snapshot_id_at(moment)[:-12] + "0123456789ab"
        for moment in (time - millisecond, time, time + millisecond)
    )

    async with MemoryStorage() as storage:
        for snapshot_id in (after, before, at):
            await storage.save_snapshot(
                location=LOCATION, snapshot=snapshot(), is_latest=False, snapshot_id=snapshot_id
            )
        ids = await storage.list_snapshot_ids(location=LOCATION, start_after=snapshot_id_at(time))

    assert ids == [at, after]


def test_an_id_later_than_any_date_has_no_time():
    with pytest.raises(InvalidIdentifierError) as caught:
        snapshot_time("ffffffff-ffff-7fff-bfff-ffffffffffff")

    assert_plain_and_short(caught.value)


@pytest.mark.parametrize(
    "value", ["a", "0", "-", "_", "a-b_c-9", "a" * 255, "con", "default-session"]
)
def test_a_good_identifier_is_taken_for_a_session_and_in_a_scope(value):
    location = SnapshotLocation(value, "agent", value)

    assert (location.session_id, location.scope_id) == (value, value)


@pytest.mark.parametrize("value", BAD_IDENTIFIERS)
def test_a_bad_identifier_is_no_session_id(value):
    with pytest.raises(InvalidIdentifierError, match="session_id") as caught:
        SnapshotLocation(value, "agent", "weather")

    assert_plain_and_short(caught.value)


@pytest.mark.parametrize("value", BAD_IDENTIFIERS)
def test_a_bad_identifier_is_no_scope_id(value):
    with pytest.raises(InvalidIdentifierError, match="scope_id") as caught:
        SnapshotLocation("session-1", "agent", value)

    assert_plain_and_short(caught.value)


@pytest.mark.parametrize("value", BAD_IDENTIFIERS)
async def test_no_session_of_a_bad_identifier_is_deleted(value):
    async with MemoryStorage() as storage:
        with pytest.raises(InvalidIdentifierError, match="session_id") as caught:
            await storage.delete_session(session_id=value)

    assert_plain_and_short(caught.value)


@pytest.mark.parametrize("value", ["Agent", "multiagent", "multi_agent", "agent\n", "", None, 1])
def test_a_scope_is_spelled_exactly(value):
    with pytest.raises(InvalidIdentifierError, match="scope") as caught:
        SnapshotLocation("session-1", value, "weather")

    assert_plain_and_short(caught.value)


@pytest.mark.parametrize("value", BAD_SNAPSHOT_IDS)
async def test_what_is_no_uuid7_is_no_snapshot_id(value):
    async with MemoryStorage() as storage:
        for operation, arguments in (
            (storage.load_snapshot, {"snapshot_id": value}),
            (storage.load_versioned, {"snapshot_id": value}),
            (storage.list_snapshot_ids, {"start_after": value}),
            (storage.checkpoint, {"snapshot": snapshot(), "snapshot_id": value}),
            (
                storage.save_snapshot,
                {"snapshot": snapshot(), "is_latest": False, "snapshot_id": value},
            ),
        ):
            with pytest.raises(InvalidIdentifierError) as caught:
                await operation(location=LOCATION, **arguments)
            assert_plain_and_short(caught.value)
        assert await storage.load_snapshot(location=LOCATION) is None
        assert await storage.list_snapshot_ids(location=LOCATION) == []


@pytest.mark.parametrize("value", [*BAD_SNAPSHOT_IDS, pytest.param(None, id="None")])
def test_what_is_no_uuid7_has_no_time(value):
    with pytest.raises(InvalidIdentifierError) as caught:
        snapshot_time(value)

    assert_plain_and_short(caught.value)


async def test_snapshot_id_in_upper_case_is_lowered_everywhere():
    async with MemoryStorage() as storage:
        saved = await storage.save_snapshot(
            location=LOCATION,
            snapshot=snapshot(),
            is_latest=False,
            snapshot_id=SNAPSHOT_ID.upper(),
        )
        checkpoint = await storage.checkpoint(
            location=LOCATION, snapshot=snapshot(), snapshot_id=SNAPSHOT_ID.upper()
        )

        assert saved.snapshot_id == SNAPSHOT_ID
        assert checkpoint.snapshot_id == SNAPSHOT_ID
        for spelling in (SNAPSHOT_ID, SNAPSHOT_ID.upper(), SNAPSHOT_ID.title()):
            loaded = await storage.load_snapshot(location=LOCATION, snapshot_id=spelling)
            assert loaded == snapshot()
            assert await storage.list_snapshot_ids(location=LOCATION, start_after=spelling) == []
        assert await storage.list_snapshot_ids(location=LOCATION) == [SNAPSHOT_ID]

    assert snapshot_time(SNAPSHOT_ID.upper()) == snapshot_time(SNAPSHOT_ID)


async def test_snapshot_id_latest_is_ignored_with_latest():
    async with MemoryStorage() as storage:
        saved = await storage.save_snapshot(
            location=LOCATION, snapshot=snapshot(), is_latest=True, snapshot_id="latest"
        )

        assert saved.snapshot_id is None
        assert await storage.load_snapshot(location=LOCATION) == snapshot()


async def test_a_text_that_shows_as_another_is_taken_for_what_it_is():
    location = SnapshotLocation(Name.SESSION, Name.SCOPE, Name.AGENT)
    assert (
        f"{location.session_id} {location.scope} {location.scope_id}" == "session-1 agent weather"
    )

    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store, prefix=Name.PREFIX) as storage:
        await storage.save_snapshot(location=location, snapshot=Snapshot.new({}), is_latest=True)
        assert list(store.objects) == [
            "prod/session-1/scopes/agent/weather/snapshots/snapshot_latest.json"
        ]
        assert (await storage.delete_session(session_id=Name.SESSION)).objects == 1
