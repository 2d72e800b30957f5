"""An object store in a directory: a key is a path under its root. POSIX only.

A file appears under its name whole or not at all, so readers need no lock. Writers, of any number
of processes on one host, hold the lock of the directory that the file lies in. No thread waits for
a lock: it tries to get it, and the event loop waits before the next try. So a writer that hangs or
is stopped blocks only the writers of its directory, and those can be cancelled.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from itertools import count, groupby, islice
from operator import itemgetter
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from snapstore.errors import AccessDeniedError, StorageError
from snapstore.stores.base import PAGE_SIZE, Finding, StoredObject, Version
from snapstore.stores.capabilities import ObjectDetails, validate_delimiter
from snapstore.stores.file.directories import DirectoryPath
from snapstore.stores.file.errors import call
from snapstore.stores.file.files import FileTree
from snapstore.stores.file.inspection import inspect_directory
from snapstore.stores.file.listing import FileListing
from snapstore.stores.file.locks import LockedElsewhereError
from snapstore.stores.file.paths import directory_of
from snapstore.stores.retry import full_jitter
from snapstore.stores.threads import is_exiting, require_threads

__all__ = ["FileObjectStore"]

T = TypeVar("T")

_THREADS: Final = 16
"""Threads that read, and as many that write: slow writes do not keep readers waiting."""
_ATTEMPTS: Final = 100
"""How often a directory is locked again that others remove or replace at the same time."""


class FileObjectStore:
    """Objects as files.

    New files and directories are their owner's alone (modes 0600 and 0700). A file that is replaced
    keeps its mode, and its owner if the process may set it.

    Args:
        root: The directory. It is made by the first write. A relative path is resolved when the
            store is opened for the first time.

    Attributes:
        name: The directory's path, absolute once the store was opened.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        # What asks for the working directory blocks, by the rules that some event loops enforce.
        self.name: str = os.path.normpath(os.fspath(root))
        self._files = FileTree(self.name)
        self._readers: ThreadPoolExecutor | None = None
        self._writers: ThreadPoolExecutor | None = None
        self._turns: WeakValueDictionary[DirectoryPath, asyncio.Lock]

    async def open(self) -> None:
        """Get threads ready. No file is touched: the first write makes what it needs.

        Raises:
            LifecycleError: The interpreter is exiting, or its threads have been replaced.
        """
        require_threads("a file store")
        if not os.path.isabs(self.name):
            self.name = await asyncio.to_thread(os.path.abspath, self.name)
            self._files = FileTree(self.name)
        self._turns = WeakValueDictionary()
        self._readers = ThreadPoolExecutor(_THREADS, thread_name_prefix="snapstore-read")
        self._writers = ThreadPoolExecutor(_THREADS, thread_name_prefix="snapstore-write")

    async def aclose(self) -> None:
        """Wait for the threads: what was cancelled may still be writing."""
        pools = (self._readers, self._writers)
        self._readers = self._writers = None
        for pool in filter(None, pools):
            if is_exiting():  # they have been waited for
                pool.shutdown()
            else:
                await asyncio.to_thread(pool.shutdown)

    async def locate(self) -> str:
        """See `LocatedStore`. Symbolic links on the way to the root are followed."""
        root = await asyncio.to_thread(os.path.realpath, self.name)
        return f"file://{root.rstrip('/')}/"

    async def get(self, key: str, *, max_bytes: int) -> StoredObject | None:
        """See `ObjectStore.get`."""
        work = partial(self._files.get, key, max_bytes)
        return await self._in_thread(self._readers, "get", key, work)

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """See `ObjectStore.put`.

        When it returns, the file is on the disk, its name included where the file system can do
        that. An error whose `outcome` is `"applied"` says that the file was replaced, and that
        this may be undone by a crash of the machine.
        """
        work = partial(self._files.put, key, data, if_match, if_none_match)
        return await self._exclusively(directory_of(key), "put", key, work)

    async def scan(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[str], None]:
        """See `ObjectStore.scan`. All keys come in ascending order."""
        keys = FileListing(self._files.tree).keys(prefix, start_after)
        async with aclosing(self._pages(prefix, keys, page_size)) as pages:
            async for page in pages:
                yield page

    async def scan_details(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[ObjectDetails], None]:
        """See `DetailedListingStore`, and `scan`. There are no etags: they hash the contents.

        Raises:
            StorageError: What lies under a key is not a regular file.
        """
        listing = FileListing(self._files.tree)
        keys = listing.keys(prefix, start_after)
        async with aclosing(self._pages(prefix, keys, page_size)) as pages:
            async for page in pages:
                work = partial(listing.details, page)
                yield await self._in_thread(self._readers, "scan", prefix, work)

    async def scan_prefixes(
        self,
        prefix: str,
        *,
        delimiter: str,
        start_after: str | None = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncGenerator[list[str], None]:
        """See `DelimiterStore`. All beginnings come in ascending order."""
        validate_delimiter(delimiter)
        found = FileListing(self._files.tree).prefixes(prefix, delimiter, start_after)
        async with aclosing(self._pages(prefix, found, page_size)) as pages:
            async for page in pages:
                yield page

    async def _pages(
        self, prefix: str, items: Iterator[str], page_size: int
    ) -> AsyncGenerator[list[str], None]:
        def next_page() -> list[str]:
            return list(islice(items, page_size))

        while page := await self._in_thread(self._readers, "scan", prefix, next_page):
            yield page
            if len(page) < page_size:
                return

    async def copy(
        self,
        source: str,
        key: str,
        *,
        metadata: Mapping[str, str] | None = {},  # noqa: ARG002 -- files have none
    ) -> Version | None:
        """See `CopyingStore`. The copy is written as `put` does; its etag is the source's."""
        work = partial(self._files.copy, source, key)
        return await self._exclusively(directory_of(key), "copy", key, work)

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        """See `ObjectStore.delete`. Directories that become empty are removed.

        Raises:
            StorageError: Not one of the keys could be deleted; or all were, which `outcome` says
                then, but something after that failed.
        """
        if not keys:
            return {}
        failed: dict[str, StorageError] = {}
        later: list[StorageError] = []
        paths = sorted((directory_of(key), key) for key in keys)
        directories: list[DirectoryPath] = []
        for directory, group in groupby(paths, key=itemgetter(0)):
            here = [key for _, key in group]
            work = partial(self._files.delete, directory, here)
            try:
                failed |= await self._exclusively(directory, "delete", here[0], work)
            except StorageError as error:
                if error.outcome == "applied":
                    later.append(error)
                else:
                    failed |= dict.fromkeys(here, error)
            directories.append(directory)
        if failed:
            if len(failed) == len(paths):
                raise next(iter(failed.values()))
            return {key: error.code or "Unknown" for key, error in failed.items()}
        if later:
            raise later[0]
        await self._prune_deleted(directories, keys[0])
        return {}

    async def has_conditional_deletes(self, scratch_key: str) -> bool:  # noqa: ARG002
        """See `ConditionalDeleteStore`. There are some: the lock of the directory is held."""
        return True

    async def delete_if_match(self, key: str, version: Version) -> None:
        """See `ConditionalDeleteStore`. Directories that become empty are removed.

        Raises:
            StorageError: It could not be deleted; or it was, which `outcome` says then, but
                something after that failed.
        """
        directory = directory_of(key)
        work = partial(self._files.delete_if_match, key, version)
        await self._exclusively(directory, "delete", key, work)
        await self._prune_deleted([directory], key)

    async def sweep(self, prefix: str) -> None:
        """See `SweepableStore.sweep`."""
        work = partial(FileListing(self._files.tree).directories, prefix)
        directories = await self._in_thread(self._readers, "sweep", prefix, work)
        await self._prune(directories, prefix, leftovers=True)

    async def inspect(self, key: str) -> list[Finding]:
        """See `InspectableStore.inspect`."""
        work = partial(inspect_directory, self._files.tree, directory_of(key))
        try:
            return await self._in_thread(self._writers, "inspect", key, work)
        finally:
            await self._prune([directory_of(key)], key, leftovers=True)

    async def _prune_deleted(self, directories: Iterable[DirectoryPath], key: str) -> None:
        try:
            await self._prune(directories, key, leftovers=False)
        except StorageError as error:
            words = (
                f"all is deleted, but a directory that is empty now could not be removed: {error}"
            )
            facts = error.facts
            facts["outcome"] = "applied"
            raise type(error)(words, **facts) from error

    async def _prune(
        self, directories: Iterable[DirectoryPath], key: str, *, leftovers: bool
    ) -> None:
        """Remove directories that are empty, and then those above them that become so.

        Args:
            directories: Where to begin. Those above them may belong to others: they are removed
                only where that is allowed.
            key: The key or prefix that errors name.
            leftovers: Whether what killed writers have left is removed first.
        """
        given = frozenset(directories)
        remaining = set(given)
        for depth in range(max(map(len, given), default=0), 0, -1):
            for directory in [path for path in remaining if len(path) == depth]:
                work = partial(self._files.remove_if_empty, directory, leftovers=leftovers)
                try:
                    removed = await self._exclusively(directory, "delete", key, work)
                except AccessDeniedError:
                    if directory in given:
                        raise
                    continue
                if removed:
                    remaining.add(directory[:-1])

    async def _exclusively(
        self, directory: DirectoryPath, operation: str, key: str, work: Callable[[], T]
    ) -> T:
        """Do what takes the lock of a directory, again for as long as another holds the lock."""
        # The tasks of this store take turns in their order, and only the first one tries.
        turn = self._turns.setdefault(directory, asyncio.Lock())
        async with turn:
            moves = 0
            for attempt in count():
                try:
                    return await self._in_thread(self._writers, operation, key, work)
                except LockedElsewhereError:
                    # Up to 50 ms, then up to 100: the holder does not say when it is done.
                    await asyncio.sleep(full_jitter(min(attempt, 1)))
                except StorageError as error:
                    moves += 1
                    done = error.outcome in ("applied", "unknown")
                    if error.code != "ESTALE" or done or moves == _ATTEMPTS:
                        raise
        raise AssertionError("unreachable")

    async def _in_thread(
        self, pool: ThreadPoolExecutor | None, operation: str, key: str, work: Callable[[], T]
    ) -> T:
        if is_exiting():
            require_threads("a file store")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, call, self.name, operation, key, work)
