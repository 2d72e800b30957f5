# ruff: noqa: D102 -- the name of a test says what it checks
"""The conformance suite for what snapstore adds to the six operations of a snapshot storage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec
import pytest

from snapstore.errors import (
    InvalidIdentifierError,
    ScopeMismatchError,
    SessionDeletedError,
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotEncodeError,
    SnapshotExistsError,
    SnapshotNotFoundError,
)
from snapstore.model.ids import validate_snapshot_id
from snapstore.model.protocols import VersionedSnapshotStorage
from snapstore.model.snapshot import (
    DeletedSession,
    Dialect,
    SavedSnapshot,
    Snapshot,
    SnapshotLocation,
    VersionedSnapshot,
)
from snapstore.testing.history_suite import HistoryTests
from snapstore.testing.samples import (
    ENVELOPES,
    HISTORY,
    LATEST,
    LOCATION,
    MANIFEST,
    MORE_THAN_A_PAGE,
    history_key,
    make_snapshot,
    snapshot_ids,
)
from snapstore.testing.session_suite import SessionTests
from snapstore.testing.snapshot_suite import (
    DIALECTS,
    SnapshotStorageTests,
    list_ids,
    load,
    save_in_history,
    seed_history,
    to_json,
)
from snapstore.testing.subjects import StorageSubject, seed

__all__ = ["VersionedSnapshotStorageTests"]

Subject = StorageSubject[VersionedSnapshotStorage]
Version = str | SavedSnapshot | VersionedSnapshot

FIRST: Final = make_snapshot({"n": 1})
SECOND: Final = make_snapshot({"n": 2})
THIRD: Final = make_snapshot({"n": 3})

WAYS_TO_NAME_A_VERSION: Final[dict[str, Callable[[SavedSnapshot, VersionedSnapshot], Version]]] = {
    "an etag": lambda saved, _: saved.etag,
    "an etag in quotes": lambda saved, _: f'"{saved.etag}"',
    "what the save returned": lambda saved, _: saved,
    "what a load returned": lambda _, read: read,
}
VERSIONS: Final = pytest.mark.parametrize(
    "version_of", WAYS_TO_NAME_A_VERSION.values(), ids=WAYS_TO_NAME_A_VERSION.keys()
)


class VersionedSnapshotStorageTests(HistoryTests, SessionTests, SnapshotStorageTests):
    """Holds a storage to the contract of `VersionedSnapshotStorage`, the six operations included.

    Subclass it instead of `SnapshotStorageTests`, with the same fixture `subject`; that class has
    an example.
    """

    # What a save returns

    async def test_saving_the_latest_snapshot_returns_its_etag_and_no_id(
        self, subject: Subject
    ) -> None:
        saved = await save_latest(subject, FIRST)
        assert saved.snapshot_id is None
        assert saved.etag
        assert '"' not in saved.etag

    async def test_saving_in_history_returns_the_id_in_lower_case(self, subject: Subject) -> None:
        given = "01912A3B-ABCD-7DEF-8ABC-0123456789AB"
        saved = await subject.storage.save_snapshot(
            location=LOCATION, snapshot=FIRST, is_latest=False, snapshot_id=given
        )
        assert saved.snapshot_id == given.lower()
        assert saved.etag
        assert '"' not in saved.etag

    async def test_saving_in_history_without_an_id_returns_the_new_one(
        self, subject: Subject
    ) -> None:
        saved = [
            await subject.storage.save_snapshot(location=LOCATION, snapshot=FIRST, is_latest=False)
            for _ in range(3)
        ]
        ids = [found.snapshot_id for found in saved]
        assert [validate_snapshot_id(snapshot_id) for snapshot_id in ids] == ids
        assert await list_ids(subject) == ids

    # Versions

    async def test_a_missing_snapshot_has_no_version(self, subject: Subject) -> None:
        assert await subject.storage.load_versioned(location=LOCATION) is None
        assert (
            await subject.storage.load_versioned(location=LOCATION, snapshot_id=snapshot_ids(1)[0])
            is None
        )

    async def test_a_load_gives_the_version_that_the_save_gave(self, subject: Subject) -> None:
        saved = await save_latest(subject, FIRST)
        kept = await subject.storage.save_snapshot(
            location=LOCATION, snapshot=SECOND, is_latest=False
        )
        read = await subject.storage.load_versioned(location=LOCATION)
        assert read is not None
        assert read.snapshot == FIRST
        assert (read.etag, read.lineage, read.key) == (saved.etag, saved.lineage, saved.key)
        read = await subject.storage.load_versioned(location=LOCATION, snapshot_id=kept.snapshot_id)
        assert read is not None
        assert read.snapshot == SECOND
        assert (read.etag, read.lineage, read.key) == (kept.etag, kept.lineage, kept.key)

    async def test_another_content_is_another_version(self, subject: Subject) -> None:
        etags = {(await save_latest(subject, snapshot)).etag for snapshot in (FIRST, SECOND, THIRD)}
        assert len(etags) == 3

    async def test_a_corrupt_snapshot_has_no_version(self, subject: Subject) -> None:
        await subject.raw.put(LATEST, b"{")
        with pytest.raises(SnapshotDecodeError):
            await subject.storage.load_versioned(location=LOCATION)

    # if_match

    @VERSIONS
    async def test_if_match_writes_over_the_version_it_names(
        self, subject: Subject, version_of: Callable[..., Version]
    ) -> None:
        version = version_of(await save_latest(subject, FIRST), await read_latest(subject))
        saved = await save_latest(subject, SECOND, if_match=version)
        assert await read_latest(subject) == VersionedSnapshot(SECOND, saved.etag)

    @VERSIONS
    async def test_if_match_of_an_older_version_is_a_conflict(
        self, subject: Subject, version_of: Callable[..., Version]
    ) -> None:
        version = version_of(await save_latest(subject, FIRST), await read_latest(subject))
        await save_latest(subject, SECOND)
        before = await subject.raw.get(LATEST)
        with pytest.raises(SnapshotConflictError) as raised:
            await save_latest(subject, THIRD, if_match=version)
        assert (raised.value.key or "").endswith(LATEST)
        assert raised.value.outcome == "not applied"
        assert not raised.value.retryable
        assert not isinstance(raised.value, SessionDeletedError)
        assert await subject.raw.get(LATEST) == before
        assert await subject.raw.keys() == [LATEST]

    @VERSIONS
    async def test_if_match_of_a_deleted_snapshot_is_a_conflict(
        self, subject: Subject, version_of: Callable[..., Version]
    ) -> None:
        version = version_of(await save_latest(subject, FIRST), await read_latest(subject))
        await subject.storage.delete_session(session_id="s-1")
        with pytest.raises(SessionDeletedError) as raised:
            await save_latest(subject, SECOND, if_match=version)
        assert raised.value.outcome == "not applied"
        assert await subject.raw.keys() == []

    async def test_if_match_of_another_location_is_refused(self, subject: Subject) -> None:
        other = SnapshotLocation.agent("s-1", "another")
        saved = await save_latest(subject, FIRST)
        read = await subject.storage.load_versioned(location=LOCATION)
        await subject.storage.save_snapshot(location=other, snapshot=FIRST, is_latest=True)
        for version in (saved, read):
            with pytest.raises(InvalidIdentifierError):
                await subject.storage.save_snapshot(
                    location=other, snapshot=SECOND, is_latest=True, if_match=version
                )
        assert await subject.storage.load_snapshot(location=other) == FIRST

    async def test_if_match_chains_from_save_to_save(self, subject: Subject) -> None:
        saved = await save_latest(subject, FIRST)
        for snapshot in (SECOND, THIRD, FIRST):
            saved = await save_latest(subject, snapshot, if_match=saved)
        assert await load(subject) == FIRST

    @pytest.mark.parametrize("version", ["", '""', "ü", "a\nb", 5, b"etag", True], ids=repr)
    async def test_if_match_of_what_is_no_version_is_refused(
        self, subject: Subject, version: Any
    ) -> None:
        await save_latest(subject, FIRST)
        with pytest.raises(InvalidIdentifierError):
            await save_latest(subject, SECOND, if_match=version)
        with pytest.raises(InvalidIdentifierError):
            await subject.storage.checkpoint(location=LOCATION, snapshot=SECOND, if_match=version)
        assert await load(subject) == FIRST
        assert await subject.raw.keys() == [LATEST]

    async def test_of_five_writers_with_the_same_version_one_wins(self, subject: Subject) -> None:
        version = await save_latest(subject, FIRST)
        rivals = [make_snapshot({"writer": n}) for n in range(5)]
        results = await asyncio.gather(
            *(save_latest(subject, rival, if_match=version) for rival in rivals),
            return_exceptions=True,
        )
        winner = only_winner(results, SnapshotConflictError)
        assert await load(subject) == rivals[winner]

    # if_none_match

    async def test_if_none_match_writes_where_there_is_no_snapshot(self, subject: Subject) -> None:
        saved = await save_latest(subject, FIRST, if_none_match=True)
        assert await read_latest(subject) == VersionedSnapshot(FIRST, saved.etag)

    async def test_if_none_match_over_a_snapshot_is_a_conflict(self, subject: Subject) -> None:
        await save_latest(subject, FIRST)
        before = await subject.raw.get(LATEST)
        with pytest.raises(SnapshotConflictError) as raised:
            await save_latest(subject, SECOND, if_none_match=True)
        assert (raised.value.key or "").endswith(LATEST)
        assert await subject.raw.get(LATEST) == before

    async def test_of_five_writers_of_the_first_snapshot_one_wins(self, subject: Subject) -> None:
        rivals = [make_snapshot({"writer": n}) for n in range(5)]
        results = await asyncio.gather(
            *(save_latest(subject, rival, if_none_match=True) for rival in rivals),
            return_exceptions=True,
        )
        winner = only_winner(results, SnapshotConflictError)
        assert await load(subject) == rivals[winner]

    async def test_both_conditions_at_once_are_refused(self, subject: Subject) -> None:
        saved = await save_latest(subject, FIRST)
        with pytest.raises(TypeError):
            await save_latest(subject, SECOND, if_match=saved, if_none_match=True)
        assert await load(subject) == FIRST

    # History is never overwritten

    async def test_save_of_another_snapshot_under_a_taken_id_is_an_error(
        self, subject: Subject
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        await save_in_history(subject, FIRST, snapshot_id)
        before = await subject.raw.get(history_key(snapshot_id))
        for other in (SECOND, make_snapshot({"n": 1, "more": "x" * 1_000}), make_snapshot({})):
            with pytest.raises(SnapshotExistsError) as raised:
                await save_in_history(subject, other, snapshot_id)
            assert (raised.value.key or "").endswith(history_key(snapshot_id))
        assert await subject.raw.get(history_key(snapshot_id)) == before

    async def test_the_same_snapshot_may_be_saved_again_under_its_id(
        self, subject: Subject
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        results = [
            await subject.storage.save_snapshot(
                location=LOCATION, snapshot=FIRST, is_latest=False, snapshot_id=given
            )
            for given in (snapshot_id, snapshot_id, snapshot_id.upper())
        ]
        assert results == [results[0]] * 3
        assert await list_ids(subject) == [snapshot_id]

    async def test_a_corrupt_snapshot_in_history_is_not_overwritten_either(
        self, subject: Subject
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        await subject.raw.put(history_key(snapshot_id), b"")
        with pytest.raises(SnapshotExistsError):
            await save_in_history(subject, FIRST, snapshot_id)
        assert await subject.raw.get(history_key(snapshot_id)) == b""

    async def test_of_five_writers_of_one_id_one_wins(self, subject: Subject) -> None:
        [snapshot_id] = snapshot_ids(1)
        rivals = [make_snapshot({"writer": n}) for n in range(5)]
        results = await asyncio.gather(
            *(save_in_history(subject, rival, snapshot_id) for rival in rivals),
            return_exceptions=True,
        )
        winner = only_winner(results, SnapshotExistsError)
        assert await load(subject, snapshot_id) == rivals[winner]

    async def test_five_writers_of_the_same_snapshot_under_one_id_all_win(
        self, subject: Subject
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        await asyncio.gather(
            *(save_in_history(subject, make_snapshot({"n": 1}), snapshot_id) for _ in range(5))
        )
        assert await load(subject, snapshot_id) == FIRST

    async def test_conditions_are_refused_for_history(self, subject: Subject) -> None:
        saved = await save_latest(subject, FIRST)
        conditions: list[dict[str, Any]] = [
            {"if_match": saved},
            {"if_match": saved.etag},
            {"if_none_match": True},
            {"if_match": saved, "if_none_match": True},
        ]
        for condition in conditions:
            with pytest.raises(TypeError):
                await subject.storage.save_snapshot(
                    location=LOCATION, snapshot=SECOND, is_latest=False, **condition
                )
        assert await subject.raw.keys() == [LATEST]

    # Checkpoints

    async def test_a_checkpoint_is_in_history_and_the_latest_snapshot(
        self, subject: Subject
    ) -> None:
        await save_latest(subject, FIRST)
        saved = await subject.storage.checkpoint(location=LOCATION, snapshot=SECOND)
        assert await list_ids(subject) == [saved.snapshot_id]
        assert await load(subject, saved.snapshot_id) == SECOND
        assert await read_latest(subject) == VersionedSnapshot(SECOND, saved.etag)

    async def test_a_checkpoint_may_be_given_its_id(self, subject: Subject) -> None:
        given = "01912A3B-ABCD-7DEF-8ABC-0123456789AB"
        saved = await subject.storage.checkpoint(
            location=LOCATION, snapshot=FIRST, snapshot_id=given
        )
        assert saved.snapshot_id == given.lower()
        assert sorted(await subject.raw.keys()) == [history_key(given.lower()), LATEST]

    async def test_a_checkpoint_may_be_made_again(self, subject: Subject) -> None:
        [snapshot_id] = snapshot_ids(1)
        for _ in range(2):
            await subject.storage.checkpoint(
                location=LOCATION, snapshot=FIRST, snapshot_id=snapshot_id
            )
        assert await list_ids(subject) == [snapshot_id]
        assert await load(subject) == FIRST

    async def test_checkpoint_with_a_taken_id_leaves_latest_alone(self, subject: Subject) -> None:
        [snapshot_id] = snapshot_ids(1)
        await save_in_history(subject, FIRST, snapshot_id)
        with pytest.raises(SnapshotExistsError):
            await subject.storage.checkpoint(
                location=LOCATION, snapshot=SECOND, snapshot_id=snapshot_id
            )
        assert await subject.raw.keys() == [history_key(snapshot_id)]
        version = await save_latest(subject, THIRD)
        with pytest.raises(SnapshotExistsError):
            await subject.storage.checkpoint(
                location=LOCATION, snapshot=SECOND, snapshot_id=snapshot_id, if_match=version
            )
        assert await load(subject) == THIRD
        assert await load(subject, snapshot_id) == FIRST

    @VERSIONS
    async def test_a_checkpoint_over_the_version_it_names_is_written(
        self, subject: Subject, version_of: Callable[..., Version]
    ) -> None:
        version = version_of(await save_latest(subject, FIRST), await read_latest(subject))
        saved = await subject.storage.checkpoint(
            location=LOCATION, snapshot=SECOND, if_match=version
        )
        assert await read_latest(subject) == VersionedSnapshot(SECOND, saved.etag)
        third = await subject.storage.checkpoint(location=LOCATION, snapshot=THIRD, if_match=saved)
        assert await list_ids(subject) == [saved.snapshot_id, third.snapshot_id]

    async def test_checkpoint_over_an_older_version_is_in_history_only(
        self, subject: Subject
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        version = await save_latest(subject, FIRST)
        await save_latest(subject, SECOND)
        with pytest.raises(SnapshotConflictError) as raised:
            await subject.storage.checkpoint(
                location=LOCATION, snapshot=THIRD, snapshot_id=snapshot_id, if_match=version
            )
        assert not isinstance(raised.value, SnapshotExistsError)
        assert raised.value.snapshot_id == snapshot_id
        assert await load(subject) == SECOND
        assert await load(subject, snapshot_id) == THIRD

    async def test_a_checkpoint_that_is_refused_writes_nothing(self, subject: Subject) -> None:
        with pytest.raises(SnapshotEncodeError):
            await subject.storage.checkpoint(
                location=LOCATION, snapshot=make_snapshot({"x": float("nan")})
            )
        with pytest.raises(ScopeMismatchError):
            await subject.storage.checkpoint(
                location=SnapshotLocation.multi_agent("s-1", "weather"), snapshot=FIRST
            )
        for snapshot_id in ("", "latest", "01912a3b-abcd-4def-8abc-0123456789ab"):
            with pytest.raises(InvalidIdentifierError):
                await subject.storage.checkpoint(
                    location=LOCATION, snapshot=FIRST, snapshot_id=snapshot_id
                )
        assert await subject.raw.keys() == []

    # rewind

    @DIALECTS
    async def test_rewind_writes_the_document_of_history_as_latest(
        self, subject: Subject, dialect: Dialect
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        document = json.dumps(ENVELOPES[dialect], indent=1).encode()
        await subject.raw.put(history_key(snapshot_id), document)
        await save_latest(subject, FIRST)
        saved = await subject.storage.rewind(location=LOCATION, snapshot_id=snapshot_id.upper())
        assert saved.snapshot_id == snapshot_id
        read = await subject.storage.load_versioned(location=LOCATION)
        assert read is not None
        assert (read.snapshot, read.etag) == (make_snapshot(dialect=dialect), saved.etag)
        assert read.snapshot_id in (snapshot_id, None)
        assert (await subject.raw.get(LATEST) or b"").rstrip(b" \t") == document
        assert await subject.raw.get(history_key(snapshot_id)) == document
        # It is the version that is there: the next write may be made over it.
        await save_latest(subject, SECOND, if_match=saved)

    async def test_rewind_needs_no_latest_snapshot(self, subject: Subject) -> None:
        [snapshot_id] = snapshot_ids(1)
        await save_in_history(subject, FIRST, snapshot_id)
        await subject.storage.rewind(location=LOCATION, snapshot_id=snapshot_id)
        assert await load(subject) == FIRST

    @VERSIONS
    async def test_rewind_over_the_version_it_names_is_written(
        self, subject: Subject, version_of: Callable[..., Version]
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        await save_in_history(subject, FIRST, snapshot_id)
        version = version_of(await save_latest(subject, SECOND), await read_latest(subject))
        await subject.storage.rewind(location=LOCATION, snapshot_id=snapshot_id, if_match=version)
        assert await load(subject) == FIRST
        with pytest.raises(SnapshotConflictError) as raised:
            await subject.storage.rewind(
                location=LOCATION, snapshot_id=snapshot_id, if_match=version
            )
        assert raised.value.outcome == "not applied"
        assert raised.value.snapshot_id == snapshot_id

    async def test_rewind_can_be_for_no_latest_snapshot_only(self, subject: Subject) -> None:
        [snapshot_id] = snapshot_ids(1)
        await save_in_history(subject, FIRST, snapshot_id)
        saved = await subject.storage.rewind(
            location=LOCATION, snapshot_id=snapshot_id, if_none_match=True
        )
        assert await load(subject) == FIRST
        await save_latest(subject, SECOND, if_match=saved)
        with pytest.raises(SnapshotConflictError) as raised:
            await subject.storage.rewind(
                location=LOCATION, snapshot_id=snapshot_id, if_none_match=True
            )
        assert raised.value.outcome == "not applied"
        assert raised.value.snapshot_id == snapshot_id
        assert not raised.value.retryable
        with pytest.raises(TypeError):
            await subject.storage.rewind(
                location=LOCATION, snapshot_id=snapshot_id, if_match=saved, if_none_match=True
            )
        assert await load(subject) == SECOND

    async def test_rewind_to_a_missing_snapshot_changes_nothing(self, subject: Subject) -> None:
        saved = await save_latest(subject, FIRST)
        before = await subject.raw.get(LATEST)
        [snapshot_id] = snapshot_ids(1)
        for version in (None, saved):
            with pytest.raises(SnapshotNotFoundError) as raised:
                await subject.storage.rewind(
                    location=LOCATION, snapshot_id=snapshot_id, if_match=version
                )
            assert (raised.value.key or "").endswith(history_key(snapshot_id))
            assert raised.value.outcome == "not applied"
            assert not raised.value.retryable
        assert await subject.raw.get(LATEST) == before
        assert await subject.raw.keys() == [LATEST]

    async def test_rewind_to_a_corrupt_snapshot_changes_nothing(self, subject: Subject) -> None:
        await save_latest(subject, FIRST)
        before = await subject.raw.get(LATEST)
        [snapshot_id] = snapshot_ids(1)
        other = {**ENVELOPES["typescript"], "scope": "multiAgent"}
        for body, error in ((b"{}", SnapshotDecodeError), (to_json(other), ScopeMismatchError)):
            await subject.raw.put(history_key(snapshot_id), body)
            with pytest.raises(error):
                await subject.storage.rewind(location=LOCATION, snapshot_id=snapshot_id)
        for no_id in ("", "latest", "01912a3b-abcd-4def-8abc-0123456789ab"):
            with pytest.raises(InvalidIdentifierError):
                await subject.storage.rewind(location=LOCATION, snapshot_id=no_id)
        assert await subject.raw.get(LATEST) == before

    # update_latest

    async def test_an_update_begins_with_none_where_there_is_no_snapshot(
        self, subject: Subject
    ) -> None:
        seen: list[Snapshot | None] = []

        def update(current: Snapshot | None) -> Snapshot:
            seen.append(current)
            return FIRST

        saved = await subject.storage.update_latest(location=LOCATION, update=update)
        assert seen == [None]
        assert saved.snapshot_id is None
        assert await read_latest(subject) == VersionedSnapshot(FIRST, saved.etag)
        assert await subject.raw.keys() == [LATEST]

    @DIALECTS
    async def test_update_is_given_latest_in_its_own_dialect(
        self, subject: Subject, dialect: Dialect
    ) -> None:
        await subject.raw.put(LATEST, to_json(ENVELOPES[dialect]))

        def update(current: Snapshot | None) -> Snapshot:
            assert current is not None
            assert current == make_snapshot(dialect=dialect)
            return msgspec.structs.replace(current, data={"n": 1})

        await subject.storage.update_latest(location=LOCATION, update=update)
        body = await subject.raw.get(LATEST)
        assert json.loads(body or b"") == {**ENVELOPES[dialect], "data": {"n": 1}}

    async def test_an_update_may_be_a_coroutine_function(self, subject: Subject) -> None:
        async def update(current: Snapshot | None) -> Snapshot:
            await asyncio.sleep(0)
            return counted_up(current)

        for _ in range(2):
            await subject.storage.update_latest(location=LOCATION, update=update)
        assert await load(subject) == make_snapshot({"n": 2})

    async def test_update_latest_writes_nothing_where_update_declines(
        self, subject: Subject
    ) -> None:
        await save_latest(subject, FIRST)
        version = await subject.storage.load_versioned(location=LOCATION)
        body = await subject.raw.get(LATEST)

        def decline(current: Snapshot | None) -> Snapshot:
            assert current is not None
            return current

        kept = await subject.storage.update_latest(location=LOCATION, update=decline)
        assert version is not None
        assert kept.etag == version.etag
        assert await subject.raw.get(LATEST) == body
        # It is the version that is there: the next write may be made over it.
        await save_latest(subject, SECOND, if_match=kept)

    async def test_update_latest_writes_what_was_changed_in_place(self, subject: Subject) -> None:
        await save_latest(subject, FIRST)

        def change(current: Snapshot | None) -> Snapshot:
            assert current is not None
            current.data["n"] = 2
            return current

        await subject.storage.update_latest(location=LOCATION, update=change)
        assert await load(subject) == SECOND

    async def test_five_workers_count_to_twenty_and_lose_nothing(self, subject: Subject) -> None:
        async def work() -> None:
            for _ in range(4):
                await subject.storage.update_latest(location=LOCATION, update=counted_up)

        await asyncio.gather(*(work() for _ in range(5)))
        assert await load(subject) == make_snapshot({"n": 20})

    async def test_update_is_repeated_on_what_another_writer_saved(self, subject: Subject) -> None:
        await save_latest(subject, make_snapshot({"n": 1}))
        seen: list[Snapshot | None] = []

        async def update(current: Snapshot | None) -> Snapshot:
            seen.append(current)
            if len(seen) == 1:
                await subject.raw.put(LATEST, to_json({**ENVELOPES["python"], "data": {"n": 10}}))
            return counted_up(current)

        await subject.storage.update_latest(location=LOCATION, update=update)
        assert seen == [make_snapshot({"n": 1}), make_snapshot({"n": 10}, dialect="python")]
        assert await load(subject) == make_snapshot({"n": 11})

    async def test_update_is_repeated_if_another_saved_first(self, subject: Subject) -> None:
        seen: list[Snapshot | None] = []

        async def update(current: Snapshot | None) -> Snapshot:
            seen.append(current)
            if len(seen) == 1:
                await subject.raw.put(
                    LATEST, to_json({**ENVELOPES["typescript"], "data": {"n": 1}})
                )
            return counted_up(current)

        await subject.storage.update_latest(location=LOCATION, update=update)
        assert seen == [None, make_snapshot({"n": 1})]
        assert await load(subject) == make_snapshot({"n": 2})

    async def test_an_update_that_loses_every_time_is_a_conflict(self, subject: Subject) -> None:
        attempts = 0

        async def update(_: Snapshot | None) -> Snapshot:
            nonlocal attempts
            attempts += 1
            rival = {**ENVELOPES["typescript"], "data": {"rival": attempts}}
            await subject.raw.put(LATEST, to_json(rival))
            return FIRST

        with pytest.raises(SnapshotConflictError):
            await subject.storage.update_latest(location=LOCATION, update=update, max_attempts=3)
        assert attempts == 3
        assert await load(subject) == make_snapshot({"rival": 3})

    async def test_an_update_that_raises_changes_nothing(self, subject: Subject) -> None:
        await save_latest(subject, FIRST)

        def update(_: Snapshot | None) -> Snapshot:
            raise KeyError("of the caller")

        with pytest.raises(KeyError, match="of the caller"):
            await subject.storage.update_latest(location=LOCATION, update=update)
        assert await load(subject) == FIRST

    async def test_an_update_that_can_not_be_saved_changes_nothing(self, subject: Subject) -> None:
        await save_latest(subject, FIRST)
        with pytest.raises(SnapshotEncodeError):
            await subject.storage.update_latest(
                location=LOCATION, update=lambda _: make_snapshot({"x": float("nan")})
            )
        with pytest.raises(ScopeMismatchError):
            await subject.storage.update_latest(
                location=LOCATION, update=lambda _: Snapshot.new({}, scope="multiAgent")
            )
        assert await load(subject) == FIRST

    async def test_a_corrupt_snapshot_is_not_updated(self, subject: Subject) -> None:
        await subject.raw.put(LATEST, b"{}")
        called = False

        def update(_: Snapshot | None) -> Snapshot:
            nonlocal called
            called = True
            return FIRST

        with pytest.raises(SnapshotDecodeError):
            await subject.storage.update_latest(location=LOCATION, update=update)
        assert not called
        assert await subject.raw.get(LATEST) == b"{}"

    async def test_an_update_needs_at_least_one_attempt(self, subject: Subject) -> None:
        with pytest.raises(ValueError, match="max_attempts"):
            await subject.storage.update_latest(
                location=LOCATION, update=counted_up, max_attempts=0
            )
        assert await subject.raw.keys() == []

    # iter_snapshot_ids

    async def test_ids_are_walked_as_they_are_listed(self, subject: Subject) -> None:
        ids = snapshot_ids(5)
        assert await walked(subject) == []
        await seed_history(subject.raw, reversed(ids))
        await subject.raw.put(f"{HISTORY}notes.txt", b"of nobody")
        assert await walked(subject) == ids
        assert await walked(subject, start_after=ids[1].upper()) == ids[2:]
        assert await walked(subject, start_after=ids[4]) == []

    async def test_a_walk_may_be_left_early(self, subject: Subject) -> None:
        ids = snapshot_ids(5)
        await seed_history(subject.raw, ids)
        seen = []
        async with aclosing(subject.storage.iter_snapshot_ids(location=LOCATION)) as walk:
            async for snapshot_id in walk:
                seen.append(snapshot_id)
                if len(seen) == 2:
                    break
        assert seen == ids[:2]
        assert await walked(subject) == ids

    async def test_other_operations_may_run_in_the_middle_of_a_walk(self, subject: Subject) -> None:
        ids = snapshot_ids(MORE_THAN_A_PAGE)
        await seed_history(subject.raw, ids)
        seen = []
        async with aclosing(subject.storage.iter_snapshot_ids(location=LOCATION)) as walk:
            async for snapshot_id in walk:
                seen.append(snapshot_id)
                if len(seen) in (1, 1_000):
                    assert await load(subject, snapshot_id) == make_snapshot()
                    await save_latest(subject, FIRST)
        assert seen == ids
        assert await subject.storage.delete_session(session_id="s-1") == DeletedSession(
            MORE_THAN_A_PAGE + 1, 0
        )

    @pytest.mark.parametrize(
        "cursor", ["", "latest", "01912a3b-abcd-4def-8abc-0123456789ab"], ids=repr
    )
    async def test_a_walk_from_a_cursor_that_is_no_id_is_refused(
        self, subject: Subject, cursor: str
    ) -> None:
        with pytest.raises(InvalidIdentifierError):
            await walked(subject, start_after=cursor)

    # Deleting

    async def test_deleting_a_session_tells_how_many_objects_it_had(self, subject: Subject) -> None:
        assert await subject.storage.delete_session(session_id="s-1") == DeletedSession(0, 0)
        keys = [LATEST, MANIFEST, *map(history_key, snapshot_ids(3)), "s-1/notes.txt"]
        await seed(subject.raw, dict.fromkeys(keys, b"{}"))
        await subject.raw.put("s-10/notes.txt", b"kept")
        assert await subject.storage.delete_session(session_id="s-1") == DeletedSession(6, 0)
        assert await subject.storage.delete_session(session_id="s-1") == DeletedSession(0, 0)

    async def test_delete_counts_the_objects_kept_for_another_store(self, subject: Subject) -> None:
        kept = [
            "s-1/customer/scopes/agent/a/snapshots/snapshot_latest.json",
            "s-1/customer/scopes/multiAgent/graph/snapshots/manifest.json",
            "s-1/scopes/scopes/agent/a/snapshots/snapshot_latest.json",
        ]
        await seed(subject.raw, dict.fromkeys([*kept, LATEST, "s-1/customer/notes.txt"], b"{}"))
        assert await subject.storage.delete_session(session_id="s-1") == DeletedSession(2, 3)
        # Now there is no such session any more.
        assert await subject.storage.delete_session(session_id="s-1") == DeletedSession(0, 3)
        assert await subject.storage.delete_session(session_id="s") == DeletedSession(0, 0)
        assert sorted(await subject.raw.keys()) == sorted(kept)

    # What is refused

    async def test_a_location_that_is_none_is_refused(self, subject: Subject) -> None:
        storage: Any = subject.storage
        manifest = await storage.load_manifest(location=LOCATION)
        for location in (None, "s-1", ("s-1", "agent", "weather")):
            for call in (
                storage.save_snapshot(location=location, snapshot=FIRST, is_latest=True),
                storage.save_snapshot(location=location, snapshot=FIRST, is_latest=False),
                storage.checkpoint(location=location, snapshot=FIRST),
                storage.update_latest(location=location, update=counted_up),
                storage.load_snapshot(location=location),
                storage.load_versioned(location=location),
                storage.rewind(location=location, snapshot_id=snapshot_ids(1)[0]),
                storage.list_snapshot_ids(location=location),
                storage.load_manifest(location=location),
                storage.save_manifest(location=location, manifest=manifest),
            ):
                with pytest.raises(TypeError):
                    await call
        assert await subject.raw.keys() == []


async def save_latest(
    subject: Subject,
    snapshot: Snapshot,
    *,
    if_match: Version | None = None,
    if_none_match: bool = False,
) -> SavedSnapshot:
    return await subject.storage.save_snapshot(
        location=LOCATION,
        snapshot=snapshot,
        is_latest=True,
        if_match=if_match,
        if_none_match=if_none_match,
    )


async def read_latest(subject: Subject) -> VersionedSnapshot | None:
    """The latest snapshot and its etag; what is opaque is left out."""
    read = await subject.storage.load_versioned(location=LOCATION)
    return None if read is None else VersionedSnapshot(read.snapshot, read.etag)


async def walked(subject: Subject, start_after: str | None = None) -> list[str]:
    walk = subject.storage.iter_snapshot_ids(location=LOCATION, start_after=start_after)
    async with aclosing(walk) as ids:
        return [snapshot_id async for snapshot_id in ids]


def counted_up(current: Snapshot | None) -> Snapshot:
    return make_snapshot({"n": 1 if current is None else current.data["n"] + 1})


def only_winner(results: list[Any], loss: type[Exception]) -> int:
    """The place of the one result that is no loss, among as many attempts."""
    assert [type(result) for result in results].count(loss) == len(results) - 1
    [winner] = (n for n, result in enumerate(results) if not isinstance(result, BaseException))
    return winner
