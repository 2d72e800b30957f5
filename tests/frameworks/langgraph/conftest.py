"""A saver over each kind of object store."""

import pytest

from snapstore.integrations.langgraph import SnapstoreSaver
from snapstore.stores import FileObjectStore, MemoryObjectStore, S3ObjectStore
from snapstore.testing import FaultyObjectStore

MARKED = [pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(params=["memory", "files", *MARKED])
def make_store(request, tmp_path):
    """Makes stores over the same objects."""
    if request.param == "memory":
        store = MemoryObjectStore()
        return lambda: store
    if request.param == "files":
        return lambda: FileObjectStore(tmp_path)
    server = request.getfixturevalue("s3_server")
    bucket = request.getfixturevalue("bucket")
    return lambda: S3ObjectStore(bucket, **server.storage_options)


@pytest.fixture
async def saver(make_store, prefix):
    async with SnapstoreSaver(make_store(), prefix=prefix) as made:
        yield made


@pytest.fixture
def memory():
    return MemoryObjectStore()


@pytest.fixture
async def counted(memory):
    """A saver in memory, and what it asks of its store."""
    store = FaultyObjectStore(memory)
    async with SnapstoreSaver(store) as made:
        yield made, store
