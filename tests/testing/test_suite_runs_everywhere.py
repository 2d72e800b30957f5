"""The published suites: they run under every async framework, and catch what is broken."""

import asyncio
import copy
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

import capability_mistakes
from capability_mistakes import BrokenCapability, mistakes_in
from snapstore import (
    DeletedSession,
    InvalidIdentifierError,
    ObjectSnapshotStorage,
    ObjectTotals,
    SavedSnapshot,
    ScopeMismatchError,
    SessionDeletedError,
    SessionDescription,
    SessionPage,
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotManifest,
    VersionedSnapshot,
    new_snapshot_id,
    snapshot_time,
)
from snapstore.encoding.envelope import (
    decode_manifest,
    decode_snapshot,
    encode_manifest,
    encode_snapshot,
)
from snapstore.model.ids import validate_snapshot_id
from snapstore.model.keys import Layout
from snapstore.model.snapshot import now
from snapstore.stores import PreconditionFailedError, Version
from snapstore.stores.base import PAGE_SIZE
from snapstore.stores.memory import MemoryObjectStore
from snapstore.testing import (
    ObjectStoreTests,
    SnapshotStorageTests,
    StoreCapabilityTests,
    VersionedSnapshotStorageTests,
)

pytest_plugins = ["pytester"]

MAX_BYTES = 2**26
LOOP_SCOPE = "asyncio_default_fixture_loop_scope"  # pytest-asyncio warns where it is unset
LAYOUT = Layout()


class ThirdPartyStorage:
    """Somebody's own: the six operations, saves that return nothing, and nothing to be opened."""

    def __init__(self, objects):
        self.objects = objects

    async def save_snapshot(self, *, location, snapshot, is_latest, snapshot_id=None):
        data = encode_snapshot(snapshot, max_bytes=MAX_BYTES)
        if snapshot.scope != location.scope:
            raise ScopeMismatchError("another scope")
        if is_latest:
            self.objects[LAYOUT.latest(location)] = data
        else:
            snapshot_id = new_snapshot_id() if snapshot_id is None else snapshot_id
            self.objects[LAYOUT.history(location, validate_snapshot_id(snapshot_id))] = data

    async def load_snapshot(self, *, location, snapshot_id=None):
        key = LAYOUT.latest(location)
        if snapshot_id is not None:
            key = LAYOUT.history(location, validate_snapshot_id(snapshot_id))
        return decode_snapshot(self.objects[key], key=key) if key in self.objects else None

    async def list_snapshot_ids(self, *, location, limit=None, start_after=None):
        start_after = "" if start_after is None else validate_snapshot_id(start_after)
        prefix = LAYOUT.history_prefix(location)
        keys = [key for key in self.objects if key.startswith(prefix)]
        ids = sorted(LAYOUT.snapshot_ids(keys, prefix))
        ids = [snapshot_id for snapshot_id in ids if snapshot_id > start_after]
        return ids if limit is None else ids[: max(limit, 0)]

    async def delete_session(self, *, session_id):
        prefix = LAYOUT.session_prefix(session_id)
        keys = [key for key in self.objects if key.startswith(prefix)]
        if any(LAYOUT.is_own(key, prefix) for key in keys):
            for key in keys:
                if not LAYOUT.is_nested_store(key, prefix):
                    del self.objects[key]

    async def load_manifest(self, *, location):
        key = LAYOUT.manifest(location)
        if key not in self.objects:
            return SnapshotManifest("1.0", now())
        return decode_manifest(self.objects[key], key=key)

    async def save_manifest(self, *, location, manifest):
        data = encode_manifest(manifest, max_bytes=MAX_BYTES)
        self.objects[LAYOUT.manifest(location)] = data


MY_PACKAGE = """
    from snapstore import ObjectSnapshotStorage
    from snapstore.stores.memory import MemoryObjectStore


    class MyStore(MemoryObjectStore):
        def __init__(self, objects):
            super().__init__()
            self.objects = objects


    class MyStorage(ObjectSnapshotStorage):
        def __init__(self, objects):
            super().__init__(MyStore(objects))
"""

TESTS = """
    import pytest
    import pytest_asyncio
    from my_package import MyStorage, MyStore
    from snapstore.testing import (
        DictObjects,
        ObjectStoreTests,
        SnapshotStorageTests,
        StorageSubject,
        StoreCapabilityTests,
        StoreSubject,
        VersionedSnapshotStorageTests,
    )
    from capability_mistakes import CapableStore
    from test_suite_runs_everywhere import ThirdPartyStorage

    pytestmark = [MARK]


    @pytest.fixture
    def anyio_backend():
        return "asyncio"


    class TestThirdParty(SnapshotStorageTests):
        @pytest.fixture
        def subject(self):
            objects = {}
            return StorageSubject(ThirdPartyStorage(objects), DictObjects(objects))


    class TestStorage(VersionedSnapshotStorageTests):
        @FIXTURE
        async def subject(self):
            objects = {}
            async with MyStorage(objects) as storage:
                yield StorageSubject(storage, DictObjects(objects))


    class TestStore(ObjectStoreTests):
        @FIXTURE
        async def subject(self):
            objects = {}
            store = MyStore(objects)
            await store.open()
            yield StoreSubject(store, DictObjects(objects))
            await store.aclose()


    class TestCapabilities(StoreCapabilityTests):
        @pytest.fixture
        def subject(self):
            objects = {}
            return StoreSubject(CapableStore(objects), DictObjects(objects))
"""

