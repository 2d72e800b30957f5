# ruff: noqa: D102 -- the name of a test says what it checks
"""The conformance suite for what a storage tells of its sessions."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import pytest

from snapstore.errors import InvalidIdentifierError
from snapstore.model.ids import snapshot_time
from snapstore.model.protocols import VersionedSnapshotStorage
from snapstore.model.sessions import SessionOrder, SessionSummary
from snapstore.model.snapshot import SnapshotLocation
from snapstore.testing.samples import (
    LATEST,
    LOCATION,
    MANIFEST,
    MORE_THAN_A_PAGE,
    SIBLINGS,
    history_key,
    make_snapshot,
    snapshot_ids,
)
from snapstore.testing.subjects import StorageSubject, seed

__all__ = ["SessionTests"]

Subject = StorageSubject[VersionedSnapshotStorage]

ORDERS: Final[tuple[SessionOrder, ...]] = ("id", "created", "updated")
CLOCKS_DIFFER_BY: Final = timedelta(days=1)
"""How far the clock of the store may be off."""
IN_ORDER: Final = sorted(SIBLINGS, key=lambda session_id: f"{session_id}/")
NO_SESSIONS: Final = (
    "readme.md",
    "backups/2026/scopes.tar",
    "notes/scopes",
    "S-1/scopes/agent/weather/snapshots/snapshot_latest.json",
    "a.b/scopes/agent/weather/snapshots/snapshot_latest.json",
    "tenant/s-7/scopes/agent/weather/snapshots/snapshot_latest.json",
    "context/s-1/scopes/agent/weather/call_0",
    "scopes/agent/weather/snapshots/snapshot_latest.json",
)
"""Keys that show no session of the storage itself."""


class SessionTests:
    """Tests of the sessions that there are, lists of them, and their figures."""

    async def test_sessions_are_what_has_snapshots_directly_under_a_name(
        self, subject: Subject
    ) -> None:
        assert await walked(subject) == []
        assert await listed(subject) == []
        await seed(subject.raw, dict.fromkeys(NO_SESSIONS, b"{}"))
        assert await walked(subject) == []
        for order in ORDERS:
            assert await listed(subject, order=order) == []
        for session_id in SIBLINGS:
            await subject.raw.put(latest_of(session_id), b"{}")
        assert await walked(subject) == await listed(subject) == IN_ORDER
        assert sorted(await listed(subject, order="updated")) == sorted(IN_ORDER)

    async def test_sessions_after_a_cursor_are_those_that_follow_it(self, subject: Subject) -> None:
        for session_id in SIBLINGS:
            await subject.raw.put(latest_of(session_id), b"{}")
            await subject.raw.put(f"{session_id}/notes.txt", b"of nobody")
        for place, session_id in enumerate(IN_ORDER):
            assert await walked(subject, start_after=session_id) == IN_ORDER[place + 1 :]
        assert await walked(subject, start_after="s-1-0") == IN_ORDER[1:]
        assert await walked(subject, start_after="s0") == IN_ORDER[-1:]
        with pytest.raises(InvalidIdentifierError):
            await walked(subject, start_after="S-1")

    async def test_more_than_a_page_of_sessions_come_once_each(self, subject: Subject) -> None:
        ids = snapshot_ids(MORE_THAN_A_PAGE)
        await seed(subject.raw, {latest_of(session_id): b"{}" for session_id in ids})
        assert await walked(subject) == ids
        assert await walked(subject, start_after=ids[500]) == ids[501:]
        assert await in_pages(subject, 1_000, "id") == ids
        assert await listed(subject, limit=3, order="created") == ids[:-4:-1]

    async def test_pages_of_sessions_make_up_the_whole_list(self, subject: Subject) -> None:
        ids = snapshot_ids(7)
        for n, session_id in enumerate(ids):
            await subject.raw.put(history_of(session_id, ids[n * 3 % 7]), b"{}")
        await subject.raw.put("notes/scopes", b"of nobody")
        updated = sorted(ids, key=lambda found: ids.index(found) * 3 % 7, reverse=True)
        for limit in (1, 2, 6, 7, 1_000):
            assert await in_pages(subject, limit, "id") == await walked(subject)
            assert await in_pages(subject, limit, "created") == ids[::-1]
            assert await in_pages(subject, limit, "updated") == updated

    async def test_a_summary_has_the_figures_of_its_session(self, subject: Subject) -> None:
        ids = snapshot_ids(4)
        objects = {
            LATEST: b"{1}",
            MANIFEST: b"{22}",
            history_key(ids[0]): b"{333}",
            history_key(ids[2]): b"{4444}",
            "s-1/scopes/multiAgent/graph/snapshots/snapshot_latest.json": b"{55555}",
        }
        await seed(subject.raw, {**objects, f"s-1/{LATEST}": b"of another store"})
        await subject.raw.put("s-1/scopes/agent/weather/snapshots/notes.txt", b"of nobody")
        await subject.raw.put(latest_of("s-2"), b"{}")
        for order in ("id", "updated"):
            [summary] = [
                found for found in await summaries(subject, order) if found.session_id == "s-1"
            ]
            assert (summary.locations, summary.snapshots) == (2, 2)
            assert summary.bytes in (sum(map(len, objects.values())), None)
            assert summary.updated_at is not None
            # The graph has no history: the time at which its latest was written is what counts.
            assert summary.updated_at == snapshot_time(ids[2]) or is_now(summary.updated_at)

    async def test_what_is_no_save_does_not_make_a_session_look_active(
        self, subject: Subject
    ) -> None:
        ids = snapshot_ids(3)
        for snapshot_id in ids:
            await subject.storage.save_snapshot(
                location=LOCATION,
                snapshot=make_snapshot(),
                is_latest=False,
                snapshot_id=snapshot_id,
            )
        await subject.storage.rewind(location=LOCATION, snapshot_id=ids[0])
        [summary] = await summaries(subject, "updated")
        assert summary.updated_at == snapshot_time(ids[2])
        described = await subject.storage.describe_session(session_id="s-1")
        assert described is not None
        assert described.updated_at == summary.updated_at

    async def test_without_history_the_time_of_latest_counts(self, subject: Subject) -> None:
        saved = await subject.storage.save_snapshot(
            location=LOCATION, snapshot=make_snapshot(), is_latest=True
        )
        [summary] = await summaries(subject, "updated")
        assert summary.updated_at is None or is_now(summary.updated_at)
        described = await subject.storage.describe_session(session_id="s-1")
        assert described is not None
        [location] = described.locations
        assert location.latest is not None
        assert location.latest.etag in (saved.etag, None)
        assert location.latest.modified_at == described.updated_at == summary.updated_at

    async def test_a_description_has_the_figures_of_each_location(self, subject: Subject) -> None:
        ids = snapshot_ids(3)
        assert await subject.storage.describe_session(session_id="s-1") is None
        foreign = {
            "s-1/notes.txt": b"of nobody",
            f"s-1/{LATEST}": b"of another store",
            history_key("zzz"): b"of nobody",
        }
        await seed(subject.raw, {"s-1/notes.txt": b"of nobody", latest_of("s-10"): b"{}"})
        assert await subject.storage.describe_session(session_id="s-1") is None
        own = {LATEST: b"{1}", MANIFEST: b"{22}", **{history_key(found): b"{333}" for found in ids}}
        graph = "s-1/scopes/multiAgent/graph/snapshots/"
        archive = {f"{graph}archive/pack.jsonl.zst": b"666666"}
        await seed(subject.raw, foreign | own | archive)
        await subject.raw.put(f"{graph}manifest.json", b"{4444}")

        found = await subject.storage.describe_session(session_id="s-1")

        assert found is not None
        assert found.session_id == "s-1"
        assert found.updated_at == snapshot_time(ids[2])
        agent, orchestrator = found.locations
        assert (agent.location, agent.snapshots, agent.has_manifest) == (LOCATION, 3, True)
        assert agent.bytes == sum(map(len, own.values()))
        assert (agent.first_id, agent.last_id) == (ids[0], ids[2])
        assert (agent.first_at, agent.last_at) == (snapshot_time(ids[0]), snapshot_time(ids[2]))
        assert agent.latest is not None
        assert agent.latest.size == len(own[LATEST])
        assert orchestrator.location == SnapshotLocation.multi_agent("s-1", "graph")
        assert (orchestrator.snapshots, orchestrator.first_id, orchestrator.last_at) == (
            0,
            None,
            None,
        )
        assert (orchestrator.latest, orchestrator.has_manifest) == (None, True)
        assert orchestrator.bytes == len(b"{4444}")
        assert (found.archive.objects, found.archive.bytes) == (1, 6)
        assert found.foreign.objects == len(foreign)
        assert found.foreign.bytes == sum(map(len, foreign.values()))

    async def test_a_deleted_session_is_not_listed(self, subject: Subject) -> None:
        for session_id in ("s-1", "s-2"):
            await subject.raw.put(latest_of(session_id), b"{}")
        await subject.storage.delete_session(session_id="s-1")
        assert await walked(subject) == await listed(subject) == ["s-2"]
        assert await listed(subject, order="updated") == ["s-2"]
        assert await subject.storage.describe_session(session_id="s-1") is None

    async def test_only_uuid7_sessions_are_listed_by_creation(self, subject: Subject) -> None:
        for session_id in (*snapshot_ids(2), "session-1"):
            await subject.raw.put(latest_of(session_id), b"{}")
        with pytest.raises(ValueError, match="session-1"):
            await listed(subject, order="created")

    async def test_a_wrong_limit_order_or_cursor_is_refused(self, subject: Subject) -> None:
        ids = snapshot_ids(3)
        for session_id in ids:
            await subject.raw.put(latest_of(session_id), b"{}")
        for limit in (-1, 0, 1_001):
            with pytest.raises(ValueError, match="limit"):
                await subject.storage.list_sessions(limit=limit)
        with pytest.raises(ValueError, match="order"):
            await subject.storage.list_sessions(limit=1, order=cast("Any", "newest"))
        page = await subject.storage.list_sessions(limit=1)
        assert page.cursor is not None
        for cursor in ("", ids[0], page.cursor[:-1], f"{page.cursor}A", page.cursor.swapcase()):
            with pytest.raises(ValueError, match="cursor"):
                await subject.storage.list_sessions(limit=1, cursor=cursor)
        for order in ORDERS[1:]:
            with pytest.raises(ValueError, match="cursor"):
                await subject.storage.list_sessions(limit=1, order=order, cursor=page.cursor)


def latest_of(session_id: str) -> str:
    return f"{session_id}/scopes/agent/weather/snapshots/snapshot_latest.json"


def history_of(session_id: str, snapshot_id: str) -> str:
    return history_key(snapshot_id).replace("s-1/", f"{session_id}/", 1)


def is_now(time: datetime) -> bool:
    return abs(datetime.now(UTC) - time) < CLOCKS_DIFFER_BY


async def walked(subject: Subject, **which: Any) -> list[str]:
    async with aclosing(subject.storage.iter_sessions(**which)) as ids:
        return [session_id async for session_id in ids]


async def summaries(subject: Subject, order: str) -> list[SessionSummary]:
    page = await subject.storage.list_sessions(limit=1_000, order=cast("SessionOrder", order))
    return list(page.sessions)


async def listed(subject: Subject, *, limit: int = 1_000, **which: Any) -> list[str]:
    page = await subject.storage.list_sessions(limit=limit, **which)
    return [summary.session_id for summary in page.sessions]


async def in_pages(subject: Subject, limit: int, order: SessionOrder) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await subject.storage.list_sessions(limit=limit, order=order, cursor=cursor)
        found += [summary.session_id for summary in page.sessions]
        cursor = page.cursor
        if cursor is None:
            return found
        assert len(page.sessions) == limit
