"""What can be found out about the file system of a root, by trying it."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from snapstore.stores.base import Finding
from snapstore.stores.file.directories import (
    TEMPORARY,
    DirectoryPath,
    DirectoryTree,
    sync_directory,
    unlink,
)
from snapstore.stores.file.locks import LockedElsewhereError, lock_directory

__all__ = ["inspect_directory"]

_NAME: Final = f"{TEMPORARY}inspected"
_NEXT: Final = f"{TEMPORARY}next"
_REPLACEMENTS: Final = 50
_MOUNTS: Final = "/proc/self/mountinfo"
_IN_MEMORY: Final = frozenset({"ramfs", "tmpfs"})
_OF_ONE_HOST: Final = _IN_MEMORY | {
    *("bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "jfs", "msdos"),
    *("ntfs", "ntfs3", "overlay", "reiserfs", "vfat", "xfs", "zfs"),
}
"""Types of file systems that only one host mounts at a time."""


def inspect_directory(tree: DirectoryTree, path: DirectoryPath) -> list[Finding]:
    """Find out what the file system keeps of what is promised for files.

    Args:
        tree: Where the directory lies.
        path: The directory; it is made, and the caller removes it.

    Returns:
        Findings about `"locks"`, `"replacing"`, `"durability"`, `"permissions"` and `"hosts"`.

    Raises:
        OSError: Nothing can be written there.
    """
    with tree.open(path, create=True) as directory:
        kind = _type_of_file_system(os.path.realpath(tree.root))
        try:
            return [
                _locks(directory),
                _replacing(directory),
                _durability(directory, kind),
                _permissions(directory, tree.root),
                _hosts(kind),
            ]
        finally:
            for name in (_NAME, _NEXT):
                unlink(name, directory)


def _locks(directory: int) -> Finding:
    with _opened(".", os.O_RDONLY | os.O_DIRECTORY, directory) as other:
        try:
            with lock_directory(directory), suppress(LockedElsewhereError), lock_directory(other):
                return Finding(
                    "locks",
                    "failed",
                    "accepted, but not kept: if_match, update_latest and history lose updates as "
                    "soon as there are two writers; choose another root",
                )
        except OSError as error:
            words = f"the file system has none, so nothing can be saved: {error.strerror}"
            return Finding("locks", "failed", words)
    return Finding("locks", "ok", "kept between the processes of this host")


def _replacing(directory: int) -> Finding:
    """Replace a file many times while a thread opens it all the time."""
    _write(_NAME, b"old", directory)
    problems: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                with _opened(_NAME, os.O_RDONLY, directory) as descriptor:
                    if len(os.read(descriptor, 4)) != 3:
                        problems.append("it is not whole")
            except OSError as error:
                problems.append(error.strerror or type(error).__name__)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with _opened(_NAME, os.O_RDONLY, directory) as old:
            for _ in range(_REPLACEMENTS):
                _write(_NEXT, b"new", directory)
                os.replace(_NEXT, _NAME, src_dir_fd=directory, dst_dir_fd=directory)
            if os.read(old, 4) != b"old":
                problems.append("who has it open does not read it to its end")
    except OSError as error:
        problems.append(error.strerror or type(error).__name__)
    finally:
        done.set()
        reader.join()
    if problems:
        return Finding(
            "replacing",
            "failed",
            f"a file that is replaced while it is read fails: {problems[0]}; saves and loads at "
            "the same time fail or find nothing; choose another root",
        )
    return Finding("replacing", "ok", "readers see the old file or the new one, and nothing else")


def _durability(directory: int, kind: str | None) -> Finding:
    if kind in _IN_MEMORY:
        words = f"the file system is in memory ({kind}): nothing survives a restart of the machine"
        return Finding("durability", "warning", words)
    try:
        durable = sync_directory(directory)
    except OSError as error:
        words = f"the directory can't be synced, so saves are errors: {error.strerror}"
        return Finding("durability", "failed", words)
    if durable:
        return Finding("durability", "ok", "files and directories are synced")
    return Finding(
        "durability",
        "warning",
        "the file system syncs no directories: after a crash of the machine, what was saved or "
        "deleted last may not be",
    )


def _permissions(directory: int, root: str) -> Finding:
    with _opened(_NAME, os.O_RDONLY, directory) as file:
        modes = [os.fstat(descriptor).st_mode for descriptor in (file, directory)]
    if any(map(_is_open_to_others, modes)):
        words = "the file system keeps no modes: who can reach it can read what is saved"
        return Finding("permissions", "warning", words)
    if _is_open_to_others(os.stat(root).st_mode):
        return Finding(
            "permissions",
            "warning",
            "what is saved is its owner's alone, but others may see which sessions there are, and "
            f"read older files that are open to them: chmod -R go= {root}",
        )
    return Finding("permissions", "ok", "what is saved is its owner's alone")


def _hosts(kind: str | None) -> Finding:
    if kind in _OF_ONE_HOST:
        return Finding("hosts", "ok", f"a file system of this host ({kind})")
    known = "a file system of unknown type" if kind is None else f"a file system of type {kind}"
    return Finding(
        "hosts",
        "unknown" if kind is None else "warning",
        f"{known}: if other hosts have it, too, then if_match, update_latest and history lose "
        "updates between hosts, since locks hold on one host",
    )


def _type_of_file_system(path: str) -> str | None:
    """The type of the file system a path lies on, where Linux tells (proc(5), mountinfo)."""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return None
    kinds: dict[str, str] = {}
    for fields in mounts:
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        kinds[point] = fields[fields.index("-") + 1]  # of two at one point, the later hides
    while path not in kinds and path != "/":
        path = os.path.dirname(path)
    return kinds.get(path)


def _is_open_to_others(mode: int) -> bool:
    return bool(stat.S_IMODE(mode) & 0o077)


def _write(name: str, data: bytes, directory: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with _opened(name, flags, directory) as descriptor:
        os.write(descriptor, data)


@contextmanager
def _opened(name: str, flags: int, directory: int) -> Iterator[int]:
    descriptor = os.open(name, flags | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