STRICT = ("-p", "no:anyio", "-o", "asyncio_mode=strict", "-o", f"{LOOP_SCOPE}=function")
AUTO = ("-p", "no:anyio", "-o", "asyncio_mode=auto", "-o", f"{LOOP_SCOPE}=function")
ANYIO = ("-p", "no:asyncio")
FRAMEWORKS = pytest.mark.parametrize(
    ("options", "mark", "fixture"),
    [
        pytest.param(STRICT, "pytest.mark.asyncio", "pytest_asyncio.fixture", id="strict asyncio"),
        pytest.param(AUTO, "", "pytest.fixture", id="auto asyncio"),
        pytest.param(ANYIO, "pytest.mark.anyio", "pytest.fixture", id="anyio"),
    ],
)


@pytest.fixture
def run(pytester, monkeypatch):
    """Run a test file in a process of its own, as a user would."""
    # The tests there take from these modules what they define.
    modules = (__file__, capability_mistakes.__file__)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(Path(m).parent) for m in modules))

    def run(tests, *options):
        pytester.makeini(
            "[pytest]"
        )  # or it finds ours, where the folder lies inside of the project
        pytester.makepyfile(my_package=MY_PACKAGE, test_mine=tests)
        return pytester.runpytest_subprocess(
            "-W", "error", "--junitxml=results.xml", "-p", "no:cacheprovider", *options
        )

    return run


def results(pytester):
    """What came of each test: (class, function) to the set of its outcomes."""
    found = {}
    for case in ET.parse(pytester.path / "results.xml").iter("testcase"):
        group = case.get("classname").rpartition(".")[2]
        function = case.get("name").partition("[")[0]
        outcomes = [child.tag for child in case if child.tag not in ("properties", "system-out")]
        found.setdefault((group, function), set()).update(outcomes or ["passed"])
    return found


def names_in(suite):
    return {name for name in dir(suite) if name.startswith("test_")}


@FRAMEWORKS
def test_every_test_of_every_suite_runs_and_passes_under(run, pytester, options, mark, fixture):
    outcome = run(TESTS.replace("MARK", mark).replace("FIXTURE", fixture), *options)

    assert outcome.ret == 0, outcome.stdout.str()
    expected = {
        **{("TestThirdParty", name): {"passed"} for name in names_in(SnapshotStorageTests)},
        **{("TestStorage", name): {"passed"} for name in names_in(VersionedSnapshotStorageTests)},
        **{("TestStore", name): {"passed"} for name in names_in(ObjectStoreTests)},
        **{("TestCapabilities", name): {"passed"} for name in names_in(StoreCapabilityTests)},
    }
    assert results(pytester) == expected


@pytest.mark.parametrize(
    ("suite", "options"),
    [
        pytest.param(SnapshotStorageTests, STRICT, id="storages"),
        pytest.param(ObjectStoreTests, ANYIO, id="stores"),
    ],
)
def test_the_example_in_the_docstring_runs_as_it_stands(run, pytester, suite, options):
    _, _, example = inspect.getdoc(suite).partition("Example:")
    [code] = re.findall(r"::\n\n((?: {8}.*\n|\n)+)", example)

    outcome = run(textwrap.dedent(code), *options)

    assert outcome.ret == 0, outcome.stdout.str()
    assert {name for _, name in results(pytester)} == names_in(suite)


def test_no_test_carries_the_mark_of_a_framework():
    suites = (
        *(SnapshotStorageTests, VersionedSnapshotStorageTests),
        *(ObjectStoreTests, StoreCapabilityTests),
    )
    for suite in suites:
        marks = {
            mark.name
            for name in names_in(suite)
            for mark in getattr(getattr(suite, name), "pytestmark", [])
        }
        assert marks <= {"parametrize"}
        assert not hasattr(suite, "pytestmark")


# Storages and stores that are broken in one way each, and by which tests that is found.


class BrokenStorage(ObjectSnapshotStorage):
    def __init__(self, objects):
        store = MemoryObjectStore()
        store.objects = self.objects = objects
        super().__init__(store)


class CorruptIsNone(BrokenStorage):
    caught_by = (
        "test_corrupt_object_error_names_its_key_and_no_text",
        "test_a_corrupt_snapshot_has_no_version",
        "test_a_corrupt_snapshot_is_not_updated",
    )

    async def load_snapshot(self, **where):
        try:
            return await super().load_snapshot(**where)
        except SnapshotDecodeError:
            return None

    async def load_versioned(self, **where):
        try:
            return await super().load_versioned(**where)
        except SnapshotDecodeError:
            return None

    async def update_latest(self, *, location, update, max_attempts=64):
        if await self.load_versioned(location=location) is None:
            return await self.save_snapshot(
                location=location, snapshot=update(None), is_latest=True
            )
        return await super().update_latest(
            location=location, update=update, max_attempts=max_attempts
        )


