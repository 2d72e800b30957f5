"""Every storage and store of ours, held to the suites that are published for everybody's."""

import io

import pytest

from snapstore import FileStorage, MemoryStorage, ObjectSnapshotStorage, S3Storage
from snapstore.objects.file import FileObjectStore
from snapstore.objects.memory import MemoryObjectStore
from snapstore.objects.s3.store import S3ObjectStore
from snapstore.testing import (
    ObjectStoreTests,
    SnapshotStorageTests,
    StorageSubject,
    StoreSubject,
    VersionedSnapshotStorageTests,
)
from snapstore.testing.server import create_bucket


class DictObjects:
    def __init__(self, objects, prefix=""):
        self.objects = objects
        self.base = f"{prefix}/" if prefix else ""

    async def put(self, key, data):
        self.objects[self.base + key] = data

    async def get(self, key):
        return self.objects.get(self.base + key)

    async def keys(self):
        assert all(key.startswith(self.base) for key in self.objects)
        return [key.removeprefix(self.base) for key in self.objects]


class FolderObjects:
    def __init__(self, root):
        self.root = root

    async def put(self, key, data):
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def get(self, key):
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    async def keys(self):
        paths = [path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file()]
        # The store's locks lie in `.snapstore`: no key begins with a dot.
        return [path.as_posix() for path in paths if not path.parts[0].startswith(".")]


class BucketObjects:
    """Objects seen through a client of aiobotocore as it comes."""

    def __init__(self, client, bucket, prefix=""):
        self.client = client
        self.bucket = bucket
        self.base = f"{prefix}/" if prefix else ""

    async def put(self, key, data):
        # aiohttp warns of a body over 1 MiB that is no file.
        await self.client.put_object(Bucket=self.bucket, Key=self.base + key, Body=io.BytesIO(data))

    async def get(self, key):
        try:
            response = await self.client.get_object(Bucket=self.bucket, Key=self.base + key)
        except self.client.exceptions.NoSuchKey:
            return None
        async with response["Body"] as body:
            return await body.read()

    async def keys(self):
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.base
        )
        return [
            found["Key"].removeprefix(self.base)
            async for page in pages
            for found in page.get("Contents", ())
        ]

    async def clear(self):
        while keys := (await self.keys())[:1000]:
            wanted = {"Objects": [{"Key": self.base + key} for key in keys]}
            await self.client.delete_objects(Bucket=self.bucket, Delete=wanted)


@pytest.fixture(scope="session")
def bucket_of_one(s3_server):
    """A bucket for tests without a prefix: each has it for itself, and must clear it first."""
    create_bucket(s3_server, "tests-without-prefix")
    return "tests-without-prefix"


@pytest.fixture
def environment(s3_server, monkeypatch):
    """The variables by which a client finds the server, as in a container."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)


class TestMemoryStorage(VersionedSnapshotStorageTests):
    @pytest.fixture
    async def subject(self):
        async with MemoryStorage() as storage:
            yield StorageSubject(storage, DictObjects(storage._store.objects))


class TestMemoryStorageWithAPrefix(VersionedSnapshotStorageTests):
    @pytest.fixture
    async def subject(self):
        store = MemoryObjectStore()
        async with ObjectSnapshotStorage(store, prefix="eu/prod") as storage:
            yield StorageSubject(storage, DictObjects(store.objects, "eu/prod"))


class TestFileStorage(VersionedSnapshotStorageTests):
    @pytest.fixture
    async def subject(self, tmp_path):
        async with FileStorage(tmp_path) as storage:
            yield StorageSubject(storage, FolderObjects(tmp_path))


class TestFileStorageWithAPrefix(SnapshotStorageTests):
    @pytest.fixture
    async def subject(self, tmp_path):
        async with ObjectSnapshotStorage(FileObjectStore(tmp_path), prefix="eu/prod") as storage:
            yield StorageSubject(storage, FolderObjects(tmp_path / "eu" / "prod"))


class TestS3StorageWithItsOwnClientAndAPrefix(VersionedSnapshotStorageTests):
    @pytest.fixture
    async def subject(self, environment, bucket, prefix, s3_client):
        async with S3Storage(bucket, prefix=prefix) as storage:
            yield StorageSubject(storage, BucketObjects(s3_client, bucket, prefix))


class TestS3StorageWithABorrowedClientAndNoPrefix(SnapshotStorageTests):
    @pytest.fixture
    async def subject(self, s3_server, aws_session, bucket_of_one, s3_client):
        objects = BucketObjects(s3_client, bucket_of_one)
        await objects.clear()
        async with (
            aws_session.create_client("s3", **s3_server.client_options) as client,
            S3Storage(bucket_of_one, client=client) as storage,
        ):
            yield StorageSubject(storage, objects)
