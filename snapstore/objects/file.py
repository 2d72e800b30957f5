"""An object store in a folder: a key is a path under its root. POSIX only.

Writers, of any number of processes on one host, take turns by a lock; readers need none, since a
file appears under its name whole or not at all. Nothing is reached through a symbolic link, so
nothing outside the root is ever read, written or deleted.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import uuid
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import groupby, islice
from typing import Final, TypeVar

from snapstore.errors import AccessDeniedError, InvalidIdentifierError, StorageError
from snapstore.objects.base import (
    PAGE_SIZE,
    ObjectTooLargeError,
    PreconditionFailedError,
    StoredObject,
    Version,
    content_version,
)

__all__ = ["FileObjectStore"]

T = TypeVar("T")
Folder = tuple[str, ...]

_OWN: Final = ".snapstore"
_LOCKS: Final[Folder] = (_OWN, "locks")
_TEMPORARY: Final[Folder] = (_OWN, "tmp")
# Without O_NONBLOCK, opening a named pipe would wait for its writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_STRIPES: Final = 64
"""Lock files: keys share them by hash, so that their number does not grow with the keys'."""
_THREADS: Final = 16
"""Threads of a store's own: a write that waits for a lock takes none of asyncio's."""
_PATIENCE: Final = 100
"""How often a write makes its folders again that a concurrent delete has found empty."""
_REASONS: Final = {
    errno.EACCES: "permission denied; check its owner and mode",
    errno.EPERM: "permission denied; check its owner and mode",
    errno.ENOSPC: "the disk is full; free some space, or choose another root",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another root",
    errno.EROFS: "the file system is read-only; choose another root",
    errno.EMFILE: "this process has too many open files; raise its limit (ulimit -n)",
}