class ErrorsShowTheText(BrokenStorage):
    caught_by = ("test_corrupt_object_error_names_its_key_and_no_text",)

    async def load_snapshot(self, *, location, snapshot_id=None):
        key = LAYOUT.latest(location)
        if snapshot_id is None and key in self.objects:
            try:
                json.loads(self.objects[key])
            except ValueError as error:
                raise SnapshotDecodeError(f"{key} is no JSON", key=key) from error
        return await super().load_snapshot(location=location, snapshot_id=snapshot_id)


class NewestFirst(BrokenStorage):
    caught_by = ("test_ids_are_listed_oldest_first",)

    async def list_snapshot_ids(self, **where):
        return list(reversed(await super().list_snapshot_ids(**where)))


class InclusiveCursor(BrokenStorage):
    caught_by = (
        "test_a_cursor_is_exclusive",
        "test_every_limit_and_cursor_gives_its_part_of_the_whole",
    )

    async def list_snapshot_ids(self, *, location, limit=None, start_after=None):
        ids = await super().list_snapshot_ids(location=location)
        ids = [found for found in ids if start_after is None or found >= start_after.lower()]
        return ids if limit is None else ids[: max(limit, 0)]


class LimitOfZeroIsNone(BrokenStorage):
    caught_by = ("test_a_limit_of_zero_or_less_is_an_empty_list",)

    async def list_snapshot_ids(self, *, limit=None, **where):
        return await super().list_snapshot_ids(limit=limit or None, **where)


class OnePageOnly(BrokenStorage):
    caught_by = ("test_history_over_1000_is_listed_and_deleted",)

    async def list_snapshot_ids(self, *, limit=None, **where):
        limit = PAGE_SIZE if limit is None else min(limit, PAGE_SIZE)
        return await super().list_snapshot_ids(limit=limit, **where)


class StrangersCountTowardsTheLimit(BrokenStorage):
    caught_by = ("test_nothing_but_snapshots_directly_in_history_is_listed",)

    async def list_snapshot_ids(self, *, location, limit=None, start_after=None):
        if limit is not None:
            prefix = LAYOUT.history_prefix(location)
            cursor = LAYOUT.history(location, start_after.lower()) if start_after else ""
            keys = sorted(key for key in self.objects if key.startswith(prefix) and key > cursor)
            found = LAYOUT.snapshot_ids(keys[: max(limit, 0)], prefix)
            limit = len(found)
        return await super().list_snapshot_ids(
            location=location, limit=limit, start_after=start_after
        )


class DeletesSiblings(BrokenStorage):
    caught_by = ("test_deleting_a_session_leaves_its_siblings_alone",)

    async def delete_session(self, *, session_id):
        deleted = await super().delete_session(session_id=session_id)
        for key in [key for key in self.objects if key.startswith(session_id)]:
            del self.objects[key]
        return deleted


class DeletesNestedStores(BrokenStorage):
    caught_by = (
        "test_delete_keeps_a_store_nested_under_the_session",
        "test_delete_counts_the_objects_kept_for_another_store",
    )

    async def delete_session(self, *, session_id):
        deleted = await super().delete_session(session_id=session_id)
        nested = [key for key in self.objects if key.startswith(f"{session_id}/")]
        for key in nested:
            del self.objects[key]
        return DeletedSession(deleted.objects + len(nested), 0)


class DeletesWhatIsNoSession(BrokenStorage):
    caught_by = ("test_what_is_no_session_is_not_deleted",)

    async def delete_session(self, *, session_id):
        deleted = await super().delete_session(session_id=session_id)
        prefix = f"{session_id}/"
        for key in [key for key in self.objects if key.startswith(prefix)]:
            if not LAYOUT.is_nested_store(key, prefix):
                del self.objects[key]
        return deleted


class DeletesTheStashOfNestedStores(BrokenStorage):
    caught_by = ("test_delete_keeps_a_store_nested_under_the_session",)

    async def delete_session(self, *, session_id):
        deleted = await super().delete_session(session_id=session_id)
        for key in [key for key in self.objects if key.startswith(f"{session_id}/")]:
            if "/snapshots/" not in key:
                del self.objects[key]
        return deleted


class TranslatesToTypeScript(BrokenStorage):
    caught_by = (
        "test_a_snapshot_is_written_as_json_in_its_own_envelope",
        "test_saving_what_was_loaded_keeps_its_envelope",
    )

    async def save_snapshot(self, *, snapshot, **where):
        snapshot = msgspec.structs.replace(snapshot, dialect="typescript")
        return await super().save_snapshot(snapshot=snapshot, **where)


class RoundsIntegers(BrokenStorage):
    caught_by = ("test_what_is_saved_loads_equal",)

    async def load_snapshot(self, **where):
        loaded = await super().load_snapshot(**where)
        if loaded is None:
            return None
        data = json.loads(json.dumps(loaded.data), parse_int=lambda digits: int(float(digits)))
        return msgspec.structs.replace(loaded, data=data)


class EncodesTooLate(BrokenStorage):
    caught_by = ("test_what_changes_after_the_call_is_not_saved",)

    async def save_snapshot(self, **what):
        await asyncio.sleep(0)
        return await super().save_snapshot(**what)


