"""Session stores for the Claude Agent SDK over memory, files and S3."""

import pytest

from snapstore.integrations.claude import SnapstoreSessionStore
from snapstore.stores import FileObjectStore, MemoryObjectStore, S3ObjectStore


@pytest.fixture(params=["memory", "files", pytest.param("S3", marks=pytest.mark.s3)])
def make_objects(request):
    """Makes object stores that all hold the same objects, each to be opened once."""
    if request.param == "memory":
        memory = MemoryObjectStore()
        return lambda: memory
    if request.param == "files":
        root = request.getfixturevalue("tmp_path")
        return lambda: FileObjectStore(root)
    server = request.getfixturevalue("s3_server")
    bucket = request.getfixturevalue("bucket")
    return lambda: S3ObjectStore(bucket, **server.storage_options)


@pytest.fixture
async def open_store(make_objects, prefix):
    """Opens session stores over the same objects, as different processes would."""
    opened = []

    async def open_store(prefix=prefix, **options):
        store = SnapstoreSessionStore(make_objects(), prefix=prefix, **options)
        opened.append(store)
        return await store.__aenter__()

    yield open_store
    for store in opened:
        await store.aclose()


@pytest.fixture
async def store(open_store):
    return await open_store()


@pytest.fixture
def memory():
    return MemoryObjectStore()


@pytest.fixture
async def in_memory(memory):
    async with SnapstoreSessionStore(memory) as store:
        yield store
