"""The files under a root: read, replaced and deleted. All of it may block."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from contextlib import suppress
from typing import Final

from snapstore.errors import StorageError
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
from snapstore.stores.file.errors import translate
from snapstore.stores.file.paths import directory_of, segments_of

__all__ = ["FileTree"]

# Without O_NONBLOCK, opening a named pipe would wait for its writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class FileTree:
    """The files under a root, one for each key.

    Its methods raise `OSError`, which `errors.call` turns into `StorageError`, and those that need
    the lock of a directory raise `LockedElsewhereError`.

    Args:
        root: The absolute path of the root.

    Attributes:
        name: The same.
        tree: The directories that the files lie in.
    """

    def __init__(self, root: str) -> None:
        self.name = root
        self.tree: DirectoryTree = DirectoryTree(root)

    def get(self, key: str, max_bytes: int | None) -> StoredObject | None:
        """See `ObjectStore.get`; `None` for a file of any size."""
        *directory, name = segments_of(key)
        try:
            with self.tree.open(tuple(directory)) as descriptor:
                data = self._read(descriptor, name, key, max_bytes)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if data is None else StoredObject(data, content_version(data))

    def put(self, key: str, data: bytes, if_match: Version | None, if_none_match: bool) -> Version:
        """See `ObjectStore.put`."""
        *directory, name = segments_of(key)
        try:
            with self.tree.lock(tuple(directory), create=if_match is None) as target:
                if if_none_match or if_match is not None:
                    stored = self._read(target.descriptor, name, key, None)
                    if if_none_match and stored is not None:
                        raise self._precondition_failed(key, "it exists", "put")
                    if if_match is not None and (
                        stored is None or content_version(stored).etag != if_match.etag
                    ):
                        why = "it is not at the version expected"
                        is_missing = stored is None
                        raise self._precondition_failed(key, why, "put", is_missing=is_missing)
                self._replace(target, name, key, data)
        except (FileNotFoundError, NotADirectoryError):
            if if_match is None:
                raise
            why = "it does not exist"
            raise self._precondition_failed(key, why, "put", is_missing=True) from None
        return content_version(data)

    def copy(self, source: str, key: str) -> Version | None:
        """See `CopyingStore.copy`. The file is read, and written as `put` does."""
        stored = self.get(source, None)
        return None if stored is None else self.put(key, stored.data, None, False)

    def delete_if_match(self, key: str, version: Version) -> None:
        """See `ConditionalDeleteStore.delete_if_match`."""
        *directory, name = segments_of(key)
        try:
            with self.tree.lock(tuple(directory)) as target:
                stored = self._read(target.descriptor, name, key, None)
                if stored is None or content_version(stored).etag != version.etag:
                    why = "it is not at the version expected"
                    is_missing = stored is None
                    raise self._precondition_failed(key, why, "delete", is_missing=is_missing)
                target.check()
                with naming(target.path):  # whose mode says who may delete
                    # If it is missing now, NFS has repeated our own request.
                    unlink(name, target.descriptor)
                self._sync(target.descriptor, "delete", key)
        except (FileNotFoundError, NotADirectoryError):
            why = "it does not exist"
            raise self._precondition_failed(key, why, "delete", is_missing=True) from None

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
                    raise translate(
                        error, self.name, "put", key, happened=happened, outcome="unknown"
                    ) from error
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
            raise translate(
                error, self.name, operation, key, happened=happened, outcome="applied"
            ) from error

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
                        failed[key] = translate(error, self.name, "delete", key)
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
        self, key: str, why: str, operation: str, *, is_missing: bool = False
    ) -> PreconditionFailedError:
        return PreconditionFailedError(
            f"{key} in {self.name}: {why}",
            is_missing=is_missing,
            operation=operation,
            bucket=self.name,
            key=key,
        )


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
