"""A pytest plugin for the SDK's own tests, which puts snapstore where they make a storage.

`SNAPSTORE_INSTEAD` says of what: of `LocalFileStorage`, of `InMemoryStorage` too, or also of the
`SnapshotSessionManager`. `SNAPSTORE_STORE` says what it is over: S3, files or memory.
"""

import os
import uuid

import pytest
import strands.session.snapshot_session_manager
import strands.storage
import strands.storage.in_memory_storage

from snapstore.integrations.strands import SnapstoreSessionManager, StrandsStorage
from snapstore.stores import FileObjectStore, MemoryObjectStore

MEMORY = MemoryObjectStore()
INSTEAD = os.environ["SNAPSTORE_INSTEAD"].split(",")

made = []


def storage_of(base_dir=None, **options):
    """A storage with a directory, or without, in the store instead."""
    prefix = f"{os.environ['SNAPSTORE_PREFIX']}/{(base_dir or uuid.uuid4().hex).strip('/')}"
    prefix = prefix.replace("/.", "/_")  # files take no name with a dot in front
    match os.environ["SNAPSTORE_STORE"]:
        case "files":
            store = FileObjectStore(os.environ["SNAPSTORE_ROOT"])
            storage = StrandsStorage.over(store, prefix=prefix, **options)
        case "memory":
            storage = StrandsStorage.over(MEMORY, prefix=prefix, **options)
        case _:
            storage = StrandsStorage(os.environ["SNAPSTORE_BUCKET"], prefix=prefix, **options)
    made.append(storage)
    return storage


class Manager(SnapstoreSessionManager):
    """The SDK's agents write over each other."""

    def __init__(self, session_id, **options):
        super().__init__(session_id, on_conflict="overwrite", **options)


if "files" in INSTEAD:
    strands.storage.LocalFileStorage = storage_of
if "memory" in INSTEAD:
    strands.storage.InMemoryStorage = storage_of
    strands.storage.in_memory_storage.InMemoryStorage = storage_of
if "manager" in INSTEAD:
    strands.session.snapshot_session_manager.SnapshotSessionManager = Manager


@pytest.fixture(autouse=True)
def all_closed():
    yield
    while made:
        made.pop().close()