class OverwritesHistory(BrokenStorage):
    caught_by = (
        "test_save_of_another_snapshot_under_a_taken_id_is_an_error",
        "test_of_five_writers_of_one_id_one_wins",
        "test_checkpoint_with_a_taken_id_leaves_latest_alone",
    )

    async def save_snapshot(self, *, location, is_latest, snapshot_id=None, **what):
        if not is_latest and snapshot_id is not None:
            self.objects.pop(LAYOUT.history(location, validate_snapshot_id(snapshot_id)), None)
        return await super().save_snapshot(
            location=location, is_latest=is_latest, snapshot_id=snapshot_id, **what
        )

    async def checkpoint(self, *, location, snapshot, snapshot_id=None, if_match=None):
        await self.save_snapshot(
            location=location, snapshot=snapshot, is_latest=False, snapshot_id=snapshot_id
        )
        return await self.save_snapshot(
            location=location, snapshot=snapshot, is_latest=True, if_match=if_match
        )


class LatestBeforeHistory(BrokenStorage):
    caught_by = ("test_checkpoint_with_a_taken_id_leaves_latest_alone",)

    async def checkpoint(self, *, location, snapshot, snapshot_id=None, if_match=None):
        latest = await self.save_snapshot(
            location=location, snapshot=snapshot, is_latest=True, if_match=if_match
        )
        kept = await self.save_snapshot(
            location=location, snapshot=snapshot, is_latest=False, snapshot_id=snapshot_id
        )
        return SavedSnapshot(kept.snapshot_id, latest.etag)


class IgnoresVersions(BrokenStorage):
    caught_by = (
        "test_if_match_of_an_older_version_is_a_conflict",
        "test_if_match_of_a_deleted_snapshot_is_a_conflict",
        "test_of_five_writers_with_the_same_version_one_wins",
    )

    async def save_snapshot(self, *, if_match=None, **what):
        return await super().save_snapshot(**what)


class LosesUpdates(BrokenStorage):
    caught_by = (
        "test_five_workers_count_to_twenty_and_lose_nothing",
        "test_an_update_that_loses_every_time_is_a_conflict",
    )

    async def update_latest(self, *, location, update, max_attempts=64):
        updated = update(await self.load_snapshot(location=location))
        if inspect.isawaitable(updated):
            updated = await updated
        await asyncio.sleep(0)
        return await self.save_snapshot(location=location, snapshot=updated, is_latest=True)


class MissingIsTheLatest(BrokenStorage):
    caught_by = ("test_a_missing_snapshot_is_none",)

    async def load_snapshot(self, *, location, snapshot_id=None):
        loaded = await super().load_snapshot(location=location, snapshot_id=snapshot_id)
        return await super().load_snapshot(location=location) if loaded is None else loaded


class LoadsFromMemory(BrokenStorage):
    caught_by = ("test_what_another_worker_writes_is_seen",)

    def __init__(self, objects):
        super().__init__(objects)
        self.known = {}

    async def save_snapshot(self, *, location, snapshot, is_latest, **what):
        self.known.pop((location, None), None)
        return await super().save_snapshot(
            location=location, snapshot=snapshot, is_latest=is_latest, **what
        )

    async def load_snapshot(self, *, location, snapshot_id=None):
        where = (location, snapshot_id)
        if self.known.get(where) is None:
            self.known[where] = await super().load_snapshot(
                location=location, snapshot_id=snapshot_id
            )
        return copy.deepcopy(self.known[where])


class SharesWhatItLoaded(BrokenStorage):
    caught_by = ("test_what_was_loaded_belongs_to_the_caller",)

    def __init__(self, objects):
        super().__init__(objects)
        self.known = {}

    async def load_snapshot(self, **where):
        loaded = await super().load_versioned(**where)
        return loaded and self.known.setdefault(loaded.etag, loaded.snapshot)


class ListsFromMemory(BrokenStorage):
    caught_by = ("test_what_another_worker_writes_is_seen",)

    def __init__(self, objects):
        super().__init__(objects)
        self.known = {}

    async def save_snapshot(self, *, location, snapshot, is_latest, **what):
        self.known.pop(location, None)
        return await super().save_snapshot(
            location=location, snapshot=snapshot, is_latest=is_latest, **what
        )

    async def list_snapshot_ids(self, *, location, limit=None, start_after=None):
        if location not in self.known:
            self.known[location] = await super().list_snapshot_ids(location=location)
        ids = [found for found in self.known[location] if found > (start_after or "").lower()]
        return ids if limit is None else ids[: max(limit, 0)]


class DeletesByAnyId(BrokenStorage):
    caught_by = ("test_deleting_by_an_id_that_is_none_is_refused",)

    async def delete_session(self, *, session_id):
        for key in [key for key in self.objects if key.startswith(str(session_id))]:
            del self.objects[key]
        return DeletedSession(0, 0)


class DeletesSnapshotsOnly(BrokenStorage):
    caught_by = ("test_deleting_a_session_deletes_all_that_lies_under_it",)

    async def delete_session(self, *, session_id):
        prefix = LAYOUT.session_prefix(session_id)
        others = {key: self.objects[key] for key in self.objects if "snapshot_" not in key}
        deleted = await super().delete_session(session_id=session_id)
        self.objects.update({key: others[key] for key in others if key.startswith(prefix)})
        return deleted


