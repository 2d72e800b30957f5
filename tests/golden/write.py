"""Write what this version of snapstore stores to `tests/golden/snapstore-<version>/`.

Run before a release that changes what is written: `python tests/golden/write.py`. What an earlier
version wrote is never written again.
"""

import asyncio
import json
from importlib.metadata import version
from pathlib import Path

from aiobotocore.session import get_session

from snapstore import (
    FileStorage,
    MemoryStorage,
    S3Storage,
    Snapshot,
    SnapshotLocation,
    SnapshotManifest,
)
from snapstore.operations import RetentionPolicy, archive
from snapstore.testing import BucketObjects
from snapstore.testing.server import create_bucket, running_server

ROOT = Path(__file__).parent / f"snapstore-{version('snapstore').rpartition('.')[0]}"
AGENT = SnapshotLocation.agent("session-1", "weather")
GRAPH = SnapshotLocation.multi_agent("session-1", "graph")
PYTHON = SnapshotLocation.agent("session-2", "weather")
IDS = ("01912a3b-0000-7000-8000-000000000001", "01912a3b-0001-7000-8000-000000000002")


def snapshot(turns, dialect="typescript", scope="agent"):
    """A snapshot with what is hard to keep: text of all kinds, numbers, fields nobody knows."""
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


async def write(storage):
    """Write one of each kind of object, and latest several times."""
    for turns, snapshot_id in enumerate(IDS, 1):
        await storage.checkpoint(location=AGENT, snapshot=snapshot(turns), snapshot_id=snapshot_id)
    await storage.update_latest(location=AGENT, update=lambda _: snapshot(3))
    await storage.update_latest(location=AGENT, update=lambda _: snapshot(4))
    manifest = SnapshotManifest("1.0", "2026-11-28T01:02:03.456Z", {"note": "ü"})
    await storage.save_manifest(location=AGENT, manifest=manifest)
    graph = snapshot(1, scope="multiAgent")
    await storage.save_snapshot(location=GRAPH, snapshot=graph, is_latest=True)
    python = snapshot(1, "python")
    await storage.checkpoint(location=PYTHON, snapshot=python, snapshot_id=IDS[0])


async def write_to_s3():
    """Write to a bucket, and return each object with its headers."""
    with running_server() as server:
        create_bucket(server, "golden")
        async with (
            S3Storage("golden", **server.storage_options) as storage,
            get_session().create_client("s3", **server.client_options) as client,
        ):
            await write(storage)
            raw, objects = BucketObjects(client, "golden"), {}
            for key in await raw.keys():
                head = await client.head_object(Bucket="golden", Key=key)
                body = await raw.get(key)
                objects[key] = {
                    "body": body.decode(),
                    "content_type": head["ContentType"],
                    "metadata": head["Metadata"],
                }
            return objects


async def write_pack():
    """Write documents of all kinds, the pack of them, and the claim of one who was overtaken."""
    documents = {
        IDS[0]: b'{"scope":"agent","data":{"text":"one line"}}',
        IDS[1]: b'{\n  "scope": "agent",\r\n  "data": {"text": "\xc3\xbc"}\n}\n',
        f"{IDS[1][:-1]}3": b"",
        f"{IDS[1][:-1]}4": b'{"scope":"agent","data":{"text":"%b"}}' % (b"again " * 500),
        f"{IDS[1][:-1]}5": b"\xff\x00 no text",
    }
    folder = ROOT / "packs"
    folder.mkdir()
    async with MemoryStorage() as storage:
        for snapshot_id, document in documents.items():
            (folder / f"{snapshot_id}.json").write_bytes(document)
            await storage.objects.put(storage.layout.history(AGENT, snapshot_id), document)
        kept = f"{IDS[1][:-1]}6"  # a policy keeps one at least
        await storage.objects.put(storage.layout.history(AGENT, kept), b"{}")
        await archive(storage, RetentionPolicy(keep_last=1)).run()
        for key, data in storage.objects.store.objects.items():
            if key.endswith(".jsonl.zst"):
                name = key.rpartition("/")[2]
                (folder / name).write_bytes(data)
                claim = name.replace(".jsonl.zst", ".claim")
                overtaken = "2026-11-28T01:02:03.456Z"
                body = {"state": "idle", "run": "0123456789abcdef", "overtaken": overtaken}
                (folder / claim).write_text(json.dumps(body))


async def main():
    """Write to files and to S3, and a pack."""
    ROOT.mkdir()
    async with FileStorage(ROOT / "files") as storage:
        await write(storage)
    objects = await write_to_s3()
    (ROOT / "s3.json").write_text(json.dumps(objects, indent=1) + "\n")
    await write_pack()


if __name__ == "__main__":
    asyncio.run(main())
