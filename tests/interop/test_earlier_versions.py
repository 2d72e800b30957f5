"""What earlier versions of snapstore wrote, on S3 and in files, serves as if written today.

`tests/golden/write.py` wrote it.
"""

import json
import shutil
from pathlib import Path

import pytest

from snapstore import (
    FileStorage,
    MemoryStorage,
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotExistsError,
    SnapshotLocation,
    SnapshotManifest,
)
from snapstore.operations import prune_archive, unarchive
from snapstore.testing import BucketObjects, DirectoryObjects

GOLDEN = Path(__file__).parents[1] / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.glob("snapstore-*"))
AGENT = SnapshotLocation.agent("session-1", "weather")
GRAPH = SnapshotLocation.multi_agent("session-1", "graph")
PYTHON = SnapshotLocation.agent("session-2", "weather")
LATEST = "session-1/scopes/agent/weather/snapshots/snapshot_latest.json"
IDS = ["01912a3b-0000-7000-8000-000000000001", "01912a3b-0001-7000-8000-000000000002"]


def written(turns, dialect="typescript", scope="agent"):
    return Snapshot(
        scope=scope,
        schema_version="1.0",
        created_at="2026-11-28T01:02:03.456Z",
        data={
            "turns": turns,
            "text": "Zürich 你好 🌧️ cut \ud83d",
            "numbers": [2**53 + 1, 0.1, -0.0],
        },
        app_data={"tenant": "acme"},
        dialect=dialect,
        extra={"addedLater": {"kept": [None, True]}},
    )


def add_a_turn(snapshot):
    return written(snapshot.data["turns"] + 1)


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


def s3_objects(version):
    return json.loads((GOLDEN / version / "s3.json").read_bytes())


def test_golden_objects_of_0_1_are_there():
    assert "snapstore-0.1" in VERSIONS
    objects = s3_objects("snapstore-0.1")
    files = GOLDEN / "snapstore-0.1" / "files"
    assert {files / key for key in objects} == {p for p in files.rglob("*") if p.is_file()}
    names = {name for stored in objects.values() for name in stored["metadata"]}
    assert names == {"snapstore-write", "snapstore-lineage", "snapstore-snapshot"}


async def test_an_earlier_pack_gives_its_documents_byte_for_byte(version):
    files = {file.name: file.read_bytes() for file in (GOLDEN / version / "packs").iterdir()}
    documents = {name[:-5]: data for name, data in files.items() if name.endswith(".json")}
    async with MemoryStorage() as storage:
        prefix = storage.layout.archive_prefix(AGENT)
        for name in files.keys() - {f"{snapshot_id}.json" for snapshot_id in documents}:
            await storage.objects.put(f"{prefix}{name}", files[name])
        archived = storage.iter_archived_ids(location=AGENT)
        assert [snapshot_id async for snapshot_id in archived] == sorted(documents)
        assert (await unarchive(storage).run()).restored == len(documents) == 5
        for snapshot_id, document in documents.items():
            key = storage.layout.history(AGENT, snapshot_id)
            assert bytes((await storage.objects.get(key, max_bytes=2**20)).data) == document
        # Its claim is of a run that was overtaken long ago.
        assert (await prune_archive(storage).run()).deleted == 1
        assert not any("/archive/" in key for key in storage.objects.store.objects)


class Earlier:
    """The tests, for a fixture `opened`: a storage that has what was written, and its objects."""

    async def test_earlier_objects_load(self, opened):
        storage, _ = opened
        assert await storage.load_snapshot(location=AGENT) == written(4)
        assert await storage.load_snapshot(location=GRAPH) == written(1, scope="multiAgent")
        assert await storage.load_snapshot(location=PYTHON) == written(1, "python")
        assert await storage.list_snapshot_ids(location=AGENT) == IDS
        for turns, snapshot_id in enumerate(IDS, 1):
            loaded = await storage.load_snapshot(location=AGENT, snapshot_id=snapshot_id)
            assert loaded == written(turns)
        assert await storage.load_manifest(location=AGENT) == SnapshotManifest(
            "1.0", "2026-11-28T01:02:03.456Z", {"note": "ü"}
        )

    async def test_earlier_latest_is_updated_and_swapped(self, opened):
        storage, raw = opened
        read = await storage.load_versioned(location=AGENT)
        await storage.update_latest(location=AGENT, update=add_a_turn)
        with pytest.raises(SnapshotConflictError):
            await storage.save_snapshot(
                location=AGENT, snapshot=written(9), is_latest=True, if_match=read
            )
        assert await storage.load_snapshot(location=AGENT) == written(5)
        assert json.loads(await raw.get(LATEST))["data"]["turns"] == 5
        python = await storage.load_versioned(location=PYTHON)
        await storage.checkpoint(location=PYTHON, snapshot=written(2, "python"), if_match=python)
        assert len(await storage.list_snapshot_ids(location=PYTHON)) == 2

    async def test_earlier_history_is_kept_and_its_save_repeatable(self, opened):
        storage, _ = opened
        options = {"location": AGENT, "is_latest": False, "snapshot_id": IDS[0]}
        await storage.save_snapshot(snapshot=written(1), **options)
        with pytest.raises(SnapshotExistsError):
            await storage.save_snapshot(snapshot=written(2), **options)
        assert await storage.load_snapshot(location=AGENT, snapshot_id=IDS[0]) == written(1)

    async def test_earlier_sessions_are_deleted_whole(self, opened):
        storage, raw = opened
        assert (await storage.delete_session(session_id="session-1")).objects == 5
        assert all(key.startswith("session-2/") for key in await raw.keys())
        assert (await storage.delete_session(session_id="session-2")).objects == 2
        assert await raw.keys() == []


class TestInFiles(Earlier):
    @pytest.fixture
    async def opened(self, version, tmp_path):
        root = shutil.copytree(GOLDEN / version / "files", tmp_path / "files")
        async with FileStorage(root) as storage:
            yield storage, DirectoryObjects(root)


class TestOnS3(Earlier):
    @pytest.fixture(params=[True, False], ids=["fast path", "slow path"])
    async def opened(self, version, s3_server, s3_client, bucket, prefix, request):
        for key, stored in s3_objects(version).items():
            await s3_client.put_object(
                Bucket=bucket,
                Key=f"{prefix}/{key}",
                Body=stored["body"].encode(),
                ContentType=stored["content_type"],
                Metadata=stored["metadata"],
            )
        options = s3_server.storage_options
        async with S3Storage(bucket, prefix=prefix, direct=request.param, **options) as storage:
            yield storage, BucketObjects(s3_client, bucket, prefix)


async def test_an_update_goes_on_the_lineage_of_an_earlier_version(
    version, s3_server, s3_client, bucket, prefix
):
    """So that a writer of that version whose response was lost finds its write, and the reverse."""
    before = s3_objects(version)[LATEST]
    where = {"Bucket": bucket, "Key": f"{prefix}/{LATEST}"}
    await s3_client.put_object(**where, Body=before["body"].encode(), Metadata=before["metadata"])
    async with S3Storage(bucket, prefix=prefix, **s3_server.storage_options) as storage:
        await storage.update_latest(location=AGENT, update=add_a_turn)
    after = (await s3_client.head_object(**where))["Metadata"]
    # Older entries than that of the write replaced are left out: their writers have ended.
    assert after["snapstore-lineage"].startswith(before["metadata"]["snapstore-write"])
