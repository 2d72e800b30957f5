"""How long lists of many sessions take, with a stub of S3 that takes its time for each request.

Run it with `nox -s bench`. It fails if a list takes more requests than promised, never for a time.
"""

from __future__ import annotations

import asyncio
import sys
import time
import tracemalloc
from collections.abc import Awaitable
from contextlib import aclosing

from aiobotocore.session import get_session

from benchmarks.stub import BUCKET, REGION, StubClient, UnequalWorkError, require, running_stub
from snapstore import S3Storage

SESSIONS = 10_000
PAGES = SESSIONS // 1_000
SERVICE_TIME = 0.020
PREFIX = "chats"


async def main(stub: StubClient) -> None:
    """Measure each way to list the sessions."""
    stub.fill_sessions(f"{PREFIX}/", SESSIONS)
    stub.set_knobs(service_time=SERVICE_TIME)
    session = get_session()
    session.set_credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    storage = S3Storage(
        BUCKET,
        prefix=PREFIX,
        session=session,
        region=REGION,
        endpoint_url=stub.endpoints["http"],
    )
    print(f"{SESSIONS:,} sessions, {SERVICE_TIME * 1000:.0f} ms a request")

    async def measure(what: str, requests: int, listing: Awaitable[int]) -> None:
        stub.reset()
        start, cpu = time.perf_counter(), time.process_time()
        count = await listing
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        sent = stub.counts().requests["ListObjectsV2"]
        require(sent == requests, f"{what}: {sent} requests instead of {requests}")
        print(f"{what:40} {count:6} {sent:6} requests {seconds:6.2f} s, of CPU {cpu:6.2f} s")

    async with storage:
        await measure("iter_sessions", PAGES, _walked(storage))
        await measure("list_sessions, updated, the first 50", PAGES + SESSIONS, _updated(storage))
        await measure("list_sessions, id, the first 50", 51, _by_id(storage))
        tracemalloc.start()
        await _updated(storage)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(f"list_sessions, updated: at most {peak / 2**20:.1f} MiB")


async def _walked(storage: S3Storage) -> int:
    async with aclosing(storage.iter_sessions()) as ids:
        return sum([1 async for _ in ids])


async def _updated(storage: S3Storage) -> int:
    return len((await storage.list_sessions(limit=50, order="updated")).sessions)


async def _by_id(storage: S3Storage) -> int:
    return len((await storage.list_sessions(limit=50)).sessions)


if __name__ == "__main__":
    with running_stub() as running:
        try:
            asyncio.run(main(running))
        except UnequalWorkError as error:
            sys.exit(str(error))
