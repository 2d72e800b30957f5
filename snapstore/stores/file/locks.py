"""Exclusive locks on directories, between threads and between the processes of one host.

The lock is a flock(2) on the directory itself. Nothing has to be made for it, so it works on a full
disk; no lock file can belong to another user or be removed by a cleaner; and the kernel keeps the
lock of a directory itself, also on NFS and SMB, whose servers are not asked. Where a file system
locks no directories, a file in the directory is locked instead. It is opened for writing, since
file systems that turn flock into record locks demand that for an exclusive lock (flock(2), "NFS
details"; etcd #5537).

A lock belongs to the open file, which a forked child shares: closing a descriptor does not release
the lock while a child has a copy. So a lock is released explicitly, and a child closes its copies,
which would otherwise keep the lock of a parent that is killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

__all__ = ["LOCK_FILE", "LockedElsewhereError", "lock_directory"]

LOCK_FILE: Final = ".snapstore.lock"
"""The file that is locked where directories can't be."""

_OPEN_LOCK_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_UNSUPPORTED: Final = frozenset(
    {
        errno.EBADF,
        errno.EINVAL,
        errno.EISDIR,
        errno.ENOLCK,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
    }
)

_descriptors: set[int] = set()
"""What this process has locked or is about to lock."""


class LockedElsewhereError(Exception):
    """Another thread or process holds the lock."""


@contextmanager
def lock_directory(directory: int) -> Iterator[Callable[[], None]]:
    """Hold the lock of a directory.

    Args:
        directory: A descriptor of the directory.

    Yields:
        A function to call before what the lock protects is changed: it raises
        `LockedElsewhereError` if the lock file was removed, so that another may hold the lock, too.
        The lock of a directory can't get lost.

    Raises:
        LockedElsewhereError: Another holds it. Nothing waits here.
        OSError: The file system has no locks, or the lock file can't be opened.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(_flock(directory))
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            yield _nothing_to_check
            return
        descriptor = os.open(LOCK_FILE, _OPEN_LOCK_FILE, 0o600, dir_fd=directory)
        stack.callback(os.close, descriptor)
        stack.enter_context(_flock(descriptor))

        def check() -> None:
            try:
                named = os.stat(LOCK_FILE, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                raise LockedElsewhereError from None
            if not os.path.samestat(os.fstat(descriptor), named):
                raise LockedElsewhereError

        check()
        yield check


@contextmanager
def _flock(descriptor: int) -> Iterator[None]:
    _descriptors.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedElsewhereError from None
        try:
            yield
        finally:
            # If it fails, the descriptor's end releases the lock.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        _descriptors.discard(descriptor)


def _nothing_to_check() -> None:
    return


def _close_copies() -> None:
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


# The threads that use the descriptors do not exist in the child, so nothing else closes them there.
os.register_at_fork(after_in_child=_close_copies)
