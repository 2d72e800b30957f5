"""Every storage and store of ours, held to the suites that are published for everybody's."""

import errno
import fcntl
import os
import stat
from functools import partial

import pytest
import pytest_asyncio

from snapstore import FileStorage, MemoryStorage, S3Storage
from snapstore.stores import ManagedStore
from snapstore.stores.file.store import FileObjectStore
from snapstore.stores.memory import MemoryObjectStore
from snapstore.stores.s3.store import S3ObjectStore
from snapstore.testing import (
    BucketObjects,
    DictObjects,
    DirectoryObjects,
    ObjectStoreTests,
    SnapshotStorageTests,
    StorageSubject,
    StoreCapabilityTests,
    StoreSubject,
    VersionedSnapshotStorageTests,
)
from snapstore.testing.server import create_bucket


class TestMemoryStorage(VersionedSnapshotStorageTests):
    @pytest.fixture
    async def subject(self):
        async with MemoryStorage() as storage:
            objects = storage.objects.store.objects
            yield StorageSubject(storage, DictObjects(objects))


class TestNamespaceOfMemoryStorage(VersionedSnapshotStorageTests):
    @pytest.fixture
    async def subject(self):
        async with MemoryStorage(prefix="eu") as storage:
            objects = storage.objects.store.objects
            yield StorageSubject(storage.namespace("prod"), DictObjects(objects, "eu/prod"))


class TestFileStorage(VersionedSnapshotStorageTests):
    @pytest.fixture
    async def subject(self, tmp_path):
        async with FileStorage(tmp_path) as storage:
            yield StorageSubject(storage, DirectoryObjects(tmp_path))


class TestNamespaceOfFileStorage(VersionedSnapshotStorageTests):
    @pytest.fixture
    async def subject(self, tmp_path):
        async with FileStorage(tmp_path, prefix="eu") as storage:
            objects = DirectoryObjects(tmp_path / "eu" / "prod")
            yield StorageSubject(storage.namespace("prod"), objects)


class TestMemoryObjectStore(ObjectStoreTests, StoreCapabilityTests):
    @pytest.fixture
    async def subject(self):
        store = MemoryObjectStore()
        await store.open()
        yield StoreSubject(store, DictObjects(store.objects))
        await store.aclose()


class TestManagedStore(ObjectStoreTests, StoreCapabilityTests):
    @pytest.fixture
    async def subject(self):
        store = MemoryObjectStore()
        async with ManagedStore(store) as managed:
            yield StoreSubject(managed, DictObjects(store.objects))


class TestFileObjectStore(ObjectStoreTests, StoreCapabilityTests):
    @pytest.fixture(params=["locked directories", "lock files"])
    async def subject(self, tmp_path, monkeypatch, request):
        if request.param == "lock files":
            flock = fcntl.flock

            def lock_no_directory(descriptor, operation):
                if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                flock(descriptor, operation)

            monkeypatch.setattr(fcntl, "flock", lock_no_directory)
        store = FileObjectStore(tmp_path)
        await store.open()
        yield StoreSubject(store, DirectoryObjects(tmp_path))
        await store.aclose()


# On S3, what takes long is to make clients. So one of each serves all tests, on one event loop, as
# it would in an application, and before each test the bucket or its prefix is emptied.

on_one_loop = pytest.mark.asyncio(loop_scope="module")
module_fixture = partial(pytest_asyncio.fixture, scope="module", loop_scope="module")


@module_fixture()
async def clean_client(s3_server, aws_session):
    """A client of aiobotocore as it comes, that no storage uses."""
    async with aws_session.create_client("s3", **s3_server.client_options) as client:
        yield client


@pytest.fixture(scope="module")
def bucket_without_prefix(s3_server):
    create_bucket(s3_server, "without-prefix")
    return "without-prefix"


@pytest.fixture(scope="module")
def environment(s3_server):
    """The variables by which a client of our own finds the server, as in a container."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        yield


@module_fixture()
async def storage_with_its_own_client(environment, bucket):
    async with S3Storage(bucket, prefix="eu/prod") as storage:
        yield storage


@module_fixture()
async def storage_that_replays_nothing(environment, bucket):
    async with S3Storage(bucket, prefix="all", direct=False) as storage:
        yield storage


@module_fixture()
async def storage_with_a_borrowed_client(s3_server, aws_session, bucket_without_prefix):
    async with (
        aws_session.create_client("s3", **s3_server.client_options) as client,
        S3Storage(bucket_without_prefix, client=client) as storage,
    ):
        yield storage


@module_fixture()
async def s3_store(environment, bucket_without_prefix):
    store = S3ObjectStore(bucket_without_prefix)
    await store.open()
    yield store
    await store.aclose()


class TestS3StorageWithItsOwnClientAndAPrefix(VersionedSnapshotStorageTests):
    pytestmark = on_one_loop

    @pytest_asyncio.fixture(loop_scope="module")
    async def subject(self, storage_with_its_own_client, clean_client, bucket):
        objects = BucketObjects(clean_client, bucket, "eu/prod")
        await objects.clear()
        return StorageSubject(storage_with_its_own_client, objects)


@pytest.mark.full
@pytest.mark.seaweedfs  # on the other servers it would only take time
class TestNamespaceOfS3StorageWithoutTheDirectPath(VersionedSnapshotStorageTests):
    pytestmark = on_one_loop

    @pytest_asyncio.fixture(loop_scope="module")
    async def subject(self, storage_that_replays_nothing, clean_client, bucket):
        objects = BucketObjects(clean_client, bucket, "all/generic")
        await objects.clear()
        return StorageSubject(storage_that_replays_nothing.namespace("generic"), objects)


class TestS3StorageWithABorrowedClientAndNoPrefix(SnapshotStorageTests):
    pytestmark = on_one_loop

    @pytest_asyncio.fixture(loop_scope="module")
    async def subject(self, storage_with_a_borrowed_client, clean_client, bucket_without_prefix):
        objects = BucketObjects(clean_client, bucket_without_prefix)
        await objects.clear()
        return StorageSubject(storage_with_a_borrowed_client, objects)


class TestS3ObjectStore(ObjectStoreTests, StoreCapabilityTests):
    pytestmark = on_one_loop

    @pytest_asyncio.fixture(loop_scope="module")
    async def subject(self, s3_store, clean_client, bucket_without_prefix):
        objects = BucketObjects(clean_client, bucket_without_prefix)
        await objects.clear()
        return StoreSubject(s3_store, objects)