class KeysBecomeText(BrokenStorage):
    caught_by = (
        "test_a_key_that_is_no_text_is_refused",
        "test_what_json_cannot_carry_is_refused_by_its_path",
    )

    async def save_snapshot(self, *, snapshot, **where):
        data = json.loads(json.dumps(snapshot.data, default=str))
        snapshot = msgspec.structs.replace(snapshot, data=data)
        return await super().save_snapshot(snapshot=snapshot, **where)


class RewritesTimes(BrokenStorage):
    caught_by = ("test_times_and_versions_are_text_that_nobody_rewrites",)

    async def save_snapshot(self, *, snapshot, **where):
        snapshot = msgspec.structs.replace(snapshot, created_at=now())
        return await super().save_snapshot(snapshot=snapshot, **where)


class ForgetsWhatItDoesNotKnow(BrokenStorage):
    caught_by = (
        "test_fields_that_nobody_knows_survive_a_load_and_a_save",
        "test_fields_of_a_manifest_that_nobody_knows_survive",
    )

    async def load_snapshot(self, **where):
        loaded = await super().load_snapshot(**where)
        return None if loaded is None else msgspec.structs.replace(loaded, extra={})

    async def load_manifest(self, **where):
        return msgspec.structs.replace(await super().load_manifest(**where), extra={})


class StoresTheDefaultManifest(BrokenStorage):
    caught_by = ("test_manifest_that_is_missing_is_a_default_not_stored",)

    async def load_manifest(self, *, location):
        manifest = await super().load_manifest(location=location)
        await self.save_manifest(location=location, manifest=manifest)
        return manifest


class TakesAnyScope(BrokenStorage):
    caught_by = ("test_save_in_another_scope_than_the_location_is_an_error",)

    async def save_snapshot(self, *, location, snapshot, **what):
        snapshot = msgspec.structs.replace(snapshot, scope=location.scope)
        return await super().save_snapshot(location=location, snapshot=snapshot, **what)


class UpdatesWhatItReadFirst(BrokenStorage):
    caught_by = (
        "test_update_is_repeated_on_what_another_writer_saved",
        "test_an_update_that_loses_every_time_is_a_conflict",
    )

    async def update_latest(self, *, location, update, max_attempts=64):
        read = await self.load_snapshot(location=location)
        result = update(read)
        updated = await result if inspect.isawaitable(result) else result
        return await super().update_latest(
            location=location, update=lambda _: updated, max_attempts=max_attempts
        )


class WritesWhatNobodyChanged(BrokenStorage):
    caught_by = ("test_update_latest_writes_nothing_where_update_declines",)

    async def update_latest(self, *, location, update, max_attempts=64):
        def always(current):
            return msgspec.structs.replace(update(current))

        return await super().update_latest(
            location=location, update=always, max_attempts=max_attempts
        )


class DropsWhatWasChangedInPlace(BrokenStorage):
    caught_by = ("test_update_latest_writes_what_was_changed_in_place",)

    async def update_latest(self, *, location, update, max_attempts=64):
        read = await self.load_versioned(location=location)
        updated = update(read and read.snapshot)
        updated = await updated if inspect.isawaitable(updated) else updated
        if read is not None and updated is read.snapshot:
            return SavedSnapshot(None, read.etag)
        return await super().update_latest(
            location=location, update=update, max_attempts=max_attempts
        )


class TakesTheVersionOfAnotherLocation(BrokenStorage):
    caught_by = ("test_if_match_of_another_location_is_refused",)

    async def save_snapshot(self, *, if_match=None, **what):
        if isinstance(if_match, SavedSnapshot | VersionedSnapshot):
            if_match = if_match.etag
        return await super().save_snapshot(if_match=if_match, **what)


class ADeletedSessionIsAnotherWriter(BrokenStorage):
    caught_by = ("test_if_match_of_a_deleted_snapshot_is_a_conflict",)

    async def save_snapshot(self, **what):
        try:
            return await super().save_snapshot(**what)
        except SessionDeletedError as error:
            raise SnapshotConflictError(str(error), **error.facts) from None


class DoesNotKnowWhatBecameOfAConflict(BrokenStorage):
    caught_by = (
        "test_if_match_of_an_older_version_is_a_conflict",
        "test_checkpoint_over_an_older_version_is_in_history_only",
    )

    async def save_snapshot(self, **what):
        try:
            return await super().save_snapshot(**what)
        except SnapshotConflictError as error:
            error.outcome = "unknown"
            raise

    async def checkpoint(self, **what):
        try:
            return await super().checkpoint(**what)
        except SnapshotConflictError as error:
            error.snapshot_id = None
            raise


class NewestFirstIsIgnored(BrokenStorage):
    caught_by = ("test_the_newest_come_first_where_that_is_asked_for",)

    async def list_snapshot_ids(self, *, newest_first=False, **where):
        return await super().list_snapshot_ids(**where)


class NewestOfTheOldest(BrokenStorage):
    caught_by = (
        "test_the_newest_come_first_where_that_is_asked_for",
        "test_pages_newest_first_make_up_all_of_a_long_history",
    )

    async def list_snapshot_ids(self, *, newest_first=False, **where):
        ids = await super().list_snapshot_ids(**where)
        return ids[::-1] if newest_first else ids