class FileObjectStore:
    """Objects as files.

    Args:
        root: The folder. It is made by the first write.

    Attributes:
        name: The folder's absolute path.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.name: str = os.path.abspath(os.fspath(root))
        self._threads: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Get threads ready. No file is touched: the first write makes what it needs."""
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="snapstore-file")

    async def aclose(self) -> None:
        """Wait for the threads: what was cancelled may still be writing."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)

    async def get(self, key: str, *, max_bytes: int) -> StoredObject | None:
        """See `ObjectStore.get`."""
        return await self._in_thread("get", key, lambda: self._get(key, max_bytes))

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """See `ObjectStore.put`. When it returns, the file is on the disk, its name included."""
        return await self._in_thread(
            "put", key, lambda: self._put(key, data, if_match, if_none_match)
        )

    async def scan(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[str], None]:
        """See `ObjectStore.scan`. All keys come in ascending order."""
        keys = self._keys(prefix, start_after)
        while page := await self._in_thread("scan", prefix, lambda: list(islice(keys, page_size))):
            yield page
            if len(page) < page_size:
                return

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        """See `ObjectStore.delete`. Folders that become empty are removed."""
        if not keys:
            return {}
        return await self._in_thread("delete", keys[0], lambda: self._delete(keys))

    async def _in_thread(self, operation: str, key: str, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            kind = AccessDeniedError if isinstance(error, PermissionError) else StorageError
            reason = _REASONS.get(error.errno or 0) or error.strerror or type(error).__name__
            raise kind(
                f"{operation} of {key} in {self.name} failed: {reason}",
                operation=operation,
                bucket=self.name,
                key=key,
                code=errno.errorcode.get(error.errno or 0),
            ) from error

    # What follows runs in threads and may block.

    def _get(self, key: str, max_bytes: int) -> StoredObject | None:
        *folder, name = _segments(key)
        try:
            with self._folder(tuple(folder)) as descriptor:
                data = self._read(descriptor, name, key, max_bytes)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if data is None else StoredObject(data, content_version(data))

    def _put(self, key: str, data: bytes, if_match: Version | None, if_none_match: bool) -> Version:
        *folder, name = _segments(key)
        self._make_root()
        for attempt in range(_PATIENCE):
            try:
                with self._locked(key), self._folder(tuple(folder), create=True) as target:
                    if if_none_match or if_match is not None:
                        stored = self._read(target, name, key, None)
                        if if_none_match and stored is not None:
                            raise self._precondition_failed(key, "it exists")
                        if if_match is not None and (
                            stored is None or content_version(stored).etag != if_match.etag
                        ):
                            raise self._precondition_failed(
                                key, "it is not at the version expected", is_missing=stored is None
                            )
                    self._replace(target, name, data)
                return content_version(data)
            except FileNotFoundError:
                # A concurrent delete has removed the folder as empty.
                if attempt == _PATIENCE - 1:
                    raise
        raise AssertionError("unreachable")

    def _make_root(self) -> None:
        if not os.path.isdir(self.name):
            try:
                os.makedirs(self.name, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise self._no_folder() from error
            _sync_folder(os.path.dirname(self.name))

    def _replace(self, target: int, name: str, data: bytes) -> None:
        """Write a file under a temporary name, and only then under its own."""
        temporary = uuid.uuid4().hex
        with self._folder(_TEMPORARY, create=True) as source:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o666, dir_fd=source)
            try:
                # As long as its writer lives, a temporary file is locked: see _sweep.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                with open(descriptor, "wb", closefd=False) as file:
                    file.write(data)
                os.fsync(descriptor)
                os.replace(temporary, name, src_dir_fd=source, dst_dir_fd=target)
            except BaseException:
                _unlink(temporary, source)
                raise
            finally:
                os.close(descriptor)
        os.fsync(target)

    def _delete(self, keys: Sequence[str]) -> dict[str, str]:
        failed: dict[str, str] = {}
        paths = sorted((tuple(_segments(key)[:-1]), key) for key in keys)
        emptied: set[Folder] = set()
        for folder, group in groupby(paths, key=lambda path: path[0]):
            with ExitStack() as stack:
                try:
                    descriptor = stack.enter_context(self._folder(folder))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                for _, key in group:
                    with self._locked(key):
                        try:
                            _unlink(key.rpartition("/")[2], descriptor)
                        except OSError as error:
                            failed[key] = errno.errorcode.get(error.errno or 0, "Unknown")
                os.fsync(descriptor)
            if folder:
                self._prune(folder)
            emptied.update(folder[:depth] for depth in range(1, len(folder)))
        for folder in sorted(emptied, key=len, reverse=True):
            self._remove_if_empty(folder)
        self._sweep()
        return failed

    def _prune(self, folder: Folder) -> None:
        """Remove a folder and those below it that hold nothing: a killed writer may leave some."""
        try:
            with self._folder(folder) as descriptor, os.scandir(descriptor) as entries:
                below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in below:
            if not name.startswith("."):
                self._prune((*folder, name))
        self._remove_if_empty(folder)

    def _remove_if_empty(self, folder: Folder) -> None:
        try:
            with self._folder(folder[:-1]) as parent:
                os.rmdir(folder[-1], dir_fd=parent)
                os.fsync(parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise

    def _sweep(self) -> None:
        """Remove what writers that were killed have left: it may hold what was to be deleted."""
        try:
            with self._folder(_TEMPORARY) as source:
                for name in os.listdir(source):
                    try:
                        descriptor = os.open(name, _READ, dir_fd=source)
                    except OSError:
                        continue  # gone, or none that a writer of ours has made
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        _unlink(name, source)
                    except BlockingIOError:
                        continue
                    finally:
                        os.close(descriptor)
        except FileNotFoundError:
            return

    def _keys(self, prefix: str, start_after: str | None) -> Iterator[str]:
        """All keys under a prefix, ascending; a folder's entries at a time are in memory."""
        *folder, _ = prefix.split("/")
        if all(map(_is_name, folder)):  # no key lies in any other
            yield from self._walk(tuple(folder), prefix, start_after)

    def _walk(self, folder: Folder, prefix: str, start_after: str | None) -> Iterator[str]:
        base = "".join(f"{segment}/" for segment in folder)
        try:
            with self._folder(folder) as descriptor, os.scandir(descriptor) as entries:
                # With its "/" a folder sorts where its keys do: "a-b" before "a/b".
                names = sorted(
                    f"{entry.name}/" if entry.is_dir() else entry.name
                    for entry in entries
                    if not entry.name.startswith(".")
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            key = base + name
            if not name.endswith("/"):
                if key.startswith(prefix) and (start_after is None or key > start_after):
                    yield key
            elif key.startswith(prefix) and (
                start_after is None or key > start_after or start_after.startswith(key)
            ):
                yield from self._walk((*folder, name[:-1]), prefix, start_after)

    def _read(self, folder: int, name: str, key: str, max_bytes: int | None) -> bytes | None:
        try:
            descriptor = os.open(name, _READ, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._symlink(key) from error
            raise
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                return None
            if not stat.S_ISREG(status.st_mode):
                raise StorageError(
                    f"{key} in {self.name} is not a regular file",
                    operation="get",
                    bucket=self.name,
                    key=key,
                )
            if max_bytes is not None and status.st_size > max_bytes:
                raise ObjectTooLargeError(
                    f"{key} has {status.st_size:,} bytes, where {max_bytes:,} are allowed",
                    operation="get",
                    bucket=self.name,
                    key=key,
                )
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)

    @contextmanager
    def _folder(self, folder: Folder, *, create: bool = False) -> Iterator[int]:
        """Open a folder under the root, step by step, so that no link leads out of it."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            descriptor = os.open(self.name, flags)
        except NotADirectoryError as error:
            raise self._no_folder() from error
        try:
            for depth, name in enumerate(folder, 1):
                try:
                    child = os.open(name, flags | os.O_NOFOLLOW, dir_fd=descriptor)
                except FileNotFoundError:
                    if not create:
                        raise
                    _make_folder(name, descriptor)
                    child = os.open(name, flags | os.O_NOFOLLOW, dir_fd=descriptor)
                except OSError as error:
                    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                        raise
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    if stat.S_ISLNK(status.st_mode):
                        raise self._symlink("/".join(folder[:depth])) from None
                    raise
                os.close(descriptor)
                descriptor = child
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        name = f"{zlib.crc32(os.fsencode(key)) % _STRIPES:02d}"
        with self._folder(_LOCKS, create=True) as folder:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o666, dir_fd=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _precondition_failed(
        self, key: str, why: str, *, is_missing: bool = False
    ) -> PreconditionFailedError:
        return PreconditionFailedError(
            f"{key} in {self.name}: {why}",
            is_missing=is_missing,
            operation="put",
            bucket=self.name,
            key=key,
        )

    def _no_folder(self) -> StorageError:
        return StorageError(f"{self.name} is not a folder; choose another root", bucket=self.name)

    def _symlink(self, path: str) -> StorageError:
        return StorageError(
            f"{path} in {self.name} is a symbolic link, which is not followed",
            bucket=self.name,
            key=path,
            code="ELOOP",
        )


def _segments(key: str) -> list[str]:
    """The folders and the file name of a key.

    Raises:
        InvalidIdentifierError: It is no path inside the root: a segment is empty, begins with `.`
            (which is kept for temporary files), has a NUL or more than 255 bytes.
    """
    segments = key.split("/")
    if not all(map(_is_name, segments)):
        raise InvalidIdentifierError(f"{key!a} can't be a file under a folder")
    return segments


def _is_name(segment: str) -> bool:
    return (
        segment != ""
        and not segment.startswith(".")
        and "\0" not in segment
        and len(os.fsencode(segment)) <= 255
    )


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return
    os.fsync(parent)


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except (FileNotFoundError, IsADirectoryError):
        # A folder is not an object, so there is none of that name.
        return
