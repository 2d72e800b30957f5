"""What callers hold: validated, frozen, comparable, and silent about what is in a snapshot."""

import copy
import inspect
import pickle
import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

import snapstore
from snapstore import (
    CheckReport,
    DeletedSession,
    Finding,
    InvalidIdentifierError,
    LatestDescription,
    LocationDescription,
    ObjectTotals,
    OperationRecord,
    RawSnapshot,
    RequestRecord,
    SavedSnapshot,
    SessionDescription,
    SessionPage,
    SessionSummary,
    Snapshot,
    SnapshotLocation,
    SnapshotManifest,
    VersionedSnapshot,
)
from snapstore.stores import StoredObject, Version
from snapstore.stores.base import Body

CANARY = "canary-51f0"


def snapshot(**changes):
    return Snapshot(
        **{
            "scope": "agent",
            "schema_version": "1.0",
            "created_at": "2026-11-22T11:13:20.395Z",
            "data": {"messages": [{"role": "user"}]},
            "app_data": {"tenant": "acme"},
        }
        | changes
    )


REQUEST = RequestRecord(
    operation="GetObject", path="fast", attempt=1, started=0.1, seconds=0.2, status=200
)
WRITTEN = datetime(2026, 11, 28, tzinfo=UTC)
LATEST = LatestDescription("etag", 300, WRITTEN)
DESCRIBED = LocationDescription(
    location=SnapshotLocation.agent("session-1", "weather"),
    snapshots=0,
    bytes=300,
    first_id=None,
    last_id=None,
    first_at=None,
    last_at=None,
    latest=LATEST,
    has_manifest=False,
)
INSTANCES = [
    SnapshotLocation.agent("session-1", "weather"),
    snapshot(),
    RawSnapshot(b"{}", "agent", "1.0", "2026-11-22T11:13:20.395Z", "python"),
    SnapshotManifest("1.0", "2026-11-22T11:13:20.368Z", {"unknown": 1}),
    SavedSnapshot("01912a3b-0000-7000-8000-0000000000ab", "etag"),
    VersionedSnapshot(snapshot(), "etag"),
    DeletedSession(3, 1),
    SessionPage((SessionSummary("session-1", WRITTEN, 1, 2, 300),), "cursor"),
    SessionSummary("session-1", None, 1, 2, None),
    LATEST,
    DESCRIBED,
    ObjectTotals(1, 2),
    SessionDescription(
        "session-1", WRITTEN, (DESCRIBED,), ObjectTotals(), ObjectTotals(), ObjectTotals(1, 2)
    ),
    CheckReport((Finding("read", "ok", "objects can be read"),)),
    StoredObject(b"{}", Version("etag")),
    REQUEST,
    OperationRecord(
        operation="load_snapshot",
        place="my-bucket",
        outcome="ok",
        started_at=1.0,
        seconds=0.3,
        requests=(REQUEST,),
    ),
]
EACH = pytest.mark.parametrize("instance", INSTANCES, ids=lambda each: type(each).__name__)


def test_a_location_is_of_an_agent_or_of_several():
    agent = SnapshotLocation.agent("session-1", "weather")
    multi_agent = SnapshotLocation.multi_agent("session-1", "graph_1")

    assert agent == SnapshotLocation("session-1", "agent", "weather")
    assert multi_agent == SnapshotLocation(
        session_id="session-1", scope="multiAgent", scope_id="graph_1"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: SnapshotLocation("../etc", "agent", "weather"),
        lambda: SnapshotLocation("session-1", "agents", "weather"),
        lambda: SnapshotLocation("session-1", "agent", "We ather"),
        lambda: SnapshotLocation.agent("", "weather"),
        lambda: SnapshotLocation.multi_agent("session-1", None),
        lambda: msgspec.structs.replace(
            SnapshotLocation.agent("session-1", "weather"), session_id="a/b"
        ),
    ],
)
def test_a_location_that_is_not_valid_cannot_be_made(make):
    with pytest.raises(InvalidIdentifierError):
        make()


def test_a_location_that_was_pickled_by_hand_is_validated():
    good = pickle.dumps(SnapshotLocation.agent("session1", "weather"))

    with pytest.raises(InvalidIdentifierError):
        pickle.loads(good.replace(b"session1", b"session/"))


