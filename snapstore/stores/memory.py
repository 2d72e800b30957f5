"""An object store in a dictionary."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import ClassVar, Final

from snapstore.stores.base import (
    PAGE_SIZE,
    Body,
    ObjectTooLargeError,
    PreconditionFailedError,
    StoredObject,
    Version,
    content_version,
)
from snapstore.stores.capabilities import ObjectDetails, beginning_of, validate_delimiter

__all__ = ["MemoryObjectStore"]

_LAST: Final = "\U0010ffff"
"""The last character: no key under a prefix comes after the prefix and this."""


class MemoryObjectStore:
    """Objects of one process, kept for as long as the store is referenced, closed or open.

    A copy (`copy.copy`) has the same objects, and may be used on another thread at the same time.

    Attributes:
        objects: The bodies by key: to seed it and to look inside.
        name: `"memory"`.
    """

    name = "memory"

    _lock: ClassVar[threading.Lock] = threading.Lock()
    """Held between a condition and its write, for the threads of all stores: only for a moment."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._metadata: dict[str, dict[str, str]] = {}
        # What was put into `objects` directly has the time at which the store was made.
        self._made = datetime.now(UTC)
        self._modified: dict[str, datetime] = {}

    async def open(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing: what is stored stays."""

    async def locate(self) -> str:
        """See `LocatedStore`."""
        return f"memory:///{id(self):x}/"

    async def get(self, key: str, *, max_bytes: int) -> StoredObject | None:
        """See `ObjectStore.get`."""
        with self._lock:
            data, metadata = self._body(key), self._metadata.get(key, {})
        if data is None:
            return None
        if len(data) > max_bytes:
            raise ObjectTooLargeError(
                f"{key} has {len(data):,} bytes, where {max_bytes:,} are allowed",
                operation="get",
                key=key,
            )
        return StoredObject(data, content_version(data), metadata)

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """See `ObjectStore.put`."""
        with self._lock:
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
            self._modified[key] = datetime.now(UTC)
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
        with self._lock:
            if _is_at(self._body(key), version):  # or it is another thread's by now
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
                for key in [*self.objects]
                if key.startswith(prefix) and (after is None or key > after)
            )
            if not keys:
                return
            yield keys[:page_size]
            if len(keys) <= page_size:
                return
            after = keys[page_size - 1]

    async def scan_details(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[ObjectDetails], None]:
        """See `DetailedListingStore`."""
        pages = self.scan(prefix, start_after=start_after, page_size=page_size)
        async with aclosing(pages):
            async for page in pages:
                yield [
                    ObjectDetails(
                        key,
                        len(data),
                        self._modified.get(key, self._made),
                        content_version(data).etag,
                    )
                    for key in page
                    if (data := self.objects.get(key)) is not None
                ]

    async def scan_prefixes(
        self,
        prefix: str,
        *,
        delimiter: str,
        start_after: str | None = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncGenerator[list[str], None]:
        """See `DelimiterStore`."""
        validate_delimiter(delimiter)
        after = start_after
        while True:
            found = sorted(
                {
                    beginning
                    for key in [*self.objects]
                    if (beginning := beginning_of(key, prefix, delimiter)) is not None
                    and (after is None or (key > after and not after.startswith(beginning)))
                }
            )
            if not found:
                return
            yield found[:page_size]
            if len(found) <= page_size:
                return
            after = f"{found[page_size - 1]}{_LAST}"

    async def copy(
        self, source: str, key: str, *, metadata: Mapping[str, str] | None = {}
    ) -> Version | None:
        """See `CopyingStore`."""
        data = self._body(source)
        if data is None:
            return None
        if metadata is None:
            metadata = self._metadata.get(source, {})
        return await self.put_with_metadata(key, data, metadata)

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        """See `ObjectStore.delete`."""
        with self._lock:
            self._remove(keys)
        return {}

    async def has_conditional_deletes(self, scratch_key: str) -> bool:  # noqa: ARG002
        """See `ConditionalDeleteStore`."""
        return True

    async def delete_if_match(self, key: str, version: Version) -> None:
        """See `ConditionalDeleteStore`."""
        with self._lock:
            stored = self._body(key)
            if not _is_at(stored, version):
                raise PreconditionFailedError(
                    f"{key} is not at the version expected",
                    is_missing=stored is None,
                    operation="delete",
                    key=key,
                )
            self._remove([key])

    def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            for kept in (self.objects, self._modified, self._metadata):
                kept.pop(key, None)

    def _body(self, key: str) -> Body | None:
        data = self.objects.get(key)
        return data if data is None or isinstance(data, Body) else Body(data)


def _is_at(stored: bytes | None, version: Version) -> bool:
    return stored is not None and content_version(stored).etag == version.etag


def _renew_lock() -> None:
    """In a forked child, a thread that held the lock is gone."""
    MemoryObjectStore._lock = threading.Lock()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_renew_lock)
