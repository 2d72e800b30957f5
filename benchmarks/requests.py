"""How many requests each operation sends, counted on the other side of the wire.

Run it with `nox -s bench`. A real S3 server answers; a proxy in front of it counts. A count that
is not the one promised ends the program with status 1.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from contextlib import aclosing

from aiobotocore.session import get_session

from snapstore import S3Storage, Snapshot, SnapshotLocation
from snapstore.testing.proxy import recording_proxy
from snapstore.testing.server import S3Server, create_bucket, running_server

BUCKET = "requests"
HISTORY = 2_499  # with latest, 2,500 objects


async def main(server: S3Server) -> int:
    session = get_session()
    session.set_credentials(server.access_key, server.secret_key)
    failures = 0
    async with recording_proxy(server.endpoint_url) as proxy:
        storage = S3Storage(
            BUCKET, session=session, region=server.region, endpoint_url=proxy.endpoint_url
        )
        async with storage:
            location = SnapshotLocation.agent("session-1", "weather")
            snapshot = Snapshot.new({"messages": []})

            async def check(what: str, expected: list[str], operation: Awaitable[object]) -> None:
                nonlocal failures
                proxy.requests.clear()
                await operation
                good = sorted(proxy.operations) == sorted(expected)
                failures += not good
                verdict = "" if good else f"  EXPECTED {_counted(expected)}"
                print(f"{what:42} {_counted(proxy.operations)}{verdict}")

            await check(
                "save latest",
                ["PutObject"],
                storage.save_snapshot(location=location, snapshot=snapshot, is_latest=True),
            )
            await check(
                "save history",
                ["PutObject"],
                storage.save_snapshot(location=location, snapshot=snapshot, is_latest=False),
            )
            await check(
                "checkpoint",
                ["PutObject"] * 2,
                storage.checkpoint(location=location, snapshot=snapshot),
            )
            await check("load latest", ["GetObject"], storage.load_snapshot(location=location))
            await check(
                "load what does not exist",
                ["GetObject"],
                storage.load_snapshot(location=SnapshotLocation.agent("session-2", "weather")),
            )
            await check(
                "update latest, no other writer",
                ["GetObject", "PutObject"],
                storage.update_latest(location=location, update=lambda _: snapshot),
            )
            await _fill(storage, location, snapshot)
            await check(
                "list 10 of 2,499",
                ["ListObjectsV2"],
                storage.list_snapshot_ids(location=location, limit=10),
            )
            await check(
                "list all of 2,499",
                ["ListObjectsV2"] * 3,
                storage.list_snapshot_ids(location=location),
            )
            await check(
                "walk 2,499, left after the first",
                ["ListObjectsV2"],
                _first(storage, location),
            )
            await check(
                "delete a session of 2,500 objects",
                ["ListObjectsV2"] * 4 + ["DeleteObjects"] * 3,  # one more, for packs
                storage.delete_session(session_id="session-1"),
            )
            await check(
                "delete a session that does not exist",
                ["ListObjectsV2"],
                storage.delete_session(session_id="session-1"),
            )
    return 1 if failures else 0


async def _fill(storage: S3Storage, location: SnapshotLocation, snapshot: Snapshot) -> None:
    missing = HISTORY - len(await storage.list_snapshot_ids(location=location))
    slots = asyncio.Semaphore(32)

    async def save() -> None:
        async with slots:
            await storage.save_snapshot(location=location, snapshot=snapshot, is_latest=False)

    await asyncio.gather(*(save() for _ in range(missing)))


async def _first(storage: S3Storage, location: SnapshotLocation) -> None:
    async with aclosing(storage.iter_snapshot_ids(location=location)) as ids:
        async for _ in ids:
            break


def _counted(operations: list[str]) -> str:
    names = dict.fromkeys(operations)
    return ", ".join(f"{operations.count(name)} {name}" for name in names) or "none"


if __name__ == "__main__":
    with running_server() as server:
        create_bucket(server, BUCKET)
        sys.exit(asyncio.run(main(server)))
