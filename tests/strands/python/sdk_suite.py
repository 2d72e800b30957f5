"""A pytest plugin for the SDK's own tests, which puts snapstore where they make a storage.

`SNAPSTORE_INSTEAD` says of what: of `LocalFileStorage`, of `InMemoryStorage` too, or also of the
`SnapshotSessionManager`.
"""

import os
import uuid

import pytest
import strands.session.snapshot_session_manager
import strands.storage
import strands.storage.in_memory_storage

from snapstore.integrations.strands import SnapstoreSessionManager, StrandsStorage

INSTEAD = os.environ["SNAPSTORE_INSTEAD"].split(",")

made = []


def storage_of(base_dir=None, **options):
    """A storage with a folder, or without, in the bucket instead."""
    prefix = f"{os.environ['SNAPSTORE_PREFIX']}/{(base_dir or uuid.uuid4().hex).strip('/')}"
    made.append(StrandsStorage(os.environ["SNAPSTORE_BUCKET"], prefix=prefix, **options))
    return made[-1]


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
