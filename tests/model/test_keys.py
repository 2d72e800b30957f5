"""Where objects lie, byte for byte, and which keys belong to whom."""

import warnings

import pytest

from snapstore import (
    InvalidIdentifierError,
    ObjectSnapshotStorage,
    S3Storage,
    Snapshot,
    SnapshotLocation,
    SnapshotManifest,
)
from snapstore.model.keys import Layout
from snapstore.stores.memory import MemoryObjectStore

SNAPSHOT_ID = "01912a3b-0000-7000-8000-0000000000ab"
LONGEST_KEY_WITHOUT_PREFIX = (
    f"{'s' * 255}/scopes/multiAgent/{'g' * 255}/snapshots/immutable_history/"
    f"snapshot_{SNAPSHOT_ID}.json"
)
ROOM = 1_024 - len(f"/{LONGEST_KEY_WITHOUT_PREFIX}")
"""How many bytes are left for a prefix."""


async def keys_written(location, prefix):
    store = MemoryObjectStore()
    async with ObjectSnapshotStorage(store, prefix=prefix) as storage:
        snapshot = Snapshot.new({}, scope=location.scope)
        await storage.checkpoint(location=location, snapshot=snapshot, snapshot_id=SNAPSHOT_ID)
        await storage.save_manifest(location=location, manifest=SnapshotManifest("1.0", "now"))
    return sorted(store.objects)


@pytest.mark.parametrize(
    ("location", "prefix", "folder"),
    [
        (
            SnapshotLocation.agent("session-1", "weather"),
            "",
            "session-1/scopes/agent/weather/snapshots/",
        ),
        (
            SnapshotLocation.multi_agent("session-1", "graph_1"),
            "",
            "session-1/scopes/multiAgent/graph_1/snapshots/",
        ),
        (
            SnapshotLocation.agent("session-1", "weather"),
            "prod",
            "prod/session-1/scopes/agent/weather/snapshots/",
        ),
        (
            SnapshotLocation.multi_agent("s", "g"),
            "agents/session",
            "agents/session/s/scopes/multiAgent/g/snapshots/",
        ),
        (
            SnapshotLocation.agent("s", "a"),
            "My App/ü//../.%2F",
            "My App/ü//../.%2F/s/scopes/agent/a/snapshots/",
        ),
    ],
)
async def test_objects_lie_where_the_sdks_look_for_them(location, prefix, folder):
    assert await keys_written(location, prefix) == [
        f"{folder}immutable_history/snapshot_{SNAPSHOT_ID}.json",
        f"{folder}manifest.json",
        f"{folder}snapshot_latest.json",
    ]


@pytest.mark.parametrize("prefix", ["/prod", "prod/", "/", "a/b/"])
async def test_prefix_with_an_outer_slash_is_kept_and_warned_of(prefix):
    with pytest.warns(UserWarning, match="begins or ends with '/'"):
        keys = await keys_written(SnapshotLocation.agent("s", "a"), prefix)

    assert keys[-1] == f"{prefix}/s/scopes/agent/a/snapshots/snapshot_latest.json"


def test_the_warning_of_an_s3_storage_points_at_its_caller():
    def make():
        return S3Storage("bucket", prefix="prod/")

    with pytest.warns(UserWarning, match="'/'") as caught:
        make()

    line = make.__code__.co_firstlineno + 1
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, line)]


def test_prefix_warning_points_at_the_caller():
    def make():
        return ObjectSnapshotStorage(MemoryObjectStore(), prefix="prod/")

    with pytest.warns(UserWarning, match="'/'") as caught:
        make()

    line = make.__code__.co_firstlineno + 1
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, line)]


