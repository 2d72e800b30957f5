"""Each operation, killed at every call that it makes, and met by a writer or a second operator."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from histories import document, location_of, write_history
from interruptions import killed_at_each_call, met_at_each_call, state, storage_over
from snapstore import (
    MemoryStorage,
    Snapshot,
    SnapshotExistsError,
    SnapshotManifest,
    StorageError,
)
from snapstore.operations import (
    RetentionPolicy,
    copy,
    erase_session,
    fork_session,
    prune,
    prune_sessions,
    redact,
    redaction,
    verify,
)
from snapstore.stores import MemoryObjectStore

SESSIONS = ["s-1", "s-2"]
OTHER = location_of("other")
SAVED = Snapshot.new({"text": "saved meanwhile"})
SECRET = "canary-8f2c"


class OldStore(MemoryObjectStore):
    """Objects that were written long ago, but for what comes while it is in use."""

    is_now = False

    async def put(self, key, data, **options):
        version = await super().put(key, data, **options)
        if not self.is_now:
            self._modified[key] = datetime.now(UTC) - timedelta(days=100)
        return version


async def prepare(storage):
    """Two sessions of two agents each, with stash, and another one that nothing may touch."""
    for session_id in (*SESSIONS, "other"):
        for agent in ("weather", "travel"):
            location = location_of(session_id, agent)
            ids = await write_history(storage, location, range(90, 96))
            await storage.objects.put(storage.layout.history(location, ids[0]), secret())
            await storage.rewind(location=location, snapshot_id=ids[-1])
        manifest = SnapshotManifest("1.0", "then", {"note": SECRET})
        await storage.save_manifest(location=location_of(session_id), manifest=manifest)
        stash = f"{storage.layout.stash_prefix(session_id)}text"
        await storage.objects.put(stash, SECRET.encode())


async def prepare_damage(storage):
    await prepare(storage)
    await storage.objects.put(storage.layout.latest(location_of("s-1")), b"broken")
    ids = await storage.list_snapshot_ids(location=location_of("s-1"))
    await storage.objects.put(storage.layout.history(location_of("s-1"), ids[-1]), b"broken")


def secret():
    return document(SECRET)


async def of_each(operation, storage):
    for session_id in SESSIONS:
        await operation(storage, session_id=session_id).run()


class Case(NamedTuple):
    """An operation.

    Attributes:
        run: Makes it.
        prepare: Writes what is there before.
        leaves: Tells keys that a crash may leave for good, as the documentation says.
    """

    run: Any
    prepare: Any = prepare
    leaves: Any = lambda key: False


async def run_fork(storage):
    try:
        await fork_session(storage, session_id="s-1", into="fork").run()
    except SnapshotExistsError:
        # Killed after its last write, it is whole: the id is taken.
        claims = [
            (await storage.load_manifest(location=location_of("fork", agent))).extra
            for agent in ("weather", "travel")
        ]
        if not all(claim.get("forkedFrom", {}).get("complete") for claim in claims):
            raise


CASES = {
    "prune": Case(lambda s: prune(s, RetentionPolicy(keep_last=2), sessions=SESSIONS).run()),
    "prune_sessions": Case(
        lambda s: prune_sessions(s, idle_for=timedelta(days=7), sessions=SESSIONS).run(),
    ),
    "erase_session": Case(lambda s: of_each(erase_session, s)),
    "redact": Case(
        lambda s: of_each(lambda *a, **k: redact(*a, change=redaction([SECRET]), **k), s)
    ),
    "fork_session": Case(run_fork),
    "verify": Case(lambda s: verify(s, sessions=SESSIONS, mend=True).run(), prepare_damage),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@EACH
async def test_killed_at_any_call_and_made_again_it_ends_the_same(case):
    async def run(storage, *, again):
        await case.run(storage)

    calls = await killed_at_each_call(case.prepare, run, store=OldStore, ignoring=case.leaves)
    assert calls >= 10


@EACH
async def test_a_writer_in_another_session_is_never_touched(case):
    async def save(storage):
        saved = await storage.checkpoint(location=OTHER, snapshot=SAVED)
        return {
            key: body for key, body in state(storage.objects.store).items() if "other" in key
        } | {"id": saved.snapshot_id}

    async def check(storage, before):
        snapshot_id = before.pop("id")
        now = state(storage.objects.store)
        assert {key: now.get(key) for key in before} == before
        assert await storage.load_snapshot(location=OTHER, snapshot_id=snapshot_id) is not None

    assert await met_at_each_call(case.prepare, case.run, save, check, store=OldStore) >= 10


@EACH
async def test_a_second_operator_does_no_harm(case):
    """It does all of the same while the first one is at work: the end is that of one alone."""
    expected = OldStore()
    async with storage_over(expected) as (_, storage, _other):
        await case.prepare(storage)
        await case.run(storage)

    async def operate(storage):
        try:
            await case.run(storage)
        except StorageError as error:
            return error
        return None

    async def run(storage):
        try:
            await case.run(storage)
        except (SnapshotExistsError, StorageError):
            # Two forks into one target: the claims of one of them have come first.
            assert case.run is run_fork

    async def check(storage, _):
        await operate(storage)
        found = {k: v for k, v in state(storage.objects.store).items() if not case.leaves(k)}
        wanted = {k: v for k, v in state(expected).items() if not case.leaves(k)}
        assert found == wanted

    assert await met_at_each_call(case.prepare, run, operate, check, store=OldStore) >= 10


async def test_a_copy_that_is_killed_anywhere_ends_the_same_too():
    """Its target is another store, of which calls fail as well."""
    async with MemoryStorage() as source:
        await prepare(source)

        async def nothing_there(_):
            pass

        async def run(storage, *, again):
            await copy(source, storage, sessions=SESSIONS).run()

        assert await killed_at_each_call(nothing_there, run) > 10


async def test_a_checkpoint_in_the_session_itself_is_kept_where_it_must_be():
    """By what prunes history, redacts and mends; and then by what does not remove sessions."""
    location = location_of("s-1")

    async def save(storage):
        return (await storage.checkpoint(location=location, snapshot=SAVED)).snapshot_id

    async def check(storage, snapshot_id):
        ids = await storage.list_snapshot_ids(location=location)
        assert snapshot_id in ids
        latest = await storage.load_versioned(location=location)
        assert latest.snapshot.data == SAVED.data
        assert latest.snapshot_id == snapshot_id

    for name in ("prune", "redact", "verify", "fork_session", "prune_sessions"):
        case = CASES[name]

        async def prepare_and_come_alive(storage, case=case):
            await case.prepare(storage)
            storage.objects.store.is_now = True

        await met_at_each_call(prepare_and_come_alive, case.run, save, check, store=OldStore)
