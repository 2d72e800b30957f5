"""Objects that the two Strands SDKs wrote: each loads, and is saved as the document it was."""

import json
import shutil
from pathlib import Path

import pytest

from snapstore import FileStorage, SnapshotExistsError, SnapshotLocation

GOLDEN = Path(__file__).parents[1] / "golden"
STORES = {
    "typescript/legacy": "typescript",
    "typescript/unified/session": "typescript",
    "python/py/session": "python",
}
"""The roots of the stores that lie in the tree, and the SDK that wrote each."""

OBJECTS = [
    pytest.param(store, path.relative_to(GOLDEN / store), id=str(path.relative_to(GOLDEN)))
    for store in STORES
    for path in sorted((GOLDEN / store).rglob("*.json"))
]
SNAPSHOTS = [param for param in OBJECTS if param.values[1].name != "manifest.json"]
MANIFESTS = [param for param in OBJECTS if param.values[1].name == "manifest.json"]
HISTORIES = sorted(
    (store, path.relative_to(GOLDEN / store))
    for store in STORES
    for path in (GOLDEN / store).rglob("immutable_history")
)


@pytest.fixture
def copy(tmp_path):
    """A copy of the golden tree, since storages take turns by lock files in their root."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


def location_of(path):
    session_id, _, scope, scope_id, *_ = path.parts
    return SnapshotLocation(session_id, scope, scope_id)


def snapshot_id_of(path):
    if path.name == "snapshot_latest.json":
        return None
    return path.stem.removeprefix("snapshot_")


def exactly(data):
    """A document as text that differs where a value, a type or the order of keys does."""
    return ascii(json.loads(data, object_pairs_hook=list))


def test_every_golden_object_is_in_a_store_that_is_tested():
    tested = {GOLDEN / param.values[0] / param.values[1] for param in OBJECTS}

    written = {path for sdk in ("python", "typescript") for path in (GOLDEN / sdk).rglob("*")}
    assert tested == {path for path in written if path.is_file()}
    assert len(tested) == 11


@pytest.mark.parametrize(("store", "path"), SNAPSHOTS)
async def test_a_snapshot_loads_with_all_that_was_written(copy, store, path):
    written = json.loads((GOLDEN / store / path).read_bytes())

    async with FileStorage(copy / store) as storage:
        loaded = await storage.load_snapshot(
            location=location_of(path), snapshot_id=snapshot_id_of(path)
        )

    assert loaded.dialect == STORES[store]
    assert loaded.scope == written["scope"]
    python = loaded.dialect == "python"
    assert loaded.schema_version == written["schema_version" if python else "schemaVersion"]
    assert loaded.created_at == written["created_at" if python else "createdAt"]
    assert loaded.data == written["data"]
    assert loaded.app_data == written["app_data" if python else "appData"]
    assert loaded.extra == {}


@pytest.mark.parametrize(("store", "path"), SNAPSHOTS)
async def test_a_snapshot_is_saved_as_the_document_it_was(copy, tmp_path, store, path):
    location, snapshot_id = location_of(path), snapshot_id_of(path)

    async with FileStorage(copy / store) as old, FileStorage(tmp_path / "new") as new:
        await new.save_snapshot(
            location=location,
            snapshot=await old.load_snapshot(location=location, snapshot_id=snapshot_id),
            is_latest=snapshot_id is None,
            snapshot_id=snapshot_id,
        )

    saved = (tmp_path / "new" / path).read_bytes()
    assert exactly(saved) == exactly((GOLDEN / store / path).read_bytes())


@pytest.mark.parametrize(("store", "path"), MANIFESTS)
async def test_a_manifest_is_saved_as_the_document_it_was(copy, tmp_path, store, path):
    location = location_of(path)

    async with FileStorage(copy / store) as old, FileStorage(tmp_path / "new") as new:
        manifest = await old.load_manifest(location=location)
        await new.save_manifest(location=location, manifest=manifest)

    saved = (tmp_path / "new" / path).read_bytes()
    assert exactly(saved) == exactly((GOLDEN / store / path).read_bytes())


async def test_lone_surrogate_is_saved_as_javascript_writes_it(copy):
    location = SnapshotLocation.agent("session-1", "odd")

    async with FileStorage(copy / "typescript/legacy") as storage:
        loaded = await storage.load_snapshot(location=location)
        await storage.save_snapshot(location=location, snapshot=loaded, is_latest=True)

    assert loaded.data["messages"][0]["content"][0]["text"] == "cut emoji \ud83d end"
    saved = copy / "typescript/legacy/session-1/scopes/agent/odd/snapshots/snapshot_latest.json"
    assert rb'"cut emoji \ud83d end"' in saved.read_bytes()


async def test_compact_typescript_snapshot_is_saved_byte_for_byte(copy, tmp_path):
    location = SnapshotLocation.agent("session-1", "weather")
    path = "session-1/scopes/agent/weather/snapshots/snapshot_latest.json"
    root = copy / "typescript/unified/session"

    async with FileStorage(root) as old, FileStorage(tmp_path / "new") as new:
        loaded = await old.load_snapshot(location=location)
        await new.save_snapshot(location=location, snapshot=loaded, is_latest=True)

    # Behind it are the spaces and tabs that no other write of latest has.
    written = (tmp_path / "new" / path).read_bytes()
    assert written.rstrip(b" \t") == (root / path).read_bytes()


@pytest.mark.parametrize(("store", "path"), HISTORIES)
async def test_ids_are_listed_as_they_lie_there(copy, store, path):
    names = sorted(found.name for found in (GOLDEN / store / path).iterdir())

    async with FileStorage(copy / store) as storage:
        ids = await storage.list_snapshot_ids(location=location_of(path))

    assert [f"snapshot_{snapshot_id}.json" for snapshot_id in ids] == names


async def test_history_that_an_sdk_wrote_is_not_overwritten(copy):
    location = SnapshotLocation.agent("session-1", "weather")

    async with FileStorage(copy / "typescript/legacy") as storage:
        first, second = await storage.list_snapshot_ids(location=location)
        other = await storage.load_snapshot(location=location, snapshot_id=second)
        with pytest.raises(SnapshotExistsError):
            await storage.save_snapshot(
                location=location, snapshot=other, is_latest=False, snapshot_id=first
            )

    path = f"session-1/scopes/agent/weather/snapshots/immutable_history/snapshot_{first}.json"
    store = "typescript/legacy"
    assert (copy / store / path).read_bytes() == (GOLDEN / store / path).read_bytes()
