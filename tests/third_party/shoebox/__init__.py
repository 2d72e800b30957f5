"""Agent snapshots in a file of SQLite."""

import asyncio
import hashlib
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor

from snapstore import (
    ObjectSnapshotStorage,
)
from snapstore.stores import ObjectTooLargeError, PreconditionFailedError, StoredObject, Version

SCHEMA = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = OFF;
    CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
"""
PAGE = """
    SELECT key FROM objects
    WHERE substr(key, 1, length(:prefix)) = :prefix AND key > :after
    ORDER BY key
    LIMIT :size
"""


class ShoeboxStore:
    """An object store. A thread of its own runs one statement after another."""

    name = "shoebox"

    def __init__(self, path):
        self.path = path

    async def open(self):
        self.thread = ThreadPoolExecutor(1)
        self.connection = await self._run(self._connect)

    def _connect(self):
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.executescript(SCHEMA)
        connection.create_function("etag", 1, etag)
        return connection

    async def aclose(self):
        await self._run(self.connection.close)
        self.thread.shutdown()

    async def get(self, key, *, max_bytes):
        found = await self._rows("SELECT body FROM objects WHERE key = :key", key=key)
        if not found:
            return None
        [[body]] = found
        if len(body) > max_bytes:
            raise ObjectTooLargeError(f"{key} has {len(body)} bytes", key=key)
        return StoredObject(body, Version(etag(body)))

    async def put(self, key, data, *, if_match=None, if_none_match=False):
        values = {"key": key, "body": data, "expected": if_match and if_match.etag}
        if if_none_match:
            statement = "INSERT OR IGNORE INTO objects VALUES (:key, :body)"
        elif if_match is not None:
            statement = (
                "UPDATE objects SET body = :body WHERE key = :key AND etag(body) = :expected"
            )
        else:
            statement = "INSERT OR REPLACE INTO objects VALUES (:key, :body)"
        if await self._count(statement, **values) == 0:
            found = await self._rows("SELECT 1 FROM objects WHERE key = :key", key=key)
            raise PreconditionFailedError(
                f"{key} is not as expected", key=key, is_missing=not found
            )
        return Version(etag(data))

    async def scan(self, prefix, *, start_after=None, page_size=1000):
        after = start_after or ""
        while True:
            page = await self._rows(PAGE, prefix=prefix, after=after, size=page_size)
            if not page:
                return
            keys = [key for [key] in page]
            yield keys
            after = keys[-1]

    async def delete(self, keys):
        named = "SELECT value FROM json_each(:keys)"
        await self._count(f"DELETE FROM objects WHERE key IN ({named})", keys=json.dumps(keys))
        return {}

    async def _rows(self, statement, **values):
        return await self._run(lambda: self.connection.execute(statement, values).fetchall())

    async def _count(self, statement, **values):
        return await self._run(lambda: self.connection.execute(statement, values).rowcount)

    async def _run(self, function):
        return await asyncio.get_running_loop().run_in_executor(self.thread, function)


def etag(body):
    return hashlib.sha256(body).hexdigest()


class Shoebox(ObjectSnapshotStorage):
    """Snapshots in a file of SQLite.

    async with Shoebox("agents.db") as storage: ...
    """

    def __init__(self, path):
        super().__init__(ShoeboxStore(path))