class CursorMeansAfterInBothDirections(BrokenStorage):
    caught_by = (
        "test_newest_first_a_cursor_means_before",
        "test_pages_newest_first_make_up_all_of_a_long_history",
    )

    async def list_snapshot_ids(self, *, limit=None, newest_first=False, **where):
        if not newest_first:
            return await super().list_snapshot_ids(limit=limit, **where)
        ids = await super().list_snapshot_ids(**where)
        return ids[::-1][: None if limit is None else max(limit, 0)]


class UntilIsExclusive(BrokenStorage):
    caught_by = ("test_ids_between_two_times_are_listed",)

    async def list_snapshot_ids(self, *, until=None, **where):
        ids = await super().list_snapshot_ids(until=until, **where)
        return [found for found in ids if until is None or snapshot_time(found) < until]


class AsOfIsTheNextOne(BrokenStorage):
    caught_by = ("test_a_snapshot_is_loaded_as_of_a_time",)

    async def load_snapshot(self, *, location, snapshot_id=None, as_of=None):
        if as_of is None:
            return await super().load_snapshot(location=location, snapshot_id=snapshot_id)
        ids = await self.list_snapshot_ids(location=location, since=as_of, limit=1)
        return await super().load_snapshot(location=location, snapshot_id=ids[0]) if ids else None


class NaiveTimesAreTakenForUTC(BrokenStorage):
    caught_by = ("test_a_time_that_is_naive_or_none_is_refused",)

    async def list_snapshot_ids(self, *, since=None, **where):
        if isinstance(since, datetime) and since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        return await super().list_snapshot_ids(since=since, **where)


class RewindRewrites(BrokenStorage):
    caught_by = ("test_rewind_writes_the_document_of_history_as_latest",)

    async def rewind(self, *, location, snapshot_id, if_match=None):
        snapshot = await self.load_snapshot(location=location, snapshot_id=snapshot_id)
        if snapshot is None:
            return await super().rewind(location=location, snapshot_id=snapshot_id)
        saved = await self.save_snapshot(
            location=location, snapshot=snapshot, is_latest=True, if_match=if_match
        )
        return msgspec.structs.replace(saved, snapshot_id=snapshot_id.lower())


class RewindIgnoresItsCondition(BrokenStorage):
    caught_by = ("test_rewind_over_the_version_it_names_is_written",)

    async def rewind(self, *, location, snapshot_id, if_match=None):
        return await super().rewind(location=location, snapshot_id=snapshot_id)


class RewindToNothingDeletes(BrokenStorage):
    caught_by = ("test_rewind_to_a_missing_snapshot_changes_nothing",)

    async def rewind(self, *, location, snapshot_id, if_match=None):
        if await self.load_snapshot(location=location, snapshot_id=snapshot_id) is None:
            await self.objects.delete([LAYOUT.latest(location)])
        return await super().rewind(location=location, snapshot_id=snapshot_id, if_match=if_match)


class EveryNameIsASession(BrokenStorage):
    caught_by = ("test_sessions_are_what_has_snapshots_directly_under_a_name",)

    async def iter_sessions(self, *, start_after=None):
        for name in sorted({key.partition("/")[0] for key in self.objects}):
            yield name


class NestedSessionsAreListed(BrokenStorage):
    caught_by = ("test_sessions_are_what_has_snapshots_directly_under_a_name",)

    async def iter_sessions(self, *, start_after=None):
        for name in sorted({key.split("/scopes/")[0] for key in self.objects if "/scopes/" in key}):
            yield name


class SessionsFromTheCursorOn(BrokenStorage):
    caught_by = ("test_sessions_after_a_cursor_are_those_that_follow_it",)

    async def iter_sessions(self, *, start_after=None):
        if start_after is not None:
            yield start_after
        async for session_id in super().iter_sessions(start_after=start_after):
            yield session_id


class OnePageOfSessions(BrokenStorage):
    caught_by = ("test_more_than_a_page_of_sessions_come_once_each",)

    async def iter_sessions(self, *, start_after=None):
        left = PAGE_SIZE
        async for session_id in super().iter_sessions(start_after=start_after):
            if left:
                left -= 1
                yield session_id


class AlwaysByID(BrokenStorage):
    caught_by = ("test_pages_of_sessions_make_up_the_whole_list",)

    async def list_sessions(self, *, limit, order="id", cursor=None):
        return await super().list_sessions(limit=limit, cursor=cursor)


class OnlyTheFirstPageOfAList(BrokenStorage):
    caught_by = (
        "test_pages_of_sessions_make_up_the_whole_list",
        "test_more_than_a_page_of_sessions_come_once_each",
    )

    async def list_sessions(self, *, limit, order="id", cursor=None):
        page = await super().list_sessions(limit=limit, order=order, cursor=cursor)
        return msgspec.structs.replace(page, cursor=None)


class EverySessionIsActive(BrokenStorage):
    caught_by = ("test_what_is_no_save_does_not_make_a_session_look_active",)

    async def list_sessions(self, *, limit, order="id", cursor=None):
        page = await super().list_sessions(limit=limit, order=order, cursor=cursor)
        sessions = [
            msgspec.structs.replace(found, updated_at=datetime.now(UTC)) for found in page.sessions
        ]
        return msgspec.structs.replace(page, sessions=tuple(sessions))


