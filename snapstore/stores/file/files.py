"""The files under a root: read, replaced, deleted and listed. All of it may block."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, TypeVar

from snapstore.errors import (
    AccessDeniedError,
    InvalidIdentifierError,
    Outcome,
    OutcomeUnknownError,
    StorageError,
)
from snapstore.stores.base import (
    Body,
    ObjectTooLargeError,
    PreconditionFailedError,
    StoredObject,
    Version,
    content_version,
)
from snapstore.stores.file.directories import (
    TEMPORARY,
    DirectoryPath,
    DirectoryTree,
    LockedDirectory,
    naming,
    sync_directory,
    unlink,
)

__all__ = ["FileTree", "directory_of"]

T = TypeVar("T")

# Without O_NONBLOCK, opening a named pipe would wait for its writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_REASONS: Final = {
    errno.ENOSPC: "the disk is full; free some space, or choose another root",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another root",
    errno.EROFS: "the file system is read-only; choose another root",
    errno.EMFILE: "this process has too many open files; raise its limit (ulimit -n)",
}


class FileTree:
    """The files under a root, one for each key.

    Its methods raise `OSError`, which `call` turns into `StorageError`, and those that need the
    lock of a directory raise `LockedElsewhereError`.

    Args:
        root: The absolute path of the root.

    Attributes:
        name: The same.
        tree: The directories that the files lie in.
    """

    def __init__(self, root: str) -> None:
        self.name = root
        self.tree: DirectoryTree = DirectoryTree(root)

    def call(self, operation: str, key: str, work: Callable[[], T]) -> T:
        """Do something, and turn an `OSError` into a `StorageError`.

        Args:
            operation: What errors call it.
            key: The key or prefix that errors name.
            work: What is to be done.
        """
        try:
            return work()
        except StorageError as error:
            if operation == "put" and error.outcome is None:  # what stands in the way of it
                error.outcome = "not applied"
            raise
        except OSError as error:
            raise self._error(error, operation, key) from error

    def get(self, key: str, max_bytes: int) -> StoredObject | None:
        """See `ObjectStore.get`."""
        *directory, name = _segments(key)
        try:
            with self.tree.open(tuple(directory)) as descriptor:
                data = self._read(descriptor, name, key, max_bytes)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if data is None else StoredObject(data, content_version(data))

    def put(self, key: str, data: bytes, if_match: Version | None, if_none_match: bool) -> Version:
        """See `ObjectStore.put`."""
        *directory, name = _segments(key)
        try:
            with self.tree.lock(tuple(directory), create=if_match is None) as target:
                if if_none_match or if_match is not None:
                    stored = self._read(target.descriptor, name, key, None)
                    if if_none_match and stored is not None:
                        raise self._precondition_failed(key, "it exists")
                    if if_match is not None and (
                        stored is None or content_version(stored).etag != if_match.etag
                    ):
                        why = "it is not at the version expected"
                        raise self._precondition_failed(key, why, is_missing=stored is None)
                self._replace(target, name, key, data)
        except (FileNotFoundError, NotADirectoryError):
            if if_match is None:
                raise
            raise self._precondition_failed(key, "it does not exist", is_missing=True) from None
        return content_version(data)

    def _replace(self, target: LockedDirectory, name: str, key: str, data: bytes) -> None:
        """Write a file under a temporary name, and only then under its own."""
        directory = target.descriptor
        temporary = f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            written = _write(temporary, directory, data, like=_status(name, directory))
            target.check()
            try:
                os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError as error:
                # A network file system may report an error for what it has done, as NFS does where
                # it repeats a request whose reply was lost.
                try:
                    named = _status(name, directory)
                except OSError:
                    happened = "may have been applied"
                    raise self._error(error, "put", key, happened, "unknown") from error
                if named is None or not os.path.samestat(named, written):
                    raise
        except BaseException:
            with suppress(OSError):
                unlink(temporary, directory)
            raise
        self._sync(directory, "put", key)

    def _sync(self, directory: int, operation: str, key: str) -> None:
        try:
            sync_directory(directory)
        except OSError as error:
            happened = "was applied, but may be undone by a crash of the machine"
            raise self._error(error, operation, key, happened, "applied") from error

    def delete(self, directory: DirectoryPath, keys: list[str]) -> dict[str, StorageError]:
        """Delete files of one directory.

        Returns:
            The keys that were not deleted, each with the reason.
        """
        failed: dict[str, StorageError] = {}
        try:
            with self.tree.lock(directory) as target:
                for key in keys:
                    try:
                        unlink(key.rpartition("/")[2], target.descriptor)
                    except OSError as error:
                        error.filename = target.path  # whose mode says who may delete
                        failed[key] = self._error(error, "delete", key)
                try:
                    self._sync(target.descriptor, "delete", keys[0])
                except StorageError:
                    if not failed:
                        raise
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return failed

    def remove_if_empty(self, directory: DirectoryPath, *, leftovers: bool) -> bool:
        """Remove a directory if nothing is left in it.

        Args:
            directory: The directory.
            leftovers: Whether unfinished files, which killed writers leave, are removed first.

        Returns:
            Whether there is no such directory any more.
        """
        try:
            with self.tree.lock(directory) as target:
                if leftovers:
                    # Who holds the lock knows that no writer is at work.
                    names = os.listdir(target.descriptor)
                    found = [name for name in names if name.startswith(TEMPORARY)]
                    for name in found:
                        unlink(name, target.descriptor)
                    if found:
                        sync_directory(target.descriptor)
                return target.remove_if_empty()
        except FileNotFoundError:
            return True
        except NotADirectoryError:
            return False

    def directories(self, prefix: str) -> list[DirectoryPath]:
        """The directory that a prefix names, which may be missing, and all directories in it."""
        *path, _ = prefix.split("/")
        if not all(map(_is_name, path)):
            return []
        found: list[DirectoryPath] = []
        pending = [tuple(path)]
        while pending:
            found.append(directory := pending.pop())
            with (
                suppress(FileNotFoundError, NotADirectoryError),
                self.tree.open(directory) as descriptor,
                os.scandir(descriptor) as entries,
            ):
                pending += [
                    (*directory, entry.name)
                    for entry in entries
                    if _is_name(entry.name) and entry.is_dir(follow_symlinks=False)
                ]
        return found

    def keys(self, prefix: str, start_after: str | None) -> Iterator[str]:
        """All keys under a prefix, ascending; a directory's entries at a time are in memory."""
        *directory, _ = prefix.split("/")
        if not all(map(_is_name, directory)):
            return  # no key lies in any other
        pending = self._children("".join(f"{segment}/" for segment in directory))
        while pending:
            key = pending.pop()
            after = start_after is None or key > start_after
            if not key.startswith(prefix):
                continue
            if not key.endswith("/"):
                if after:
                    yield key
            elif after or (start_after is not None and start_after.startswith(key)):
                pending += self._children(key)

    def _children(self, base: str) -> list[str]:
        """The keys directly in a directory, and those of its directories with a "/", descending."""
        directory = tuple(base.split("/")[:-1])
        try:
            with self.tree.open(directory) as descriptor, os.scandir(descriptor) as entries:
                # With its "/" a directory sorts where its keys do: "a-b" before "a/b".
                return sorted(
                    (
                        f"{base}{entry.name}/"
                        if self._is_directory(entry, base)
                        else base + entry.name
                        for entry in entries
                        if not entry.name.startswith(".")
                    ),
                    reverse=True,
                )
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _is_directory(self, entry: os.DirEntry[str], base: str) -> bool:
        try:
            return entry.is_dir()
        except OSError:
            # Of a symbolic link to itself, or into what this user may not enter.
            if entry.is_symlink():
                raise self.tree.symbolic_link(base + entry.name) from None
            raise

    def _read(self, directory: int, name: str, key: str, max_bytes: int | None) -> Body | None:
        with naming(self.tree.path(*directory_of(key))):
            try:
                descriptor = os.open(name, _READ, dir_fd=directory)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise self.tree.symbolic_link(key) from error
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
                    return Body(file.read())
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

    def _error(
        self,
        error: OSError,
        operation: str,
        key: str,
        happened: str = "failed",
        outcome: Outcome | None = None,
    ) -> StorageError:
        kind = AccessDeniedError if isinstance(error, PermissionError) else StorageError
        if outcome == "unknown":
            kind = OutcomeUnknownError
        elif outcome is None and operation == "put":
            outcome = "not applied"
        return kind(
            f"{operation} of {key} in {self.name} {happened}: {_reason(error)}",
            operation=operation,
            bucket=self.name,
            key=key,
            code=errno.errorcode.get(error.errno or 0),
            outcome=outcome,
        )


