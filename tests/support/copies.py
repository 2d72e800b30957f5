"""Storages to copy between, and sessions with everything that a session can have."""

from contextlib import asynccontextmanager

from snapstore import (
    FileStorage,
    MemoryStorage,
    S3Storage,
    Snapshot,
    SnapshotLocation,
    SnapshotManifest,
)
from snapstore.stores import capability
from snapstore.stores.capabilities import MetadataStore

KINDS = ("s3", "file", "memory")
ANY_SIZE = 2**40


@asynccontextmanager
async def opened(kind, request, tmp_path, prefix):
    """A storage of a kind: the prefix tells it from others of the same kind."""
    match kind:
        case "file":
            storage = FileStorage(tmp_path, prefix=prefix)
        case "memory":
            storage = MemoryStorage(prefix=prefix)
        case "s3":
            server = request.getfixturevalue("s3_server")
            place = f"{request.getfixturevalue('prefix')}/{prefix}"
            bucket = request.getfixturevalue("bucket")
            storage = S3Storage(bucket, prefix=place, **server.storage_options)
    async with storage:
        yield storage


async def write_session(storage, session_id="s-1", *, turns=3):
    """A session of two agents and an orchestrator, with manifest, stash and an unknown object."""
    for agent in ("weather", "travel"):
        location = SnapshotLocation.agent(session_id, agent)
        for turn in range(turns):
            snapshot = Snapshot.new({"turn": turn, "text": f"{agent} \N{SNOWMAN}"})
            await storage.checkpoint(location=location, snapshot=snapshot)
    await storage.save_snapshot(
        location=SnapshotLocation.multi_agent(session_id, "team"),
        snapshot=Snapshot.new({"nodes": []}, scope="multiAgent"),
        is_latest=True,
    )
    await storage.save_manifest(
        location=location, manifest=SnapshotManifest("1.0", "2026-11-22T11:13:20.395Z")
    )
    await storage.objects.put(f"{storage.layout.stash_prefix(session_id)}a/offloaded", b"content")
    await storage.objects.put(f"{storage.layout.session_prefix(session_id)}note.txt", b"foreign")


async def contents(storage, session_id="s-1"):
    """All objects of a session and its stash, by what follows the prefixes of both."""
    found = {}
    prefixes = {
        "session": storage.layout.session_prefix(session_id),
        "stash": storage.layout.stash_prefix(session_id),
    }
    keeps_metadata = capability(storage.objects, MetadataStore) is not None
    for name, prefix in prefixes.items():
        async for page in storage.objects.scan(prefix):
            for key in page:
                stored = await storage.objects.get(key, max_bytes=ANY_SIZE)
                origin = stored.metadata.get("snapstore-snapshot") if keeps_metadata else ...
                found[name, key.removeprefix(prefix)] = bytes(stored.data), origin
    return found


def bodies(found):
    """The same without metadata, which files don't keep."""
    return {name: body for name, (body, _) in found.items()}


async def collected(operation):
    """All events of an operation, by what follows the last `/` but two."""
    async with operation:
        return [event async for event in operation]


def results(events):
    return sorted(event.result for event in events)