class OneSnapshotTooMany(BrokenStorage):
    caught_by = ("test_a_summary_has_the_figures_of_its_session",)

    async def list_sessions(self, *, limit, order="id", cursor=None):
        page = await super().list_sessions(limit=limit, order=order, cursor=cursor)
        sessions = [
            msgspec.structs.replace(found, snapshots=found.snapshots + 1) for found in page.sessions
        ]
        return msgspec.structs.replace(page, sessions=tuple(sessions))


class PassesOverOddSessions(BrokenStorage):
    caught_by = ("test_only_uuid7_sessions_are_listed_by_creation",)

    async def list_sessions(self, *, limit, order="id", cursor=None):
        try:
            return await super().list_sessions(limit=limit, order=order, cursor=cursor)
        except InvalidIdentifierError:
            return SessionPage((), None)


class TakesAnyLimit(BrokenStorage):
    caught_by = ("test_a_wrong_limit_order_or_cursor_is_refused",)

    async def list_sessions(self, *, limit, order="id", cursor=None):
        limit = min(max(limit, 1), PAGE_SIZE)
        return await super().list_sessions(limit=limit, order=order, cursor=cursor)


class DescribesWhatIsNoSession(BrokenStorage):
    caught_by = ("test_a_description_has_the_figures_of_each_location",)

    async def describe_session(self, *, session_id):
        nothing = ObjectTotals()
        return await super().describe_session(session_id=session_id) or SessionDescription(
            session_id, None, (), nothing, nothing, nothing
        )


class DescribesForeignObjectsAsArchive(BrokenStorage):
    caught_by = ("test_a_description_has_the_figures_of_each_location",)

    async def describe_session(self, *, session_id):
        found = await super().describe_session(session_id=session_id)
        return found and msgspec.structs.replace(found, archive=found.foreign)


class LatestOfLatest(BrokenStorage):
    caught_by = ("test_without_history_the_time_of_latest_counts",)

    async def describe_session(self, *, session_id):
        found = await super().describe_session(session_id=session_id)
        return found and msgspec.structs.replace(found, updated_at=None)


class BrokenStore(MemoryObjectStore):
    def __init__(self, objects):
        super().__init__()
        self.objects = objects


class IgnoresConditions(BrokenStore):
    caught_by = (
        "test_if_none_match_writes_only_where_there_is_no_object",
        "test_if_match_writes_only_over_the_version_it_names",
        "test_of_five_that_create_an_object_one_wins",
        "test_of_five_that_replace_a_version_one_wins",
    )

    async def put(self, key, data, **conditions):
        return await super().put(key, data)


class ChecksThenWrites(BrokenStore):
    caught_by = (
        "test_of_five_that_create_an_object_one_wins",
        "test_of_five_that_replace_a_version_one_wins",
    )

    async def put(self, key, data, *, if_match=None, if_none_match=False):
        stored = await self.get(key, max_bytes=MAX_BYTES)
        if (if_none_match and stored) or (if_match and (not stored or stored.version != if_match)):
            raise PreconditionFailedError("not so", key=key)
        await asyncio.sleep(0)
        return await super().put(key, data)


class CountsVersionsAnew(BrokenStore):
    caught_by = ("test_a_version_is_not_that_of_an_object_created_since",)

    def __init__(self, objects):
        super().__init__(objects)
        self.writes = {}

    async def put(self, key, data, *, if_match=None, if_none_match=False):
        if if_match and (key not in self.objects or f"v{self.writes[key]}" != if_match.etag):
            raise PreconditionFailedError("not so", key=key)
        await super().put(key, data, if_none_match=if_none_match)
        self.writes[key] = self.writes.get(key, 0) + 1
        return Version(f"v{self.writes[key]}")

    async def delete(self, keys):
        for key in keys:
            self.writes.pop(key, None)
        return await super().delete(keys)


class DoesNotTellThatNothingIsThere(BrokenStore):
    caught_by = ("test_if_match_fails_where_there_is_no_object",)

    async def put(self, key, data, **conditions):
        try:
            return await super().put(key, data, **conditions)
        except PreconditionFailedError as error:
            error.is_missing = False
            raise


class PrefixesAreFolders(BrokenStore):
    caught_by = ("test_a_prefix_is_text_and_no_folder",)

    async def scan(self, prefix, **where):
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        async for page in super().scan(folder, **where):
            yield page


class PagesByOffset(BrokenStore):
    caught_by = (
        "test_scan_survives_deletes_page_by_page",
        "test_a_scan_comes_by_what_stays_while_others_are_deleted",
    )

    async def scan(self, prefix, *, start_after=None, page_size=PAGE_SIZE):
        for start in range(0, MAX_BYTES, page_size):
            keys = sorted(key for key in self.objects if key.startswith(prefix))
            keys = [key for key in keys if start_after is None or key > start_after]
            if start >= len(keys):
                return
            yield keys[start : start + page_size]


class ReadsWhateverTheSize(BrokenStore):
    caught_by = ("test_an_object_larger_than_allowed_is_not_read",)

    async def get(self, key, *, max_bytes):
        return await super().get(key, max_bytes=MAX_BYTES)


