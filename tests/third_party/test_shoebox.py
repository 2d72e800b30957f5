"""What the published suites say of it."""

import sqlite3

import pytest
from shoebox import Shoebox, ShoeboxStore

from snapstore.testing import (
    ObjectStoreTests,
    StorageSubject,
    StoreSubject,
    VersionedSnapshotStorageTests,
)


class Rows:
    """The objects, by a connection of their own."""

    def __init__(self, path):
        self.connection = sqlite3.connect(path, isolation_level=None)

    async def put(self, key, data):
        self.connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?)", [key, data])

    async def get(self, key):
        found = self.connection.execute("SELECT body FROM objects WHERE key = ?", [key]).fetchone()
        return None if found is None else found[0]

    async def keys(self):
        return [key for [key] in self.connection.execute("SELECT key FROM objects")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "box.db"


@pytest.fixture
def raw(path):
    rows = Rows(path)
    yield rows
    rows.connection.close()


class TestStore(ObjectStoreTests):
    @pytest.fixture
    async def subject(self, path, raw):
        store = ShoeboxStore(path)
        await store.open()
        yield StoreSubject(store, raw)
        await store.aclose()


class TestStorage(VersionedSnapshotStorageTests):
    @pytest.fixture
    async def subject(self, path, raw):
        async with Shoebox(path) as storage:
            yield StorageSubject(storage, raw)
