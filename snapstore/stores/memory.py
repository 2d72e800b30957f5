"""An object store in a dictionary."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from snapstore.stores.base import (
    PAGE_SIZE,
    Body,
    ObjectTooLargeError,
    PreconditionFailedError,
    StoredObject,
    Version,
    content_version,
)

__all__ = ["MemoryObjectStore"]


class MemoryObjectStore:
    """Objects of one process, kept for as long as the store is referenced, closed or open.

    Attributes:
        objects: The bodies by key: to seed it and to look inside.
        name: `"memory"`.
    """

    name = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._metadata: dict[str, dict[str, str]] = {}

    async def open(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing: what is stored stays."""

    async def get(self, key: str, *, max_bytes: int) -> StoredObject | None:
        """See `ObjectStore.get`."""
        data = self._body(key)
        if data is None:
            return None
        if len(data) > max_bytes:
            raise ObjectTooLargeError(
                f"{key} has {len(data):,} bytes, where {max_bytes:,} are allowed",
                operation="get",
                key=key,
            )
        return StoredObject(data, content_version(data), self._metadata.get(key, {}))

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """See `ObjectStore.put`."""
        stored = self._body(key)
        if if_none_match and stored is not None:
            raise PreconditionFailedError(f"{key} exists", operation="put", key=key)
        if if_match is not None and not _is_at(stored, if_match):
            raise PreconditionFailedError(
                f"{key} is not at the version expected",
                is_missing=stored is None,
                operation="put",
                key=key,
            )
        self.objects[key] = data
        self._metadata.pop(key, None)
        return content_version(data)

    async def put_with_metadata(
        self,
        key: str,
        data: bytes | Callable[[], bytes],
        metadata: Mapping[str, str],
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """See `MetadataStore`."""
        data = data() if callable(data) else data
        version = await self.put(key, data, if_match=if_match, if_none_match=if_none_match)
        self._metadata[key] = dict(metadata)
        return version

    async def scan(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[str], None]:
        """See `ObjectStore.scan`."""
        after = start_after
        while True:
            keys = sorted(
                key
                for key in self.objects
                if key.startswith(prefix) and (after is None or key > after)
            )
            if not keys:
                return
            yield keys[:page_size]
            if len(keys) <= page_size:
                return
            after = keys[page_size - 1]

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        """See `ObjectStore.delete`."""
        for key in keys:
            self.objects.pop(key, None)
            self._metadata.pop(key, None)
        return {}

    def _body(self, key: str) -> Body | None:
        data = self.objects.get(key)
        return data if data is None or isinstance(data, Body) else Body(data)


def _is_at(stored: bytes | None, version: Version) -> bool:
    return stored is not None and content_version(stored).etag == version.etag
