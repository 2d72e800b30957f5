"""Directories under a root, opened name by name so that no symbolic link is followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from snapstore.errors import StorageError
from snapstore.stores.file.locks import LOCK_FILE, lock_directory

__all__ = [
    "TEMPORARY",
    "DirectoryPath",
    "DirectoryTree",
    "LockedDirectory",
    "naming",
    "sync_directory",
    "unlink",
]

DirectoryPath = tuple[str, ...]
"""The names from the root to a directory; `()` is the root."""

TEMPORARY: Final = ".snapstore-"
"""What the names of unfinished files begin with."""

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_CHILD: Final = _OPEN | os.O_NOFOLLOW
_PRIVATE: Final = 0o700
_NAMES_IN_A_PATH: Final = 15
"""As many names of 255 bytes as fit into a path of 4,096 (limits.h, PATH_MAX)."""
_NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY})
_NO_SYNC: Final = frozenset(
    {errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
)


class LockedDirectory(NamedTuple):
    """A directory whose lock is held.

    Attributes:
        path: Its absolute path.
        descriptor: A descriptor of it.
        parent: A descriptor of the directory it lies in; `None` for the root.
        check: To be called before something in it is replaced: see `lock_directory`.
    """

    path: str
    descriptor: int
    parent: int | None
    check: Callable[[], None]

    def remove_if_empty(self) -> bool:
        """Remove the directory if nothing is left in it; the root stays.

        Returns:
            Whether it was removed.
        """
        if self.parent is None:
            return False
        # Removing one that is not empty may fail for another reason first, like a permission.
        with os.scandir(self.descriptor) as entries:
            if any(entry.name != LOCK_FILE for entry in entries):
                return False
        unlink(LOCK_FILE, self.descriptor)
        parent, name = os.path.split(self.path)
        try:
            os.rmdir(name, dir_fd=self.parent)
        except OSError as error:
            if error.errno in _NOT_EMPTY:
                return False
            error.filename = parent
            raise
        return True


class DirectoryTree:
    """The directories under a root.

    The `filename` of an `OSError` of its methods is the absolute path of what could not be used.

    Args:
        root: The absolute path of the root. It may be a symbolic link; nothing under it may.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, *names: str) -> str:
        """The absolute path of something under the root."""
        return os.path.join(self.root, *names)

    @contextmanager
    def open(self, path: DirectoryPath, *, create: bool = False) -> Iterator[int]:
        """Open a directory.

        Args:
            path: The directory.
            create: Whether missing directories are made, for their owner alone (0700).

        Yields:
            A descriptor.

        Raises:
            StorageError: A part of the path is a symbolic link, or the root is no directory.
            OSError: It can't be opened.
        """
        try:
            if create:
                self._create_root()
            descriptor = os.open(self.root, _OPEN)
        except NotADirectoryError as error:
            raise self._root_is_no_directory() from error
        try:
            for depth in range(1, len(path) + 1):
                child = self._open_child(path, depth, descriptor, create=create)
                os.close(descriptor)
                descriptor = child
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def lock(self, path: DirectoryPath, *, create: bool = False) -> Iterator[LockedDirectory]:
        """Open a directory and hold its lock.

        Args:
            path: The directory.
            create: As for `open`.

        Raises:
            LockedElsewhereError: Another holds the lock.
            OSError: As for `open`; with `ESTALE` if others remove or replace the directory at the
                same time, so that it has to be locked again.
        """
        name = self.path(*path)
        last = path or (".",)
        opened = False
        try:
            with self.open(path[:-1], create=create) as parent, naming(name):
                descriptor = self._open_child(last, len(last), parent, create=create)
                opened = True
                try:
                    with lock_directory(descriptor) as check:
                        if not os.path.samestat(os.fstat(descriptor), self._status(path)):
                            raise FileNotFoundError
                        yield LockedDirectory(name, descriptor, parent if path else None, check)
                finally:
                    os.close(descriptor)
        except FileNotFoundError as error:
            if not (create or opened):
                raise
            raise OSError(errno.ESTALE, "others keep removing or replacing it", name) from error

    def symbolic_link(self, path: str) -> StorageError:
        """The error for a symbolic link.

        Args:
            path: Its path under the root.
        """
        return StorageError(
            f"{path} in {self.root} is a symbolic link, which is not followed",
            bucket=self.root,
            key=path,
            code="ELOOP",
        )

    def _open_child(self, path: DirectoryPath, depth: int, parent: int, *, create: bool) -> int:
        name = path[depth - 1]
        try:
            try:
                return os.open(name, _OPEN_CHILD, dir_fd=parent)
            except FileNotFoundError:
                if not create:
                    raise
            _make_directory(name, parent)
            return os.open(name, _OPEN_CHILD, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    raise self.symbolic_link("/".join(path[:depth])) from None
            error.filename = self.path(*path[:depth])
            raise

    def _status(self, path: DirectoryPath) -> os.stat_result:
        """The status of a directory, to compare: here it does not matter what a link leads to."""
        descriptor = os.open(self.root, _OPEN)
        try:
            for start in range(0, len(path), _NAMES_IN_A_PATH):
                part = os.path.join(*path[start : start + _NAMES_IN_A_PATH])
                child = os.open(part, _OPEN, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = child
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _create_root(self) -> None:
        missing: list[str] = []
        path = self.root
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for path in reversed(missing):
            with naming(path):
                parent = os.open(os.path.dirname(path), _OPEN)
                try:
                    _make_directory(os.path.basename(path), parent)
                finally:
                    os.close(parent)
        if missing and not os.path.isdir(self.root):
            raise self._root_is_no_directory()

    def _root_is_no_directory(self) -> StorageError:
        return StorageError(
            f"{self.root} is not a directory; choose another root", bucket=self.root
        )


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Let the `filename` of an `OSError` be an absolute path.

    Args:
        path: What a relative `filename` is relative to, and what the error is about without one.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str):
            path = os.path.join(path, error.filename)
        error.filename = path
        raise


def sync_directory(descriptor: int) -> bool:
    """Make the names in a directory durable.

    Returns:
        Whether the file system can do that. SMB and the shared folders of virtual machines can't
        (python-atomicwrites #27; PostgreSQL's `fsync_fname_ext` takes it the same way).
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
        return False
    return True


def unlink(name: str, directory: int) -> None:
    """Remove a file. None of that name, or a directory, is no error.

    Args:
        name: Its name.
        directory: A descriptor of the directory it lies in.
    """
    try:
        os.unlink(name, dir_fd=directory)
    except (FileNotFoundError, IsADirectoryError):
        return


def _make_directory(name: str, parent: int) -> None:
    try:
        os.mkdir(name, _PRIVATE, dir_fd=parent)
    except FileExistsError:
        return
    sync_directory(parent)