@pytest.mark.parametrize("prefix", ["", "prod", "a/b", "a//b", ".", "ü"])
def test_any_other_prefix_is_taken_without_a_warning(prefix):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        S3Storage("bucket", prefix=prefix)


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param("p" * ROOM, id="ASCII"),
        pytest.param("ü" * (ROOM // 2) + "p" * (ROOM % 2), id="two bytes a character"),
        pytest.param("\U0001f600" * (ROOM // 4) + "p" * (ROOM % 4), id="four bytes a character"),
    ],
)
async def test_the_longest_prefix_gives_a_key_of_1024_bytes(prefix):
    keys = await keys_written(SnapshotLocation.multi_agent("s" * 255, "g" * 255), prefix)

    assert max(len(key.encode()) for key in keys) == 1_024
    with pytest.raises(InvalidIdentifierError, match="1024"):
        S3Storage("bucket", prefix=f"{prefix}p")


@pytest.mark.parametrize("code", [*range(32), 127])
@pytest.mark.parametrize("place", ["{}prod", "pr{}od", "prod{}"])
def test_a_prefix_with_a_control_character_is_refused(code, place):
    with pytest.raises(InvalidIdentifierError, match="control character") as caught:
        S3Storage("bucket", prefix=place.format(chr(code)))

    assert str(caught.value).isprintable()


def test_a_prefix_that_utf_8_cannot_write_is_refused():
    with pytest.raises(InvalidIdentifierError, match="UTF-8") as caught:
        S3Storage("bucket", prefix="pr\ud83dod")

    assert caught.value.__cause__ is None
    assert str(caught.value).isascii()


@pytest.mark.parametrize("prefix", [None, 1, b"prod", ["prod"]])
def test_a_prefix_that_is_not_text_is_refused(prefix):
    with pytest.raises(InvalidIdentifierError, match="str"):
        S3Storage("bucket", prefix=prefix)


@pytest.mark.parametrize("prefix", ["", "prod"])
async def test_sessions_with_a_common_prefix_are_apart(prefix):
    names = ["s", "s-", "s-1", "s-10", "s-1-", "s_1", "s1"]
    async with ObjectSnapshotStorage(MemoryObjectStore(), prefix=prefix) as storage:
        for name in names:
            location = SnapshotLocation.agent(name, "weather")
            await storage.checkpoint(location=location, snapshot=Snapshot.new({"name": name}))

        deleted = await storage.delete_session(session_id="s-1")

        assert (deleted.objects, deleted.kept) == (2, 0)
        for name in names:
            location = SnapshotLocation.agent(name, "weather")
            loaded = await storage.load_snapshot(location=location)
            ids = await storage.list_snapshot_ids(location=location)
            assert (loaded is None) == (name == "s-1")
            assert len(ids) == (0 if name == "s-1" else 1)


@pytest.mark.parametrize("prefix", ["", "prod"])
async def test_scopes_whose_names_begin_alike_are_listed_apart(prefix):
    locations = [
        SnapshotLocation.agent("s", "a"),
        SnapshotLocation.agent("s", "a-1"),
        SnapshotLocation.agent("s", "a1"),
        SnapshotLocation.multi_agent("s", "a"),
    ]
    async with ObjectSnapshotStorage(MemoryObjectStore(), prefix=prefix) as storage:
        saved = {
            location: await storage.checkpoint(
                location=location, snapshot=Snapshot.new({}, scope=location.scope)
            )
            for location in locations
        }

        for location in locations:
            ids = await storage.list_snapshot_ids(location=location)
            assert ids == [saved[location].snapshot_id]


@pytest.mark.parametrize(
    "name",
    [
        "snapshot_latest.json",
        "snapshot_.json",
        f"snapshot_{SNAPSHOT_ID.upper()}.json",
        f"snapshot_{SNAPSHOT_ID}",
        f"snapshot_{SNAPSHOT_ID}.json.tmp",
        f"snapshot_{SNAPSHOT_ID}.json\n",
        f"xsnapshot_{SNAPSHOT_ID}.json",
        f"{SNAPSHOT_ID}.json",
        f"snapshot_{SNAPSHOT_ID}.json/x",
        f"deeper/snapshot_{SNAPSHOT_ID}.json",
        "snapshot_c2d3e4f5-1a2b-4c3d-8e4f-5a6b7c8d9e0f.json",
        "manifest.json",
        "",
    ],
)
async def test_what_else_lies_in_history_is_no_snapshot(name):
    store = MemoryObjectStore()
    location = SnapshotLocation.agent("s", "a")
    history = "prod/s/scopes/agent/a/snapshots/immutable_history/"
    store.objects[history + name] = b"{}"
    store.objects[f"{history}snapshot_{SNAPSHOT_ID}.json"] = b"{}"

    async with ObjectSnapshotStorage(store, prefix="prod") as storage:
        assert await storage.list_snapshot_ids(location=location) == [SNAPSHOT_ID]


@pytest.mark.parametrize(
    ("rest", "nested"),
    [
        ("scopes/agent/a/snapshots/snapshot_latest.json", False),
        ("scopes/multiAgent/g/snapshots/manifest.json", False),
        ("scopes/agent/a/snapshots/immutable_history/snapshot_x.json", False),
        ("scopes/agent/a/snapshots/s/scopes/agent/a/snapshots/manifest.json", False),
        ("notes.txt", False),
        ("", False),
        ("scopes/agent/a", False),
        ("attachments/scopes/readme.txt", False),
        ("deep/er/file.json", False),
        ("s/scopes/agent/a/snapshots/snapshot_latest.json", True),
        ("s/scopes/multiAgent/g/snapshots/manifest.json", True),
        ("session/s/scopes/agent/a/snapshots/immutable_history/snapshot_x.json", True),
        ("s/scopes/agent/User 1/snapshots/snapshot_latest.json", True),
        ("scopes/scopes/agent/a/snapshots/manifest.json", True),
        ("agent/scopes/agent/a/snapshots/manifest.json", True),
        ("s/scopes/agent/a/b/snapshots/manifest.json", True),
        ("s/scopes/swarm/a/snapshots/manifest.json", False),
        ("s/Scopes/agent/a/snapshots/manifest.json", False),
        ("s-scopes/agent/a/snapshots/manifest.json", False),
        ("s/scopes/agent/a/snapshotsx", True),
        ("s/scopes/agent/a", False),
        ("context/s/scopes/agent/a/tooluse_1_0", True),
        ("context/shared", True),
        ("eu/context/shared", True),
        ("memory/facts/1.md", True),
        ("offloader/1_1_result", True),
        ("context", False),
        ("my-context/notes.txt", False),
        ("scopes/agent/a/context/notes.txt", False),
        ("scopes/agent/a/snapshots/memory/notes.txt", False),
    ],
)
def test_key_nested_deeper_belongs_to_another_store(rest, nested):
    assert Layout.is_nested_store(f"tenant1/{rest}", "tenant1/") is nested
    assert Layout.is_nested_store(f"prod/tenant1/{rest}", "prod/tenant1/") is nested


async def test_deleting_a_session_keeps_a_store_nested_under_its_name(caplog):
    store = MemoryObjectStore()
    own, other = SnapshotLocation.agent("tenant1", "a"), SnapshotLocation.agent("s", "a")
    async with (
        ObjectSnapshotStorage(store) as outer,
        ObjectSnapshotStorage(store, prefix="tenant1") as inner,
    ):
        await outer.checkpoint(location=own, snapshot=Snapshot.new({}))
        await inner.checkpoint(location=other, snapshot=Snapshot.new({"inner": True}))
        store.objects["tenant1/notes.txt"] = b"of the session"

        deleted = await outer.delete_session(session_id="tenant1")

        assert (deleted.objects, deleted.kept) == (3, 2)
        assert await outer.load_snapshot(location=own) is None
        loaded = await inner.load_snapshot(location=other)
        assert loaded.data == {"inner": True}
    assert len(caplog.records) == 1
    assert caplog.records[0].name == "snapstore"
    assert all(key.startswith("tenant1/s/scopes/agent/a/snapshots/") for key in store.objects)


@pytest.mark.parametrize("prefix", ["", "canary", "canary/canary"])
@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        ("canary/", "<session_id>/"),
        ("canary/scopes/", "<session_id>/…"),
        ("canary/canary", "<session_id>/…"),
        (
            "canary/scopes/agent/canary/snapshots/",
            "<session_id>/scopes/agent/<scope_id>/snapshots/",
        ),
        (
            "canary/scopes/multiAgent/canary/snapshots/manifest.json",
            "<session_id>/scopes/multiAgent/<scope_id>/snapshots/manifest.json",
        ),
        (
            "canary/scopes/agent/canary/snapshots/snapshot_latest.json",
            "<session_id>/scopes/agent/<scope_id>/snapshots/snapshot_latest.json",
        ),
        (
            "canary/scopes/agent/canary/snapshots/immutable_history/",
            "<session_id>/scopes/agent/<scope_id>/snapshots/immutable_history/",
        ),
        (
            f"canary/scopes/agent/canary/snapshots/immutable_history/snapshot_{SNAPSHOT_ID}.json",
            (
                "<session_id>/scopes/agent/<scope_id>/snapshots/immutable_history/"
                "snapshot_<snapshot_id>.json"
            ),
        ),
        (
            "canary/scopes/agent/canary/snapshots/immutable_history/canary.json",
            "<session_id>/scopes/agent/<scope_id>/snapshots/…",
        ),
        (
            "canary/scopes/agent/canary/snapshots/canary",
            "<session_id>/scopes/agent/<scope_id>/snapshots/…",
        ),
    ],
)
def test_the_pattern_of_a_key_has_no_ids(prefix, key, pattern):
    assert Layout(prefix).pattern(f"{prefix}/{key}" if prefix else key) == pattern
