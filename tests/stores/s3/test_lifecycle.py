"""`S3Storage` and the loops it lives on: a closed loop is a closed storage."""

import asyncio
import gc
import io
import warnings

import pytest
from aiobotocore.session import get_session

from snapstore import S3Storage, Snapshot, SnapshotLocation, StorageClosedError
from snapstore.stores.s3.calls import Call

LOCATION = SnapshotLocation.agent("s-1", "weather")
SNAPSHOT = Snapshot.new({"messages": []})


async def save(storage):
    return await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)


@pytest.mark.parametrize("direct", [True, False])
def test_connections_close_with_the_loop_of_an_open_storage(
    s3_server, bucket, prefix, direct
) -> None:
    storage = S3Storage(bucket, prefix=prefix, direct=direct, **s3_server.storage_options)

    async def use_and_leave():
        await storage.open()
        await asyncio.gather(*(save(storage) for _ in range(5)))

    async def use_again():
        with pytest.raises(StorageClosedError):
            await storage.load_snapshot(location=LOCATION)
        await storage.aclose()
        async with storage:
            assert await storage.load_snapshot(location=LOCATION) == SNAPSHOT

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            asyncio.run(use_and_leave())
            gc.collect()
        asyncio.run(use_again())
        gc.collect()
    assert caught == []


def test_storage_of_a_closed_loop_opens_on_another_one(s3_server, bucket, prefix) -> None:
    storage = S3Storage(bucket, prefix=prefix, **s3_server.storage_options)

    async def use():
        async with storage:
            await save(storage)
            assert await storage.load_snapshot(location=LOCATION) == SNAPSHOT

    loop = asyncio.new_event_loop()
    loop.run_until_complete(storage.open())
    loop.run_until_complete(save(storage))
    loop.close()
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        asyncio.run(use())
        gc.collect()  # the sockets of the loop are its own: asyncio warns of them


def test_a_borrowed_client_of_a_loop_that_has_ended_is_let_go_of(s3_server, bucket, prefix) -> None:
    async def use():
        async with get_session().create_client("s3", **s3_server.client_options) as client:
            storage = S3Storage(bucket, prefix=prefix, client=client)
            await storage.open()
            await save(storage)
        return storage

    storage = asyncio.run(use())
    asyncio.run(storage.aclose())
    with pytest.raises(StorageClosedError):
        asyncio.run(storage.load_snapshot(location=LOCATION))


@pytest.mark.parametrize("direct", [True, False])
def test_storage_collected_open_after_requests_warns(s3_server, bucket, prefix, direct) -> None:
    async def use_and_drop():
        storage = S3Storage(bucket, prefix=prefix, direct=direct, **s3_server.storage_options)
        await storage.open()
        await save(storage)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del storage
            gc.collect()
            for _ in range(5):  # what it held is released by a task of the loop
                await asyncio.sleep(0)
        return [str(warning.message) for warning in caught]

    assert any("S3Storage was never closed" in text for text in asyncio.run(use_and_drop()))


@pytest.mark.parametrize("direct", [True, False])
async def test_idle_connections_keep_no_body(s3_server, bucket, prefix, direct) -> None:
    text = "CANARY-TEXT" * 10_000
    snapshot = Snapshot.new({"text": text})
    async with S3Storage(
        bucket, prefix=prefix, direct=direct, **s3_server.storage_options
    ) as storage:
        await asyncio.gather(
            *(
                storage.save_snapshot(location=LOCATION, snapshot=snapshot, is_latest=False)
                for _ in range(3)
            )
        )
        gc.collect()
        held = [
            found
            for found in gc.get_objects()
            if isinstance(found, io.BytesIO) and not found.closed
            if b"CANARY-TEXT" in found.getvalue()
        ]
        requests = [found for found in gc.get_objects() if type(found) is Call and found.requests]
    assert held == requests == []
