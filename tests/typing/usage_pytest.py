"""How users test with the fixtures, as type checkers see it. Never run, as `usage.py` is not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import pytest
import pytest_asyncio

import snapstore
import snapstore.testing
from snapstore import (
    ObjectSnapshotStorage,
    S3Storage,
    Snapshot,
    SnapshotLocation,
    VersionedSnapshotStorage,
)
from snapstore.pytest_plugin import StorageFactory
from snapstore.testing.server import S3Server, create_bucket, running_server

LOCATION = SnapshotLocation.agent("session-1", "weather")


@pytest.mark.asyncio
async def test_a_session_is_resumed(snapstore_s3: StorageFactory) -> None:
    async with snapstore_s3() as storage:
        assert_type(storage, ObjectSnapshotStorage)
        await storage.checkpoint(location=LOCATION, snapshot=Snapshot.new({"turn": 1}))
        loaded = await storage.load_snapshot(location=LOCATION)
        assert_type(loaded, Snapshot | None)


@pytest.mark.anyio
async def test_two_workers(snapstore_s3: StorageFactory, snapstore_prefix: str) -> None:
    async with (
        snapstore_s3(prefix=snapstore_prefix) as one,
        snapstore_s3(prefix=snapstore_prefix) as two,
    ):
        storages: list[VersionedSnapshotStorage] = [one, two]
        assert len(storages) == 2


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def storage(snapstore_s3: StorageFactory) -> AsyncIterator[ObjectSnapshotStorage]:
    async with snapstore_s3() as opened:
        yield opened


@pytest.fixture(params=["s3", "file", "memory"])
def storages(request: pytest.FixtureRequest) -> StorageFactory:
    factory: StorageFactory = request.getfixturevalue(f"snapstore_{request.param}")
    return factory


@pytest.mark.asyncio
async def test_arguments_of_its_own(snapstore_server: S3Server, snapstore_bucket: str) -> None:
    assert_type(snapstore_server.storage_options, dict[str, Any])
    async with S3Storage(
        snapstore_bucket, timeout=1, **snapstore_server.storage_options
    ) as with_a_deadline:
        assert_type(with_a_deadline, S3Storage)


def test_a_whole_bucket(snapstore_server: S3Server) -> None:
    create_bucket(snapstore_server, "my-bucket")


def test_an_app(snapstore_environment: dict[str, str], snapstore_bucket: str) -> None:
    S3Storage(snapstore_bucket)
    subprocess.run(["my-app", snapstore_bucket], env=os.environ | snapstore_environment, check=True)


@pytest.fixture(scope="session")
def snapstore_server() -> Iterator[S3Server]:
    """In a `conftest.py`, for another engine."""
    with running_server("moto") as server:
        yield server


def factories(factory: StorageFactory) -> None:
    assert_type(factory(), ObjectSnapshotStorage)
    # The ignored errors are the point: a checker that finds none there says so.
    factory("by-position")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    factory(timeout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def names() -> None:
    assert_type(snapstore.S3Storage("bucket"), S3Storage)
    # Names are imported when they are asked for, but not any name there might be.
    _ = snapstore.NoSuchName  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    _ = snapstore.testing.NoSuchName  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
