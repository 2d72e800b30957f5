# ruff: noqa: D102 -- the name of a test says what it checks
"""The conformance suite for the six operations of a snapshot storage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final
from uuid import UUID

import msgspec
import pytest

from snapstore.errors import (
    InvalidIdentifierError,
    ScopeMismatchError,
    SnapshotDecodeError,
    SnapshotEncodeError,
)
from snapstore.model.protocols import SnapshotStorage
from snapstore.model.snapshot import Dialect, Snapshot, SnapshotLocation, SnapshotManifest
from snapstore.testing.samples import (
    APP_DATA_NAMES,
    CANARY,
    CORRUPT_BODIES,
    CREATED_AT,
    DATA,
    ENVELOPES,
    HISTORY,
    LATEST,
    LOCATION,
    MANIFEST,
    MORE_THAN_A_PAGE,
    SIBLINGS,
    SNAPSHOTS,
    UNENCODABLE_VALUES,
    Text,
    everything_said_by,
    history_key,
    make_snapshot,
    nested,
    snapshot_ids,
)
from snapstore.testing.subjects import RawObjects, StorageSubject, seed

__all__ = ["SnapshotStorageTests"]

Subject = StorageSubject[SnapshotStorage]

DIALECTS: Final = pytest.mark.parametrize("dialect", ["typescript", "python"])


class SnapshotStorageTests:
    """Holds a storage to the contract of `SnapshotStorage`, the six operations.

    Subclass it with a fixture `subject` that gives an open storage with nothing in it, and a way
    to reach its objects without it; a fresh one for each test. What the operations return beyond
    the Protocol is not looked at. The tests carry no mark of an async framework: give your class
    the one you use, pytest-asyncio's or anyio's (on asyncio).

    Example:
        A storage that keeps its objects in a dictionary, under pytest-asyncio::

            import pytest
            import pytest_asyncio

            from my_package import MyStorage
            from snapstore.testing import DictObjects, SnapshotStorageTests, StorageSubject


            class TestMyStorage(SnapshotStorageTests):
                pytestmark = pytest.mark.asyncio

                @pytest_asyncio.fixture
                async def subject(self):
                    objects = {}
                    async with MyStorage(objects) as storage:
                        yield StorageSubject(storage, DictObjects(objects))

        With anyio the mark is `pytest.mark.anyio`, the fixture a `pytest.fixture`, and a fixture
        `anyio_backend` returns `"asyncio"`.
    """

    # Keys

    async def test_the_latest_snapshot_lies_where_both_sdks_look_for_it(
        self, subject: Subject
    ) -> None:
        await save(subject, make_snapshot())
        assert await subject.raw.keys() == [LATEST]

    async def test_a_snapshot_in_history_lies_under_its_id(self, subject: Subject) -> None:
        [snapshot_id] = snapshot_ids(1)
        await save_in_history(subject, make_snapshot(), snapshot_id)
        assert await subject.raw.keys() == [history_key(snapshot_id)]

    async def test_the_manifest_lies_beside_the_latest_snapshot(self, subject: Subject) -> None:
        await subject.storage.save_manifest(
            location=LOCATION, manifest=SnapshotManifest("1.0", CREATED_AT)
        )
        assert await subject.raw.keys() == [MANIFEST]

    async def test_an_orchestrator_has_keys_of_its_own(self, subject: Subject) -> None:
        location = SnapshotLocation.multi_agent("s-1", "graph_1")
        [snapshot_id] = snapshot_ids(1)
        snapshot = Snapshot.new({"steps": 2}, scope="multiAgent")
        await save(subject, snapshot, location)
        await save_in_history(subject, snapshot, snapshot_id, location)
        folder = "s-1/scopes/multiAgent/graph_1/snapshots/"
        assert sorted(await subject.raw.keys()) == [
            f"{folder}immutable_history/snapshot_{snapshot_id}.json",
            f"{folder}snapshot_latest.json",
        ]
        assert await load(subject, location=location) == snapshot

    async def test_ids_of_255_characters_make_keys_that_work(self, subject: Subject) -> None:
        location = SnapshotLocation.multi_agent("s" * 255, "0" * 255)
        [snapshot_id] = snapshot_ids(1)
        snapshot = Snapshot.new({"steps": 2}, scope="multiAgent")
        await save_in_history(subject, snapshot, snapshot_id, location)
        assert await load(subject, snapshot_id, location) == snapshot
        assert await list_ids(subject, location=location) == [snapshot_id]

    async def test_an_upper_case_snapshot_id_is_the_same_id(self, subject: Subject) -> None:
        snapshot_id = "01912a3b-abcd-7def-8abc-0123456789ab"
        await save_in_history(subject, make_snapshot(), snapshot_id.upper())
        assert await subject.raw.keys() == [history_key(snapshot_id)]
        assert await load(subject, snapshot_id.upper()) == make_snapshot()

    async def test_history_without_an_id_gets_a_new_uuid7_each_time(self, subject: Subject) -> None:
        for _ in range(2):
            await subject.storage.save_snapshot(
                location=LOCATION, snapshot=make_snapshot(), is_latest=False
            )
        ids = await list_ids(subject)
        assert len(ids) == 2
        assert [UUID(snapshot_id).version for snapshot_id in ids] == [7, 7]
        assert sorted(await subject.raw.keys()) == [history_key(found) for found in ids]

    async def test_the_id_that_comes_with_latest_is_ignored(self, subject: Subject) -> None:
        for snapshot_id in ("latest", *snapshot_ids(1)):
            await subject.storage.save_snapshot(
                location=LOCATION,
                snapshot=make_snapshot(),
                is_latest=True,
                snapshot_id=snapshot_id,
            )
        assert await subject.raw.keys() == [LATEST]

    async def test_latest_and_history_are_apart(self, subject: Subject) -> None:
        [snapshot_id] = snapshot_ids(1)
        earlier, later = make_snapshot({"n": 1}), make_snapshot({"n": 2})
        await save_in_history(subject, earlier, snapshot_id)
        assert await load(subject) is None
        await save(subject, later)
        assert await load(subject, snapshot_id) == earlier
        assert await load(subject) == later

    # Bytes

    @DIALECTS
    async def test_a_snapshot_is_written_as_json_in_its_own_envelope(
        self, subject: Subject, dialect: Dialect
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        await save(subject, make_snapshot(dialect=dialect))
        await save_in_history(subject, make_snapshot(dialect=dialect), snapshot_id)
        assert await json_at(subject.raw, LATEST) == ENVELOPES[dialect]
        assert await json_at(subject.raw, history_key(snapshot_id)) == ENVELOPES[dialect]

    @DIALECTS
    async def test_a_snapshot_of_either_sdk_is_read(
        self, subject: Subject, dialect: Dialect
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        await subject.raw.put(LATEST, to_json(ENVELOPES[dialect]))
        await subject.raw.put(history_key(snapshot_id), to_json(ENVELOPES[dialect]))
        assert await load(subject) == make_snapshot(dialect=dialect)
        assert await load(subject, snapshot_id) == make_snapshot(dialect=dialect)

    async def test_a_session_may_hold_snapshots_of_both_sdks(self, subject: Subject) -> None:
        first, second = snapshot_ids(2)
        await subject.raw.put(history_key(first), to_json(ENVELOPES["typescript"]))
        await subject.raw.put(history_key(second), to_json(ENVELOPES["python"]))
        await subject.raw.put(LATEST, to_json(ENVELOPES["python"]))
        assert await list_ids(subject) == [first, second]
        assert await load(subject, first) == make_snapshot(dialect="typescript")
        assert await load(subject, second) == make_snapshot(dialect="python")
        assert await load(subject) == make_snapshot(dialect="python")

    @DIALECTS
    async def test_saving_what_was_loaded_keeps_its_envelope(
        self, subject: Subject, dialect: Dialect
    ) -> None:
        await subject.raw.put(LATEST, to_json(ENVELOPES[dialect]))
        loaded = await load(subject)
        assert loaded is not None
        await save(subject, msgspec.structs.replace(loaded, app_data={"changed": True}))
        changed = {**ENVELOPES[dialect], APP_DATA_NAMES[dialect]: {"changed": True}}
        assert await json_at(subject.raw, LATEST) == changed

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(json.dumps(ENVELOPES["typescript"], indent=2), id="indented"),
            pytest.param(
                f"\r\n\t {json.dumps(ENVELOPES['typescript'], indent=chr(9))}\r\n", id="with spaces"
            ),
            pytest.param(json.dumps(ENVELOPES["typescript"], ensure_ascii=True), id="in ASCII"),
            pytest.param(json.dumps(ENVELOPES["typescript"], ensure_ascii=False), id="in UTF-8"),
            pytest.param(json.dumps(ENVELOPES["typescript"], sort_keys=True), id="sorted"),
            pytest.param("\ufeff" + json.dumps(ENVELOPES["typescript"]), id="with a BOM"),
            pytest.param(
                json.dumps(ENVELOPES["typescript"]).replace("{", '{"data": {}, ', 1),
                id="with a key twice",
            ),
        ],
    )
    async def test_json_of_any_layout_is_read(self, subject: Subject, body: str) -> None:
        await subject.raw.put(LATEST, body.encode())
        assert await load(subject) == make_snapshot()

    async def test_what_the_python_sdk_fills_in_on_reading_is_filled_in(
        self, subject: Subject
    ) -> None:
        envelope = {
            name: value
            for name, value in ENVELOPES["python"].items()
            if name not in ("scope", "app_data")
        }
        await subject.raw.put(LATEST, to_json(envelope))
        assert await load(subject) == make_snapshot(dialect="python", app_data={})

    @DIALECTS
    async def test_times_and_versions_are_text_that_nobody_rewrites(
        self, subject: Subject, dialect: Dialect
    ) -> None:
        snapshot = msgspec.structs.replace(
            make_snapshot(dialect=dialect),
            schema_version="2.7-beta",
            created_at="2026-11-22T13:13:20.403123+02:00",
        )
        await save(subject, snapshot)
        assert await load(subject) == snapshot

    @DIALECTS
    async def test_fields_that_nobody_knows_survive_a_load_and_a_save(
        self, subject: Subject, dialect: Dialect
    ) -> None:
        envelope = {
            **ENVELOPES[dialect],
            "data": {**DATA, "addedLater": {"deep": [1, {"x": None}]}, "added_later": 1},
            APP_DATA_NAMES[dialect]: {"camelCase": 1, "snake_case": 2},
            "futureField": {"kept": ["as", "it", "is"]},
            "future_field": None,
        }
        await subject.raw.put(LATEST, to_json(envelope))
        loaded = await load(subject)
        assert loaded is not None
        [snapshot_id] = snapshot_ids(1)
        await save_in_history(subject, loaded, snapshot_id)
        assert await json_at(subject.raw, history_key(snapshot_id)) == envelope

    # What saves, loads equal

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param({}, id="an empty object"),
            pytest.param([{}, [], [[]], "", {"": {"": ""}}], id="empty values in each other"),
            pytest.param([None, True, False, 0, 1, "0", "null"], id="values easily mistaken"),
            pytest.param("Zürich 你好 🌧️ \u2028 \u00a0 e\u0301 \ufeff \uffff", id="unicode"),
            pytest.param("a\x00b \x01\x1f\x7f \b\f\n\r\t", id="NUL and control characters"),
            pytest.param("\" \\ \\u0041 </script> ' %41 ${x}", id="characters to escape"),
            pytest.param("cut emoji \ud83d", id="the first half of an emoji"),
            pytest.param("\ude00 cut emoji", id="the second half of an emoji"),
            pytest.param(["\udfff\ud800", "\ud83d\ud83d", "🌧\ud83d🌧"], id="more lone surrogates"),
            pytest.param({"\ud83d": "\ud83d", "ü\ude00": 1}, id="lone surrogates in keys"),
            pytest.param(
                ["\ud83d", -(2**70), 5e-324, 1.0, {}, None, True],
                id="a lone surrogate among others",
            ),
            pytest.param(
                {" ": 1, "a.b": 2, "__proto__": 3, "constructor": 4, "0": 5, "ü": 6, "a\nb": 7},
                id="odd keys",
            ),
            pytest.param([0, -1, 2**31, 2**53 + 1, -(2**53) - 1, 2**63, 2**64], id="integers"),
            pytest.param([2**70, -(2**70), 10**100, 10**4000], id="big integers"),
            pytest.param([0.0, -0.0, 1.0, -1.5, 0.1, 1 / 3, 1e16, 123456789.0], id="floats"),
            pytest.param([5e-324, 2.2250738585072014e-308, 1e22, 1e23, 1e-7], id="odd floats"),
            pytest.param([1.7976931348623157e308, -1.7976931348623157e308], id="largest floats"),
            pytest.param(
                ["2026-11-22", "2026-11-22T11:13:20Z", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"],
                id="text that looks like other types",
            ),
            pytest.param({"__bytes_encoded__": True, "data": "iVBORwD/"}, id="bytes as an SDK has"),
            pytest.param(list(range(10_000)), id="a long list"),
        ],
    )
    async def test_what_is_saved_loads_equal(self, subject: Subject, value: Any) -> None:
        snapshot = make_snapshot({"value": value}, app_data={"value": value})
        await save(subject, snapshot)
        loaded = await load(subject)
        assert loaded is not None
        assert loaded == snapshot
        # 1, 1.0 and True are equal, and so are 0.0 and -0.0: as JSON they are not.
        assert json.dumps(loaded.data, sort_keys=True) == json.dumps(snapshot.data, sort_keys=True)
        assert json.dumps(loaded.app_data, sort_keys=True) == json.dumps(
            snapshot.app_data, sort_keys=True
        )

    @DIALECTS
    async def test_empty_data_loads_equal(self, subject: Subject, dialect: Dialect) -> None:
        snapshot = make_snapshot({}, app_data={}, dialect=dialect)
        await save(subject, snapshot)
        assert await load(subject) == snapshot

    async def test_a_snapshot_of_two_megabytes_loads_equal(self, subject: Subject) -> None:
        random = Random(2)
        messages = [
            {"role": "user", "n": n, "content": [{"text": random.randbytes(500).hex()}]}
            for n in range(2_000)
        ]
        snapshot = make_snapshot({"messages": messages})
        await save(subject, snapshot)
        assert await load(subject) == snapshot

    async def test_a_snapshot_200_deep_loads_equal(self, subject: Subject) -> None:
        # The envelope is the first level.
        snapshot = make_snapshot(nested(199))
        await save(subject, snapshot)
        assert await load(subject) == snapshot

    async def test_the_halves_of_an_emoji_are_joined_as_javascript_does(
        self, subject: Subject
    ) -> None:
        await save(subject, make_snapshot({"text": "\ud83c\udf27"}))
        assert await load(subject) == make_snapshot({"text": "🌧"})

    async def test_lone_surrogates_are_read_as_javascript_writes_them(
        self, subject: Subject
    ) -> None:
        body = to_json(ENVELOPES["typescript"] | {"data": {"text": "cut"}})
        await subject.raw.put(LATEST, body.replace(b"cut", rb"cut \uD83D\ud83d\uDE00 \udE00"))
        assert await load(subject) == make_snapshot({"text": "cut \ud83d😀 \ude00"})

    async def test_tuples_load_as_lists(self, subject: Subject) -> None:
        await save(subject, make_snapshot({"pair": (1, ("a", ()))}))
        assert await load(subject) == make_snapshot({"pair": [1, ["a", []]]})

    async def test_what_changes_after_the_call_is_not_saved(self, subject: Subject) -> None:
        messages: list[dict[str, str]] = [{"text": "first"}]
        saving = asyncio.create_task(save(subject, make_snapshot({"messages": messages})))
        # The save has begun, and may be waiting for its store.
        await asyncio.sleep(0)
        messages[0]["text"] = "changed"
        messages.append({"text": "second"})
        await saving
        assert await load(subject) == make_snapshot({"messages": [{"text": "first"}]})

    async def test_what_was_loaded_belongs_to_the_caller(self, subject: Subject) -> None:
        [snapshot_id] = snapshot_ids(1)
        await save(subject, make_snapshot({"messages": []}))
        await save_in_history(subject, make_snapshot({"messages": []}), snapshot_id)
        for wanted in (None, snapshot_id):
            for _ in range(2):
                loaded = await load(subject, wanted)
                assert loaded is not None
                assert loaded == make_snapshot({"messages": []})
                # It stays with the caller.
                loaded.data["messages"].append("changed")

    async def test_what_another_worker_writes_is_seen(self, subject: Subject) -> None:
        first, second = snapshot_ids(2)
        await save(subject, make_snapshot({"n": 1}))
        await save_in_history(subject, make_snapshot({"n": 1}), first)
        await subject.storage.save_manifest(
            location=LOCATION, manifest=SnapshotManifest("1.0", "earlier")
        )
        assert await load(subject) == make_snapshot({"n": 1})
        assert await load(subject, second) is None
        assert await list_ids(subject) == [first]
        theirs = to_json({**ENVELOPES["typescript"], "data": {"n": 2}})
        await seed(
            subject.raw,
            {
                LATEST: theirs,
                history_key(second): theirs,
                MANIFEST: to_json({"schemaVersion": "1.0", "updatedAt": "later"}),
            },
        )
        assert await load(subject) == make_snapshot({"n": 2})
        assert await load(subject, second) == make_snapshot({"n": 2})
        assert await list_ids(subject) == [first, second]
        assert await subject.storage.load_manifest(location=LOCATION) == SnapshotManifest(
            "1.0", "later"
        )

    async def test_saving_the_latest_snapshot_again_replaces_it(self, subject: Subject) -> None:
        await save(subject, make_snapshot({"text": "long " * 1_000}))
        await save(subject, make_snapshot({"text": "short"}))
        assert await load(subject) == make_snapshot({"text": "short"})

    # Missing is None, and nothing else is

    async def test_a_missing_snapshot_is_none(self, subject: Subject) -> None:
        present, missing = snapshot_ids(2)
        assert await load(subject) is None
        assert await load(subject, missing) is None
        await save_in_history(subject, make_snapshot(), present)
        assert await load(subject) is None
        assert await load(subject, missing) is None
        await save(subject, make_snapshot())
        assert await load(subject, missing) is None

    @pytest.mark.parametrize("body", CORRUPT_BODIES.values(), ids=CORRUPT_BODIES.keys())
    async def test_corrupt_object_error_names_its_key_and_no_text(
        self, subject: Subject, body: bytes
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        for key in (LATEST, history_key(snapshot_id), MANIFEST):
            await subject.raw.put(key, body)
        with pytest.raises(SnapshotDecodeError) as latest:
            await load(subject)
        with pytest.raises(SnapshotDecodeError) as history:
            await load(subject, snapshot_id)
        with pytest.raises(SnapshotDecodeError) as manifest:
            await subject.storage.load_manifest(location=LOCATION)
        for raised, key in (
            (latest, LATEST),
            (history, history_key(snapshot_id)),
            (manifest, MANIFEST),
        ):
            assert (raised.value.key or "").endswith(key)
            assert key in str(raised.value)
            for text in everything_said_by(raised.value):
                assert CANARY not in text

    async def test_corrupt_snapshot_is_listed_replaced_and_deleted(self, subject: Subject) -> None:
        [snapshot_id] = snapshot_ids(1)
        await seed(subject.raw, {LATEST: b"", history_key(snapshot_id): b"{"})
        assert await list_ids(subject) == [snapshot_id]
        await save(subject, make_snapshot())
        assert await load(subject) == make_snapshot()
        await subject.storage.delete_session(session_id="s-1")
        assert await subject.raw.keys() == []

    # Manifests

    async def test_manifest_that_is_missing_is_a_default_not_stored(self, subject: Subject) -> None:
        earliest = datetime.now(UTC) - timedelta(milliseconds=1)
        manifest = await subject.storage.load_manifest(location=LOCATION)
        assert manifest.schema_version == "1.0"
        assert earliest <= datetime.fromisoformat(manifest.updated_at) <= datetime.now(UTC)
        assert await subject.raw.keys() == []

    async def test_a_manifest_loads_as_it_was_saved_last(self, subject: Subject) -> None:
        for manifest in (SnapshotManifest("1.0", CREATED_AT), SnapshotManifest("2-beta", "later")):
            await subject.storage.save_manifest(location=LOCATION, manifest=manifest)
            assert await subject.storage.load_manifest(location=LOCATION) == manifest
        document = await json_at(subject.raw, MANIFEST)
        assert document == {"schemaVersion": "2-beta", "updatedAt": "later"}

    async def test_fields_of_a_manifest_that_nobody_knows_survive(self, subject: Subject) -> None:
        document = {"schemaVersion": "1.0", "updatedAt": CREATED_AT, "future": {"kept": [1, None]}}
        await subject.raw.put(MANIFEST, json.dumps(document, indent=2).encode())
        manifest = await subject.storage.load_manifest(location=LOCATION)
        await subject.storage.save_manifest(
            location=LOCATION, manifest=msgspec.structs.replace(manifest, updated_at="later")
        )
        assert await json_at(subject.raw, MANIFEST) == {**document, "updatedAt": "later"}

    async def test_each_location_has_a_manifest_of_its_own(self, subject: Subject) -> None:
        locations = [
            LOCATION,
            SnapshotLocation.agent("s-1", "news"),
            SnapshotLocation.multi_agent("s-1", "weather"),
            SnapshotLocation.agent("s-10", "weather"),
        ]
        for n, location in enumerate(locations):
            await subject.storage.save_manifest(
                location=location, manifest=SnapshotManifest("1.0", f"time {n}")
            )
        loaded = [await subject.storage.load_manifest(location=location) for location in locations]
        assert [manifest.updated_at for manifest in loaded] == [
            "time 0",
            "time 1",
            "time 2",
            "time 3",
        ]

    # Listing

    async def test_no_history_is_an_empty_list(self, subject: Subject) -> None:
        assert await list_ids(subject) == []
        await save(subject, make_snapshot())
        assert await list_ids(subject) == []

    async def test_ids_are_listed_oldest_first(self, subject: Subject) -> None:
        ids = snapshot_ids(5)
        for n in (3, 0, 4, 2, 1):
            await save_in_history(subject, make_snapshot(), ids[n])
        assert await list_ids(subject) == ids

    async def test_a_limit_of_zero_or_less_is_an_empty_list(self, subject: Subject) -> None:
        await seed_history(subject.raw, snapshot_ids(2))
        assert await list_ids(subject, limit=0) == []
        assert await list_ids(subject, limit=-1) == []

    async def test_a_cursor_is_exclusive(self, subject: Subject) -> None:
        ids = snapshot_ids(3)
        await seed_history(subject.raw, ids)
        assert await list_ids(subject, start_after=ids[0]) == ids[1:]
        assert await list_ids(subject, start_after=ids[2]) == []

    async def test_a_cursor_may_be_in_upper_case(self, subject: Subject) -> None:
        ids = [f"01912a3b-{n:04x}-7abc-8def-0123456789ab" for n in range(0xA, 0xE)]
        await seed_history(subject.raw, ids)
        assert await list_ids(subject, start_after=ids[1].upper()) == ids[2:]

    async def test_a_cursor_need_not_exist(self, subject: Subject) -> None:
        before, first, between, second, after = snapshot_ids(5)
        await seed_history(subject.raw, [first, second])
        assert await list_ids(subject, start_after=before) == [first, second]
        assert await list_ids(subject, start_after=between) == [second]
        assert await list_ids(subject, start_after=after) == []

    async def test_every_limit_and_cursor_gives_its_part_of_the_whole(
        self, subject: Subject
    ) -> None:
        ids = snapshot_ids(6)
        await seed_history(subject.raw, ids)
        for limit in (None, *range(1, 8)):
            for start, cursor in enumerate([None, *ids]):
                expected = ids[start:] if limit is None else ids[start : start + limit]
                assert await list_ids(subject, limit=limit, start_after=cursor) == expected

    async def test_chained_pages_of_any_size_are_the_whole(self, subject: Subject) -> None:
        ids = snapshot_ids(7)
        await seed_history(subject.raw, ids)
        for limit in range(1, 9):
            assert await chained_pages(subject, limit) == ids

    async def test_history_over_1000_is_listed_and_deleted(self, subject: Subject) -> None:
        ids = snapshot_ids(MORE_THAN_A_PAGE)
        await seed_history(subject.raw, ids)
        await subject.raw.put("s-10/notes.txt", b"kept")
        assert await list_ids(subject) == ids
        assert await list_ids(subject, limit=1_002) == ids[:1_002]
        assert await list_ids(subject, start_after=ids[1]) == ids[2:]
        assert await list_ids(subject, start_after=ids[999], limit=3) == ids[1_000:1_003]
        assert await chained_pages(subject, 400) == ids
        await subject.storage.delete_session(session_id="s-1")
        assert await subject.raw.keys() == ["s-10/notes.txt"]

    async def test_nothing_but_snapshots_directly_in_history_is_listed(
        self, subject: Subject
    ) -> None:
        first, second, other = snapshot_ids(3)
        strangers = [
            "0-notes.txt",
            "snapshot_latest.json",
            "manifest.json",
            "snapshot_.json",
            f"snapshot_{other}",
            f"snapshot_{other}.json.bak",
            f"snapshot_{other}.json.json",
            f"snapshot_{other}x.json",
            f"snapshot_{other.replace('-', '')}.json",
            f"a-snapshot_{other}.json",
            f"nested/snapshot_{other}.json",
            "snapshot_01912a3b-abcd-4def-8abc-0123456789ab.json",
            "snapshot_01912a3b-abcd-7def-0abc-0123456789ab.json",
            "snapshot_01912A3B-ABCD-7DEF-8ABC-0123456789AB.json",
            "snapshot_00000000-0000-4000-8000-000000000000.json",
            "snapshot_ffffffff-ffff-4fff-bfff-ffffffffffff.json",
        ]
        await seed(subject.raw, {f"{HISTORY}{name}": b"{}" for name in strangers})
        assert await list_ids(subject) == []
        await seed_history(subject.raw, [first, second])
        assert await list_ids(subject) == [first, second]
        assert await list_ids(subject, limit=1) == [first]
        assert await list_ids(subject, limit=2) == [first, second]
        assert await list_ids(subject, start_after=first) == [second]
        assert await list_ids(subject, start_after=first, limit=1) == [second]

    async def test_siblings_are_never_listed(self, subject: Subject) -> None:
        ids = iter(snapshot_ids(20))
        own = next(ids)
        await seed_history(subject.raw, [own])
        folders = [
            *(f"{session}/scopes/agent/weather" for session in SIBLINGS),
            *(f"s-1/scopes/agent/{agent}" for agent in ("weather-2", "weather2", "w", "weathe_")),
            "s-1/scopes/multiAgent/weather",
        ]
        for folder in folders:
            key = f"{folder}/snapshots/immutable_history/snapshot_{next(ids)}.json"
            await subject.raw.put(key, to_json(ENVELOPES["typescript"]))
        assert await list_ids(subject) == [own]
        assert await list_ids(subject, limit=2) == [own]
        assert await list_ids(subject, start_after=own) == []

    # Deleting

    async def test_deleting_a_session_deletes_all_that_lies_under_it(
        self, subject: Subject
    ) -> None:
        await save(subject, make_snapshot())
        await save_in_history(subject, make_snapshot(), snapshot_ids(1)[0])
        await subject.storage.save_manifest(
            location=LOCATION, manifest=SnapshotManifest("1.0", CREATED_AT)
        )
        await save(
            subject,
            Snapshot.new({}, scope="multiAgent"),
            SnapshotLocation.multi_agent("s-1", "graph_1"),
        )
        strangers = [
            "s-1/notes.txt",
            "s-1/folder/notes.txt",
            "s-1/scopes/notes.txt",
            "s-1/scopes/agent/weather/notes.txt",
            "s-1/scopes/other/weather/snapshots/notes.txt",
            f"{SNAPSHOTS}notes.txt",
            f"{HISTORY}nested/notes.txt",
            f"{LATEST}.bak",
        ]
        await seed(subject.raw, dict.fromkeys(strangers, b"of nobody"))
        await subject.storage.delete_session(session_id="s-1")
        assert await subject.raw.keys() == []

    async def test_deleting_a_session_leaves_its_siblings_alone(self, subject: Subject) -> None:
        await save(subject, make_snapshot())
        keys = [
            f"{session}/{name}"
            for session in SIBLINGS
            for name in ("scopes/agent/weather/snapshots/snapshot_latest.json", "notes.txt")
        ]
        keys += ["s-1.txt", "s-1.bak/notes.txt", "other/s-1/scopes/agent/a/snapshots/manifest.json"]
        await seed(subject.raw, dict.fromkeys(keys, b"kept"))
        await subject.storage.delete_session(session_id="s-1")
        assert sorted(await subject.raw.keys()) == sorted(keys)

    async def test_deleting_a_session_that_does_not_exist_does_nothing(
        self, subject: Subject
    ) -> None:
        await subject.storage.delete_session(session_id="s-1")
        await save(subject, make_snapshot())
        await subject.storage.delete_session(session_id="s-2")
        await subject.storage.delete_session(session_id="s")
        assert await subject.raw.keys() == [LATEST]

    async def test_a_deleted_session_can_begin_anew(self, subject: Subject) -> None:
        [snapshot_id] = snapshot_ids(1)
        await save(subject, make_snapshot())
        await save_in_history(subject, make_snapshot(), snapshot_id)
        await subject.storage.delete_session(session_id="s-1")
        assert await load(subject) is None
        assert await load(subject, snapshot_id) is None
        assert await list_ids(subject) == []
        await save(subject, make_snapshot({"text": "anew"}))
        await save_in_history(subject, make_snapshot({"text": "anew"}), snapshot_id)
        assert await load(subject) == make_snapshot({"text": "anew"})
        assert await load(subject, snapshot_id) == make_snapshot({"text": "anew"})

    async def test_delete_keeps_a_store_nested_under_the_session(self, subject: Subject) -> None:
        # They belong to stores with the prefixes `s-1` and `s-1/eu`.
        nested_keys = [
            "s-1/customer/scopes/agent/a/snapshots/snapshot_latest.json",
            "s-1/customer/scopes/agent/a/snapshots/immutable_history/other.txt",
            "s-1/customer/scopes/multiAgent/graph/snapshots/manifest.json",
            "s-1/eu/customer/scopes/agent/a/snapshots/snapshot_latest.json",
            # What the Strands SDKs keep beside their sessions: stash, memory, offloaded results.
            "s-1/context/customer/scopes/agent/a/tooluse_1_0",
            "s-1/memory/facts/1.md",
            "s-1/offloader/1_1_result.json",
        ]
        await seed(subject.raw, dict.fromkeys(nested_keys, b"of another store"))
        await save(subject, make_snapshot())
        await subject.raw.put("s-1/customer/notes.txt", b"of nobody")
        await subject.storage.delete_session(session_id="s-1")
        assert sorted(await subject.raw.keys()) == sorted(nested_keys)

    @pytest.mark.parametrize("name", ["backups", "context", "uploads", "session"])
    async def test_what_is_no_session_is_not_deleted(self, subject: Subject, name: str) -> None:
        await save(subject, make_snapshot())
        keys = [
            "backups/2026-11-22.tar",
            "backups/scopes/notes.txt",
            "context/s-1/scopes/agent/weather/tooluse_1_0",
            "context/shared/tooluse_2_0",
            "uploads/s-1/picture.png",
            "session/s-1/scopes/agent/weather/snapshots/snapshot_latest.json",
        ]
        await seed(subject.raw, dict.fromkeys(keys, b"of no session"))
        await subject.storage.delete_session(session_id=name)
        assert sorted(await subject.raw.keys()) == sorted([*keys, LATEST])

    # Several at once

    async def test_five_writers_of_latest_leave_one_whole_snapshot(self, subject: Subject) -> None:
        written = [make_snapshot({"writer": n, "text": f"{n}" * 50_000}) for n in range(5)]
        saves = asyncio.gather(*(save(subject, snapshot) for snapshot in written))
        loads = asyncio.gather(*(load(subject) for _ in range(5)))
        await saves
        for loaded in await loads:
            assert loaded is None or loaded in written
        assert await load(subject) in written
        assert await subject.raw.keys() == [LATEST]

    async def test_five_writers_of_history_lose_nothing(self, subject: Subject) -> None:
        ids = snapshot_ids(5)
        await asyncio.gather(
            *(
                save_in_history(subject, make_snapshot({"n": n}), snapshot_id)
                for n, snapshot_id in enumerate(ids)
            )
        )
        assert await list_ids(subject) == ids
        for n, snapshot_id in enumerate(ids):
            assert await load(subject, snapshot_id) == make_snapshot({"n": n})

    # What is refused

    @pytest.mark.parametrize(
        "session_id",
        [
            "",
            "S-1",
            "s-1/",
            "s-1/scopes",
            "/s-1",
            "..",
            ".",
            "s.1",
            "s 1",
            " s-1",
            "s-1\n",
            "s-1\x00",
            "s-1*",
            "s%",
            "ß",
            "\uff53-1",
            "s" * 256,
            pytest.param(None, id="None"),
            pytest.param(1, id="a number"),
        ],
    )
    async def test_deleting_by_an_id_that_is_none_is_refused(
        self, subject: Subject, session_id: Any
    ) -> None:
        await save(subject, make_snapshot())
        with pytest.raises(InvalidIdentifierError):
            await subject.storage.delete_session(session_id=session_id)
        assert await subject.raw.keys() == [LATEST]

    @pytest.mark.parametrize(
        "snapshot_id",
        [
            "",
            "latest",
            "x",
            "../manifest",
            "snapshot_01912a3b-abcd-7def-8abc-0123456789ab",
            "01912a3b-abcd-7def-8abc-0123456789ab\n",
            "01912a3b-abcd-7def-8abc-0123456789ab ",
            "01912a3b-abcd-7def-8abc-0123456789a",
            "01912a3b-abcd-7def-8abc-0123456789abc",
            "01912a3babcd7def8abc0123456789ab",
            "{01912a3b-abcd-7def-8abc-0123456789ab}",
            "01912a3b-abcd-4def-8abc-0123456789ab",
            "01912a3b-abcd-7def-cabc-0123456789ab",
            "\u0660\u0661912a3b-abcd-7def-8abc-0123456789ab",
            pytest.param(7, id="a number"),
        ],
    )
    async def test_a_snapshot_id_that_is_no_uuid7_is_refused(
        self, subject: Subject, snapshot_id: Any
    ) -> None:
        with pytest.raises(InvalidIdentifierError):
            await save_in_history(subject, make_snapshot(), snapshot_id)
        with pytest.raises(InvalidIdentifierError):
            await load(subject, snapshot_id)
        with pytest.raises(InvalidIdentifierError):
            await list_ids(subject, start_after=snapshot_id)
        assert await subject.raw.keys() == []

    async def test_save_in_another_scope_than_the_location_is_an_error(
        self, subject: Subject
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        snapshot = make_snapshot()
        orchestrator = SnapshotLocation.multi_agent("s-1", "weather")
        with pytest.raises(ScopeMismatchError):
            await save(subject, snapshot, orchestrator)
        with pytest.raises(ScopeMismatchError):
            await save_in_history(subject, snapshot, snapshot_id, orchestrator)
        with pytest.raises(ScopeMismatchError):
            await save(subject, Snapshot.new({}, scope="multiAgent"))
        assert await subject.raw.keys() == []

    async def test_a_scope_that_is_none_is_refused(self, subject: Subject) -> None:
        unknown: Any = "swarm"
        with pytest.raises((SnapshotEncodeError, ScopeMismatchError)):
            await save(subject, msgspec.structs.replace(make_snapshot(), scope=unknown))
        assert await subject.raw.keys() == []

    @pytest.mark.parametrize("value", UNENCODABLE_VALUES.values(), ids=UNENCODABLE_VALUES.keys())
    async def test_what_json_cannot_carry_is_refused_by_its_path(
        self, subject: Subject, value: Any
    ) -> None:
        [snapshot_id] = snapshot_ids(1)
        data = {"messages": ["fine", {"content": value}]}
        with pytest.raises(SnapshotEncodeError) as in_data:
            await save(subject, make_snapshot(data))
        with pytest.raises(SnapshotEncodeError):
            await save_in_history(subject, make_snapshot(data), snapshot_id)
        with pytest.raises(SnapshotEncodeError) as in_app_data:
            await save(subject, make_snapshot(app_data=data))
        assert "data.messages[1].content" in str(in_data.value)
        assert "app_data.messages[1].content" in str(in_app_data.value)
        for raised in (in_data, in_app_data):
            for text in everything_said_by(raised.value):
                assert CANARY not in text
        assert await subject.raw.keys() == []

    @pytest.mark.parametrize("key", [1, None, True, 0.5, ("a", "b"), b"bytes", Text("a")], ids=repr)
    async def test_a_key_that_is_no_text_is_refused(self, subject: Subject, key: Any) -> None:
        with pytest.raises(SnapshotEncodeError, match=r"data\.messages\[0\]\[key 1\]"):
            await save(subject, make_snapshot({"messages": [{"fine": 1, key: 2}]}))
        assert await subject.raw.keys() == []

    async def test_a_key_that_may_be_private_is_not_told(self, subject: Subject) -> None:
        with pytest.raises(SnapshotEncodeError, match=r"data\[key 0\]\.x") as raised:
            await save(subject, make_snapshot({f"{CANARY}@example.com": {"x": float("nan")}}))
        assert CANARY not in str(raised.value)
        assert await subject.raw.keys() == []

    async def test_a_snapshot_201_deep_is_refused(self, subject: Subject) -> None:
        with pytest.raises(SnapshotEncodeError):
            await save(subject, make_snapshot(nested(200)))
        endless: dict[str, Any] = {}
        endless["itself"] = endless
        with pytest.raises(SnapshotEncodeError):
            await save(subject, make_snapshot(endless))
        assert await subject.raw.keys() == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"data": []},
            {"data": None},
            {"app_data": None},
            {"schema_version": 1},
            {"created_at": datetime(2026, 11, 22, tzinfo=UTC)},
            {"dialect": "rust"},
            {"extra": {"createdAt": "another time"}},
            {"extra": {"created_at": "another time"}},
            {"extra": {"future": float("nan")}},
        ],
        ids=repr,
    )
    async def test_an_envelope_that_could_not_be_read_again_is_refused(
        self, subject: Subject, wrong: dict[str, Any]
    ) -> None:
        with pytest.raises(SnapshotEncodeError):
            await save(subject, msgspec.structs.replace(make_snapshot(), **wrong))
        assert await subject.raw.keys() == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"schema_version": 1},
            {"updated_at": None},
            {"extra": {"updatedAt": "another time"}},
            {"extra": {"future": b"bytes"}},
        ],
        ids=repr,
    )
    async def test_a_manifest_that_could_not_be_read_again_is_refused(
        self, subject: Subject, wrong: dict[str, Any]
    ) -> None:
        manifest = msgspec.structs.replace(SnapshotManifest("1.0", CREATED_AT), **wrong)
        with pytest.raises(SnapshotEncodeError):
            await subject.storage.save_manifest(location=LOCATION, manifest=manifest)
        assert await subject.raw.keys() == []

    async def test_what_is_refused_leaves_what_is_stored(self, subject: Subject) -> None:
        await save(subject, make_snapshot())
        with pytest.raises(SnapshotEncodeError):
            await save(subject, make_snapshot({"x": float("nan")}))
        assert await json_at(subject.raw, LATEST) == ENVELOPES["typescript"]


async def save(subject: Subject, snapshot: Snapshot, location: SnapshotLocation = LOCATION) -> None:
    await subject.storage.save_snapshot(location=location, snapshot=snapshot, is_latest=True)


async def save_in_history(
    subject: Subject, snapshot: Snapshot, snapshot_id: str, location: SnapshotLocation = LOCATION
) -> None:
    await subject.storage.save_snapshot(
        location=location, snapshot=snapshot, is_latest=False, snapshot_id=snapshot_id
    )


async def load(
    subject: Subject, snapshot_id: str | None = None, location: SnapshotLocation = LOCATION
) -> Snapshot | None:
    if snapshot_id is None:
        return await subject.storage.load_snapshot(location=location)
    return await subject.storage.load_snapshot(location=location, snapshot_id=snapshot_id)


async def list_ids(
    subject: Subject,
    *,
    limit: int | None = None,
    start_after: str | None = None,
    location: SnapshotLocation = LOCATION,
) -> list[str]:
    return await subject.storage.list_snapshot_ids(
        location=location, limit=limit, start_after=start_after
    )


async def chained_pages(subject: Subject, limit: int) -> list[str]:
    """List page after page, each from where the last one ended."""
    ids = page = await list_ids(subject, limit=limit)
    while page:
        page = await list_ids(subject, limit=limit, start_after=page[-1])
        assert len(page) <= limit
        ids = ids + page
    return ids


async def seed_history(raw: RawObjects, ids: Iterable[str]) -> None:
    body = to_json(ENVELOPES["typescript"])
    await seed(raw, {history_key(snapshot_id): body for snapshot_id in ids})


def to_json(document: object) -> bytes:
    return json.dumps(document).encode()


async def json_at(raw: RawObjects, key: str) -> Any:
    body = await raw.get(key)
    assert body is not None, f"nothing is stored under {key}"
    return json.loads(body)
