"""A dry run, saved as lines of JSON and applied later, does what it says and no more."""

import io
from datetime import UTC, datetime, timedelta

import pytest

from histories import NOW, document, id_days_ago, location_of, write_history
from snapstore import FileStorage, MemoryStorage, ObjectSnapshotStorage
from snapstore.operations import (
    CopyEvent,
    DeleteEvent,
    RetentionPolicy,
    SessionEvent,
    apply,
    apply_copies,
    copy,
    decode_events,
    delete_snapshots,
    encode_event,
    prune,
    prune_sessions,
)
from snapstore.stores import MemoryObjectStore

LOCATION = location_of("s-1")
LAST_TWO = RetentionPolicy(keep_last=2)


async def planned(operation):
    """The events of a dry run, after they were written to a file and read again."""
    file = io.BytesIO()
    async with operation:
        async for event in operation:
            file.write(encode_event(event))
    file.seek(0)
    return list(decode_events(file))


async def applied(storage, events):
    operation = apply(storage, events)
    async with operation:
        results = [event.result async for event in operation]
    return results, operation.report


async def test_a_prune_is_applied_as_it_was_planned():
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(5))
        more = await write_history(storage, location_of("s-2"), range(4))
        plan = await planned(prune(storage, LAST_TWO, sessions=["s-1", "s-2"], dry_run=True))
        later = await write_history(storage, LOCATION, [-1, -2, -3])
        results, report = await applied(storage, plan)
        assert await storage.list_snapshot_ids(location=LOCATION) == [*ids[-2:], *later]
        assert await storage.list_snapshot_ids(location=location_of("s-2")) == more[-2:]
    assert results == ["deleted"] * 5
    assert (report.done, report.ok) == (5, True)


async def test_what_has_changed_or_gone_since_is_left_alone():
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(5))
        plan = await planned(prune(storage, LAST_TWO, sessions=["s-1"], dry_run=True))
        await delete_snapshots(storage, LOCATION, [ids[0], ids[1]]).run()
        await storage.objects.put(storage.layout.history(LOCATION, ids[1]), document(77))
        results, report = await applied(storage, plan)
        assert await storage.list_snapshot_ids(location=LOCATION) == [ids[1], ids[3], ids[4]]
    assert sorted(results) == ["changed", "deleted", "missing"]
    assert (report.done, report.changed, report.missing, report.ok) == (1, 1, 1, False)


async def test_what_latest_was_rewound_to_since_is_left_alone():
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(5))
        plan = await planned(prune(storage, LAST_TWO, sessions=["s-1"], dry_run=True))
        await storage.rewind(location=LOCATION, snapshot_id=ids[1])
        results, report = await applied(storage, plan)
        assert await storage.list_snapshot_ids(location=LOCATION) == [ids[1], *ids[3:]]
    assert sorted(results) == ["changed", "deleted", "deleted"]
    assert report.ok is False


async def test_given_snapshots_are_deleted_whatever_is_stored():
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(3))
        plan = await planned(delete_snapshots(storage, LOCATION, ids[:2], dry_run=True))
        await applied(storage, plan)
        assert await storage.list_snapshot_ids(location=LOCATION) == ids[2:]


class OldStore(MemoryObjectStore):
    async def put(self, key, data, **options):
        version = await super().put(key, data, **options)
        self._modified[key] = datetime(2026, 1, 1, tzinfo=UTC)
        return version


async def test_sessions_are_removed_if_nothing_of_them_has_changed():
    async with ObjectSnapshotStorage(OldStore()) as storage:
        for session_id in ("s-1", "s-2", "s-3"):
            await write_history(storage, location_of(session_id), range(90, 93))
        plan = await planned(
            prune_sessions(
                storage,
                idle_for=timedelta(days=7),
                sessions=["s-1", "s-2", "s-3"],
                dry_run=True,
            )
        )
        assert {event.session_id for event in plan} == {"s-1", "s-2", "s-3"}
        await storage.objects.put(storage.layout.latest(location_of("s-2")), document(1))
        await storage.delete_session(session_id="s-3")
        operation = apply(storage, plan)
        async with operation:
            results = {event.session_id: event.result async for event in operation}
        ids = await storage.list_snapshot_ids(location=location_of("s-2"))
        assert len(ids) == 3
    assert results == {"s-1": "removed", "s-2": "changed", "s-3": "changed"}
    assert (operation.report.done, operation.report.changed) == (1, 2)


EVENT = DeleteEvent(key="s-1/scopes/agent/weather/snapshots/manifest.json", result="planned")


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (EVENT, "not of this storage"),
        (DeleteEvent(key="elsewhere", result="planned"), "not of this storage"),
        (DeleteEvent(key="elsewhere", result="deleted"), "not of a dry run"),
        (CopyEvent(session_id="s-1", key="s-1/x", result="planned"), "of a copy"),
        (
            SessionEvent(
                session_id="s-1",
                result="removed",
                updated_at=NOW,
                objects=1,
                size=1,
                fingerprint="0",
            ),
            "not of a dry run",
        ),
    ],
)
async def test_events_that_can_not_be_applied_are_refused(event, words):
    async with MemoryStorage() as storage:
        ids = await write_history(storage, LOCATION, range(2))
        with pytest.raises(ValueError, match=words):
            await apply(storage, [event]).run()
        assert await storage.list_snapshot_ids(location=LOCATION) == ids


@pytest.mark.parametrize("line", [b"{}", b"x", b'{"type":"delete"}', b'"canary"', b"\xff"])
def test_lines_that_are_no_events_are_refused_without_their_text(line):
    good = encode_event(DeleteEvent(key=id_days_ago(1), result="planned"))
    events = decode_events([good, b"\n", line])
    assert next(events).result == "planned"
    with pytest.raises(ValueError, match="line 3 is no event") as caught:
        next(events)
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


async def test_a_plan_names_a_foreign_file_whose_name_is_no_utf_8(tmp_path):
    async with (
        FileStorage(tmp_path / "source") as source,
        FileStorage(tmp_path / "target") as target,
    ):
        await write_history(source, LOCATION, [1])
        name = "note-\udcff"
        await source.objects.put(f"s-1/{name}", b"mine")
        events = await planned(copy(source, target, dry_run=True))
        assert f"s-1/{name}" in {event.key for event in events}
        report = await apply_copies(source, target, events).run()
        assert report.copied == len(events) == 2
        assert (await target.objects.get(f"s-1/{name}", max_bytes=9)).data == b"mine"


def test_what_is_no_event_is_refused_by_its_line():
    for line in ("{", "[]", '{"type":"copy"}', "\ud800", "[" * 9_000, '{"type":"\\ud800"}'):
        with pytest.raises(ValueError, match="line 1 is no event"):
            list(decode_events([line]))