class MissingCanNotBeDeleted(BrokenStore):
    caught_by = ("test_a_missing_object_counts_as_deleted",)

    async def delete(self, keys):
        missing = {key: "NoSuchKey" for key in keys if key not in self.objects}
        await super().delete(keys)
        return missing


class AnOddKeySpoilsItsBatch(BrokenStore):
    caught_by = ("test_odd_keys_are_deleted_together_with_plain_ones",)

    async def delete(self, keys):
        if len(keys) > 1 and not "".join(keys).isprintable():
            return dict.fromkeys(keys, "MalformedXML")
        return await super().delete(keys)


class BelongsToTheLoopThatOpenedItFirst(BrokenStore):
    caught_by = ("test_a_store_whose_loop_was_closed_opens_on_another_one",)

    loop = None

    async def open(self):
        self.loop = self.loop or asyncio.get_running_loop()

    async def aclose(self):
        assert asyncio.get_running_loop() is self.loop or not self.loop
        self.loop = None

    async def get(self, key, *, max_bytes):
        assert self.loop in {None, asyncio.get_running_loop()}
        return await super().get(key, max_bytes=max_bytes)


BROKEN = [
    *BrokenStorage.__subclasses__(),
    *BrokenStore.__subclasses__(),
    *mistakes_in(BrokenCapability),
]

TESTS_OF_BROKEN = """
    import pytest
    from snapstore.testing import (
        DictObjects,
        ObjectStoreTests,
        StorageSubject,
        StoreCapabilityTests,
        StoreSubject,
        VersionedSnapshotStorageTests,
    )
    from capability_mistakes import BrokenCapability, mistakes_in
    from test_suite_runs_everywhere import BrokenStorage, BrokenStore


    def storage_tests(broken):
        class Tests(VersionedSnapshotStorageTests):
            @pytest.fixture
            async def subject(self):
                objects = {}
                async with broken(objects) as storage:
                    yield StorageSubject(storage, DictObjects(objects))

        return Tests


    def store_tests(broken, suite):
        class Tests(suite):
            @pytest.fixture
            async def subject(self):
                objects = {}
                yield StoreSubject(broken(objects), DictObjects(objects))

        return Tests


    for broken in BrokenStorage.__subclasses__():
        globals()[f"Test{broken.__name__}"] = storage_tests(broken)
    for broken in BrokenStore.__subclasses__():
        globals()[f"Test{broken.__name__}"] = store_tests(broken, ObjectStoreTests)
    for broken in mistakes_in(BrokenCapability):
        globals()[f"Test{broken.__name__}"] = store_tests(broken, StoreCapabilityTests)
"""


OTHERS = (
    "test_ids_are_listed_oldest_first",
    "test_a_summary_has_the_figures_of_its_session",
    "test_if_match_writes_only_over_the_version_it_names",
    "test_a_prefix_is_no_pattern_either",
    "test_a_sweep_leaves_objects_alone",
    "test_a_copy_of_nothing_is_none",
)
"""Tests of which each broken storage and store passes at least one."""


@pytest.fixture
def run_broken(run):
    return lambda *options: run(TESTS_OF_BROKEN, *AUTO, *options)


def test_suites_catch_what_is_broken_by_the_tests_expected(run_broken, pytester):
    expected = [
        f"(Test{broken.__name__} and ({' or '.join((*broken.caught_by, *OTHERS))}))"
        for broken in BROKEN
    ]

    run_broken("--tb=no", "-k", " or ".join(expected))

    found = results(pytester)
    for broken in BROKEN:
        outcomes = {name: found[f"Test{broken.__name__}", name] for name in broken.caught_by}
        assert all("failure" in outcome for outcome in outcomes.values()), (broken, outcomes)
        # None of them was broken so badly that nothing could pass.
        assert any(
            outcome == {"passed"}
            for (group, _), outcome in found.items()
            if group == f"Test{broken.__name__}"
        )


def test_a_failing_assertion_shows_its_values(run_broken):
    outcome = run_broken("-k", "TestNewestFirst and test_ids_are_listed_oldest_first")

    assert outcome.parseoutcomes()["failed"] == 1
    outcome.stdout.fnmatch_lines(["*At index 0 diff: '01912a3b-0004-*' != '01912a3b-0000-*'"])


def in_python(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )


def test_the_suites_say_what_to_install_without_pytest():
    outcome = in_python(
        """
        import sys

        sys.modules["pytest"] = None
        import snapstore.testing.server
        from snapstore.testing import StorageSubject

        print("without pytest")
        from snapstore.testing import SnapshotStorageTests
        """
    )

    assert 'pip install "snapstore[pytest]"' in outcome.stderr.splitlines()[-1]
    assert outcome.stdout == "without pytest\n"


def test_the_server_is_imported_without_pytest_and_the_suites():
    outcome = in_python(
        """
        import sys

        import snapstore.testing.server

        loaded = {name for name in sys.modules if name.partition(".")[0] == "pytest"}
        print(sorted(loaded | {name for name in sys.modules if name.endswith("_suite")}))
        """
    )

    assert outcome.stdout == "[]\n", outcome.stderr


def test_a_name_that_is_no_suite_is_an_import_error():
    with pytest.raises(ImportError, match="NoSuchTests"):
        from snapstore.testing import NoSuchTests  # noqa: F401