@EACH
def test_a_struct_cannot_be_changed(instance):
    for field in instance.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(instance, field, "changed")


@EACH
def test_a_struct_equals_its_copies(instance):
    assert copy.copy(instance) == instance
    assert copy.deepcopy(instance) == instance
    assert pickle.loads(pickle.dumps(instance)) == instance


@EACH
def test_a_struct_differs_where_a_field_does(instance):
    for field in instance.__struct_fields__:
        other = "multiAgent" if field == "scope" else "other"
        assert msgspec.structs.replace(instance, **{field: other}) != instance


def test_a_location_is_a_key_of_dictionaries():
    location = SnapshotLocation.agent("session-1", "weather")

    assert {location: 1}[SnapshotLocation("session-1", "agent", "weather")] == 1


def test_fields_come_in_the_documented_order():
    assert Snapshot.__struct_fields__[:5] == (
        "scope",
        "schema_version",
        "created_at",
        "data",
        "app_data",
    )
    assert SnapshotManifest.__struct_fields__[:2] == ("schema_version", "updated_at")
    assert SnapshotLocation.__struct_fields__ == ("session_id", "scope", "scope_id")
    assert SavedSnapshot.__struct_fields__ == ("snapshot_id", "etag", "lineage", "key")
    assert VersionedSnapshot.__struct_fields__ == (
        "snapshot",
        "etag",
        "lineage",
        "key",
        "snapshot_id",
    )
    assert DeletedSession.__struct_fields__ == ("objects", "kept")


def test_a_new_snapshot_is_of_now_in_utc_with_three_decimals():
    slack = timedelta(seconds=1)  # a clock may be set meanwhile
    before = datetime.now(UTC)
    made = Snapshot.new({})

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made.created_at)
    assert before - slack <= datetime.fromisoformat(made.created_at) <= datetime.now(UTC) + slack


def test_snapshot_new_follows_the_reference():
    made = Snapshot.new({"messages": []}, scope="multiAgent", app_data={"tenant": "acme"})

    assert made.schema_version == "1.0"
    assert made.dialect == "typescript"
    assert made.scope == "multiAgent"
    assert made.data == {"messages": []}
    assert made.app_data == {"tenant": "acme"}
    assert made.extra == {}


def test_new_snapshots_share_nothing():
    one, other = Snapshot.new({}), Snapshot.new({})
    one.app_data["tenant"] = "acme"
    one.extra["unknown"] = 1

    assert (other.app_data, other.extra) == ({}, {})


@pytest.mark.parametrize(
    "instance",
    [
        snapshot(data={"messages": [CANARY]}),
        snapshot(data={CANARY: 1}),
        snapshot(app_data={CANARY: CANARY}),
        snapshot(extra={CANARY: CANARY}),
        snapshot(data=CANARY),
        snapshot(app_data=[CANARY]),
        RawSnapshot(CANARY.encode(), "agent", "1.0", "now", "python"),
        SnapshotManifest("1.0", "now", {CANARY: CANARY}),
        StoredObject(CANARY.encode(), Version("etag")),
        Body(CANARY.encode()),
        Body(CANARY.encode())[:5],
    ],
)
def test_no_data_shows_in_a_repr(instance):
    for holder in (instance, VersionedSnapshot(instance, "etag"), [instance], (instance,)):
        for text in (repr(holder), str(holder), f"{holder}", f"{holder!r:>9}"):
            assert CANARY not in text


def test_the_repr_of_a_snapshot_shows_its_envelope_and_counts():
    assert repr(snapshot(dialect="python")) == (
        "Snapshot(scope='agent', schema_version='1.0', created_at='2026-11-22T11:13:20.395Z', "
        "dialect='python', data=<1 fields>, app_data=<1 fields>)"
    )


@EACH
def test_a_struct_documents_each_of_its_fields(instance):
    documentation = inspect.getdoc(type(instance))

    for field in instance.__struct_fields__:
        assert re.search(rf"^    {field}: \S", documentation, re.MULTILINE), field


def test_every_public_struct_is_tested_here():
    public = {
        value
        for package in (snapstore, snapstore.stores)
        for value in (getattr(package, name) for name in package.__all__)
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    }

    assert public == {type(instance) for instance in INSTANCES}
