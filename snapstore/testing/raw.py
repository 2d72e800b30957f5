"""Raw access to what the stores of snapstore keep, for the suites and for tests of your own.

Each class is a `RawObjects`: it stores, reads and lists bytes without the code under test.

- `BucketObjects`: an S3 bucket, through a client of aiobotocore that no storage uses.
- `DirectoryObjects`: the directory of a `FileStorage` or `FileObjectStore`.
- `DictObjects`: a dictionary, such as `MemoryObjectStore.objects`.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

from snapstore.testing.subjects import RawObjects

__all__ = ["BucketObjects", "DictObjects", "DirectoryObjects"]

_DELETED_AT_ONCE: Final = 1000
"""The most keys that DeleteObjects takes."""


def _base(prefix: str) -> str:
    return f"{prefix}/" if prefix else ""


class DictObjects(RawObjects):
    """The objects in a dictionary.

    Args:
        objects: The bodies by key.
        prefix: The storage's prefix. Every key in the dictionary must be under it.
    """

    def __init__(self, objects: MutableMapping[str, bytes], prefix: str = "") -> None:
        self._objects = objects
        self._base = _base(prefix)

    async def put(self, key: str, data: bytes) -> None:
        """See `RawObjects.put`."""
        self._objects[self._base + key] = data

    async def get(self, key: str) -> bytes | None:
        """See `RawObjects.get`."""
        return self._objects.get(self._base + key)

    async def keys(self) -> list[str]:
        """See `RawObjects.keys`.

        Raises:
            AssertionError: A key is not under the prefix.
        """
        foreign = [key for key in self._objects if not key.startswith(self._base)]
        assert not foreign, f"{foreign} are not under {self._base}"
        return [key.removeprefix(self._base) for key in self._objects]


class DirectoryObjects(RawObjects):
    """The objects in a directory of a `FileStorage` or `FileObjectStore`, a file each.

    Args:
        root: The directory of the store, joined with its prefix if it has one. It need not exist.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, key: str, data: bytes) -> None:
        """See `RawObjects.put`."""
        await asyncio.to_thread(self._put, key, data)

    async def get(self, key: str) -> bytes | None:
        """See `RawObjects.get`."""
        return await asyncio.to_thread(self._get, key)

    async def keys(self) -> list[str]:
        """See `RawObjects.keys`."""
        return await asyncio.to_thread(self._keys)

    def _put(self, key: str, data: bytes) -> None:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def _get(self, key: str) -> bytes | None:
        path = self._root / key
        return path.read_bytes() if path.is_file() else None

    def _keys(self) -> list[str]:
        paths = (path for path in self._root.rglob("*") if path.is_file())
        # No key has a name that begins with a dot; temporary files and lock files do.
        return [p.relative_to(self._root).as_posix() for p in paths if not p.name.startswith(".")]


class BucketObjects(RawObjects):
    """The objects in an S3 bucket.

    Args:
        client: An open S3 client of aiobotocore, as `create_client` gives it.
        bucket: The bucket's name.
        prefix: The storage's prefix.

    Example:
        >>> async with get_session().create_client("s3", **server.client_options) as client:
        ...     raw = BucketObjects(client, "my-bucket", prefix="prod")
        ...     await raw.keys()
    """

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        self._client = client
        self._bucket = bucket
        self._base = _base(prefix)

    async def put(self, key: str, data: bytes) -> None:
        """See `RawObjects.put`."""
        # aiohttp warns about bytes over 1 MiB.
        body = io.BytesIO(data)
        await self._client.put_object(Bucket=self._bucket, Key=self._base + key, Body=body)

    async def get(self, key: str) -> bytes | None:
        """See `RawObjects.get`."""
        try:
            response = await self._client.get_object(Bucket=self._bucket, Key=self._base + key)
        except self._client.exceptions.NoSuchKey:
            return None
        async with response["Body"] as body:
            data: bytes = await body.read()
            return data

    async def keys(self) -> list[str]:
        """See `RawObjects.keys`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._base
        )
        return [
            found["Key"].removeprefix(self._base)
            async for page in pages
            for found in page.get("Contents", ())
        ]

    async def clear(self) -> None:
        """Delete all objects under the prefix, so that the next test finds nothing.

        Raises:
            AssertionError: The server did not delete some of them.
        """
        keys = await self.keys()
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            named = [{"Key": self._base + key} for key in keys[start : start + _DELETED_AT_ONCE]]
            response = await self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": named, "Quiet": True}
            )
            assert "Errors" not in response, response["Errors"]
