# ruff: noqa: D102 -- the name of a test says what it checks
"""The conformance suite for history in both directions, and at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from snapstore.encoding.envelope import encode_snapshot
from snapstore.encoding.packs import PackWriter
from snapstore.errors import InvalidIdentifierError
from snapstore.model.keys import Layout
from snapstore.model.protocols import VersionedSnapshotStorage
from snapstore.model.snapshot import Snapshot
from snapstore.testing.samples import (
    HISTORY,
    LATEST,
    LOCATION,
    MORE_THAN_A_PAGE,
    make_snapshot,
    snapshot_ids,
)
from snapstore.testing.snapshot_suite import save_in_history, seed_history
from snapstore.testing.subjects import StorageSubject

__all__ = ["HistoryTests"]

Subject = StorageSubject[VersionedSnapshotStorage]

FIRST_TIME: Final = datetime.fromtimestamp(0x01912A3B0000 / 1_000, UTC)
"""The time of the first of `snapshot_ids`; each other is a millisecond later."""
MILLISECOND: Final = timedelta(milliseconds=1)


class HistoryTests:
    """Tests of history newest first, between times, and as of a time."""

    async def test_the_newest_come_first_where_that_is_asked_for(self, subject: Subject) -> None:
        ids = snapshot_ids(7)
        assert await newest(subject) == await walked_back(subject) == []
        await seed_history(subject.raw, ids)
        await subject.raw.put(f"{HISTORY}notes.txt", b"of nobody")
        await subject.raw.put(f"{HISTORY}snapshot_zzz.json", b"of nobody")
        await subject.raw.put(LATEST, b"{}")
        backwards = ids[::-1]
        assert await newest(subject) == await walked_back(subject) == backwards
        for limit in (-1, 0, 1, 3, 7, 8, 1_000, 1_001):
            assert await newest(subject, limit=limit) == backwards[: max(limit, 0)], limit

    async def test_newest_first_a_cursor_means_before(self, subject: Subject) -> None:
        ids = snapshot_ids(5)
        await seed_history(subject.raw, [*ids[:2], *ids[3:]])
        assert await newest(subject, start_after=ids[3].upper()) == [ids[1], ids[0]]
        assert await newest(subject, start_after=ids[2], limit=1) == [ids[1]]
        assert await newest(subject, start_after=ids[0]) == []
        assert await walked_back(subject, start_after=ids[3]) == [ids[1], ids[0]]
        lowest = "00000000-0000-7000-8000-000000000000"
        assert await newest(subject, start_after=lowest, limit=1) == []
        with pytest.raises(InvalidIdentifierError):
            await newest(subject, start_after="latest")

    async def test_pages_newest_first_make_up_all_of_a_long_history(self, subject: Subject) -> None:
        ids = snapshot_ids(MORE_THAN_A_PAGE)
        await seed_history(subject.raw, ids)
        backwards = ids[::-1]
        assert await newest(subject, limit=10) == backwards[:10]
        assert await newest(subject) == await walked_back(subject) == backwards
        seen = await newest(subject, limit=600)
        seen += await newest(subject, limit=600, start_after=seen[-1])
        assert seen == backwards

    async def test_ids_between_two_times_are_listed(self, subject: Subject) -> None:
        ids = snapshot_ids(6)
        await seed_history(subject.raw, ids)
        for first in range(6):
            for last in range(first, 6):
                times = {"since": at(first), "until": at(last)}
                expected = ids[first : last + 1]
                assert await oldest(subject, **times) == expected
                assert await newest(subject, **times) == expected[::-1]
                assert await newest(subject, **times, limit=2) == expected[::-1][:2]
                assert await oldest(subject, **times, limit=2) == expected[:2]
                assert await walked_back(subject, **times) == expected[::-1]
        # Times have microseconds, and ids whole milliseconds.
        later = timedelta(microseconds=900)
        assert await oldest(subject, since=at(4) + later) == ids[4:]
        assert await oldest(subject, until=at(1) + later) == ids[:2]
        assert await oldest(subject, since=at(1), start_after=ids[2]) == ids[3:]
        assert await newest(subject, until=at(4), start_after=ids[2]) == ids[1::-1]

    async def test_a_snapshot_is_loaded_as_of_a_time(self, subject: Subject) -> None:
        ids = snapshot_ids(3)
        assert await as_of(subject, at(0)) is None
        for n, snapshot_id in enumerate(ids):
            await save_in_history(subject, make_snapshot({"n": n}), snapshot_id)
        assert await as_of(subject, at(0) - MILLISECOND) is None
        for n in range(3):
            assert await as_of(subject, at(n)) == make_snapshot({"n": n})
        assert await as_of(subject, at(500)) == make_snapshot({"n": 2})
        with pytest.raises(TypeError):
            await subject.storage.load_snapshot(location=LOCATION, snapshot_id=ids[0], as_of=at(0))

    async def test_a_snapshot_in_a_pack_is_loaded_as_of_a_time(self, subject: Subject) -> None:
        ids = snapshot_ids(5)
        for n in (0, 3):
            await save_in_history(subject, make_snapshot({"n": n}), ids[n])
        await seed_pack(subject, {ids[n]: make_snapshot({"n": n}) for n in (1, 2, 4)})
        for n in range(5):
            assert await as_of(subject, at(n)) == make_snapshot({"n": n})
        assert await as_of(subject, at(500)) == make_snapshot({"n": 4})
        assert await as_of(subject, at(0) - MILLISECOND) is None
        assert await oldest(subject) == [ids[0], ids[3]]

    async def test_a_time_that_is_naive_or_none_is_refused(self, subject: Subject) -> None:
        times: list[tuple[Any, type[Exception]]] = [
            (datetime(2026, 11, 22), ValueError),  # noqa: DTZ001
            (datetime(1969, 12, 31, tzinfo=UTC), ValueError),
            ("2026-11-22T00:00:00Z", TypeError),
            (1_795_346_000, TypeError),
        ]
        for time, error in times:
            for name in ("since", "until"):
                for call in (oldest, newest, walked_back):
                    with pytest.raises(error, match=name):
                        await call(subject, **{name: time})
            with pytest.raises(error):
                await as_of(subject, time)
        with pytest.raises(ValueError, match="since"):
            await newest(subject, since=at(1), until=at(0))


async def seed_pack(subject: Subject, snapshots: Mapping[str, Snapshot]) -> None:
    """Store a pack, as `snapstore.operations.archive` writes it."""
    try:
        writer = PackWriter("suite")
    except ModuleNotFoundError:
        pytest.skip('packs need Zstandard: pip install "snapstore[archive]"')
    for snapshot_id, snapshot in snapshots.items():
        writer.add(snapshot_id, encode_snapshot(snapshot, max_bytes=2**20))
    data = writer.finish()
    digest = hashlib.sha256(data).hexdigest()
    name = Layout().pack(LOCATION, min(snapshots), max(snapshots), digest)
    await subject.raw.put(name.key, data)


def at(n: int) -> datetime:
    return FIRST_TIME + n * MILLISECOND


async def oldest(subject: Subject, **which: Any) -> list[str]:
    return await subject.storage.list_snapshot_ids(location=LOCATION, **which)


async def newest(subject: Subject, **which: Any) -> list[str]:
    return await oldest(subject, newest_first=True, **which)


async def walked_back(subject: Subject, **which: Any) -> list[str]:
    walk = subject.storage.iter_snapshot_ids(location=LOCATION, newest_first=True, **which)
    async with aclosing(walk) as ids:
        return [snapshot_id async for snapshot_id in ids]


async def as_of(subject: Subject, time: datetime) -> object:
    return await subject.storage.load_snapshot(location=LOCATION, as_of=time)