def _segments(key: str) -> list[str]:
    """The directories and the file name of a key.

    Raises:
        InvalidIdentifierError: It is no path inside the root: a segment is empty, begins with `.`
            (which is kept for temporary files), has a NUL or more than 255 bytes, or is no text
            that a file name can be.
    """
    segments = key.split("/")
    if not all(map(_is_name, segments)):
        raise InvalidIdentifierError(f"{key!a} can't be a file under a folder")
    return segments


def directory_of(key: str) -> DirectoryPath:
    """The directory that the file of a key lies in.

    Raises:
        InvalidIdentifierError: The key is no path inside the root.
    """
    return tuple(_segments(key)[:-1])


def _is_name(segment: str) -> bool:
    try:
        length = len(os.fsencode(segment))
    except UnicodeEncodeError:
        return False
    return 0 < length <= 255 and not segment.startswith(".") and "\0" not in segment


def _status(name: str, directory: int) -> os.stat_result | None:
    """The status of a file; `None` if there is none of that name."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _write(
    name: str, directory: int, data: bytes, *, like: os.stat_result | None
) -> os.stat_result:
    """Make a file and wait until its content is on the disk.

    Args:
        name: Its name.
        directory: A descriptor of the directory it is made in.
        data: Its content.
        like: The status of the file that it will replace.

    Returns:
        Its status.
    """
    descriptor = os.open(name, _CREATE, 0o600, dir_fd=directory)
    try:
        if like is not None and stat.S_ISREG(like.st_mode):
            _take_over(descriptor, like)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _take_over(descriptor: int, like: os.stat_result) -> None:
    """Give a new file the mode of the one it replaces, and its owner where that is allowed."""
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (like.st_uid, like.st_gid):
        with suppress(OSError):
            os.fchown(descriptor, like.st_uid, like.st_gid)
    mode = stat.S_IMODE(like.st_mode) & 0o777
    if stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(descriptor, mode)


def _reason(error: OSError) -> str:
    """What went wrong, in words that say what to do."""
    path = error.filename if isinstance(error.filename, str) else ""
    if isinstance(error, PermissionError):
        return f"permission denied{_owner(path)}; check its owner and mode"
    reason = _REASONS.get(error.errno or 0)
    if reason is not None:
        return reason
    return (error.strerror or type(error).__name__) + (f" ({path})" if path else "")


def _owner(path: str) -> str:
    """Who owns a path, or the deepest directory above it that can be looked at."""
    while os.path.isabs(path):
        try:
            status = os.lstat(path)
        except OSError:
            path = os.path.dirname(path)
            continue
        return (
            f": {path} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}"
            f", and this process runs as user {os.geteuid()}"
        )
    return ""
