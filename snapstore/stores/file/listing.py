"""The keys under a prefix, in ascending order, from the directories that they lie in. It may block.

A walk keeps the entries of one directory of each level in memory. Directories sort with their `/`,
as their keys do: `a-b` before `a/b`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby

from snapstore.errors import StorageError
from snapstore.stores.capabilities import ObjectDetails
from snapstore.stores.file.directories import DirectoryPath, DirectoryTree, naming
from snapstore.stores.file.paths import directory_of, is_name

__all__ = ["FileListing"]


class FileListing:
    """Lists the files under a root. Its methods raise `OSError`.

    Args:
        tree: The directories under the root.
    """

    def __init__(self, tree: DirectoryTree) -> None:
        self._tree = tree

    def directories(self, prefix: str) -> list[DirectoryPath]:
        """The directory that a prefix names, which may be missing, and all directories in it."""
        *path, _ = prefix.split("/")
        if not all(map(is_name, path)):
            return []
        found: list[DirectoryPath] = []
        pending = [tuple(path)]
        while pending:
            found.append(directory := pending.pop())
            with (
                suppress(FileNotFoundError, NotADirectoryError),
                self._tree.open(directory) as descriptor,
                os.scandir(descriptor) as entries,
            ):
                pending += [
                    (*directory, entry.name)
                    for entry in entries
                    if is_name(entry.name) and entry.is_dir(follow_symlinks=False)
                ]
        return found

    def keys(self, prefix: str, start_after: str | None) -> Iterator[str]:
        """All keys under a prefix, ascending."""
        pending = self._first(prefix)
        while pending:
            key = pending.pop()
            if not key.startswith(prefix):
                continue
            if not key.endswith("/"):
                if _is_after(key, start_after):
                    yield key
            elif _may_hold_keys_after(key, start_after):
                pending += self._children(key)

    def details(self, keys: list[str]) -> list[ObjectDetails]:
        """What the file system tells of the files of keys, in their order; of missing ones nothing.

        Args:
            keys: Keys, ascending.

        Raises:
            StorageError: One is not a regular file.
        """
        found: list[ObjectDetails] = []
        for directory, group in groupby(keys, key=directory_of):
            with (
                suppress(FileNotFoundError, NotADirectoryError),
                self._tree.open(directory) as descriptor,
                naming(self._tree.path(*directory)),
            ):
                for key in group:
                    with suppress(FileNotFoundError):
                        found.append(self._details(key, descriptor))
        return found

    def prefixes(self, prefix: str, delimiter: str, start_after: str | None) -> Iterator[str]:
        """The different beginnings of keys up to a delimiter, ascending: see `DelimiterStore`.

        Of what lies under a beginning that was found, nothing more is read.
        """
        # A file's name has no "/", so only directories have a delimiter that ends with one.
        directories_only = delimiter.endswith("/")
        pending = self._first(prefix, directories_only=directories_only)
        last: str | None = None
        while pending:
            key = pending.pop()
            if not key.startswith(prefix):
                continue
            is_directory = key.endswith("/")
            end = key.find(delimiter, len(prefix))
            if end < 0:
                if is_directory and _may_hold_keys_after(key, start_after):
                    pending += self._children(key, directories_only=directories_only)
                continue
            beginning = key[: end + len(delimiter)]
            if (
                beginning != last
                and _is_after(key, start_after)
                and not (start_after or "").startswith(beginning)
                and (not is_directory or self._has_keys(key))
            ):
                yield beginning
                last = beginning

    def _first(self, prefix: str, *, directories_only: bool = False) -> list[str]:
        """What lies in the directory that the keys under a prefix share, as `_children`."""
        *directory, _ = prefix.split("/")
        if not all(map(is_name, directory)):
            return []  # no key lies in any other
        base = "".join(f"{segment}/" for segment in directory)
        return self._children(base, directories_only=directories_only)

    def _children(self, base: str, *, directories_only: bool = False) -> list[str]:
        """The keys directly in a directory, and those of its directories with a "/", descending."""
        try:
            with self._tree.open(_path(base)) as descriptor, os.scandir(descriptor) as entries:
                found = [
                    f"{base}{entry.name}/" if self._is_directory(entry, base) else base + entry.name
                    for entry in entries
                    if not entry.name.startswith(".")
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        if directories_only:
            found = [key for key in found if key.endswith("/")]
        return sorted(found, reverse=True)

    def _has_keys(self, base: str) -> bool:
        """Whether there is a file in a directory, or in one under it."""
        pending = [base]
        while pending:
            base = pending.pop()
            with (
                suppress(FileNotFoundError, NotADirectoryError),
                self._tree.open(_path(base)) as descriptor,
                os.scandir(descriptor) as entries,
            ):
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if not self._is_directory(entry, base):
                        return True
                    pending.append(f"{base}{entry.name}/")
        return False

    def _is_directory(self, entry: os.DirEntry[str], base: str) -> bool:
        try:
            return entry.is_dir()
        except OSError:
            # Of a symbolic link to itself, or into what this user may not enter.
            if entry.is_symlink():
                raise self._tree.symbolic_link(base + entry.name) from None
            raise

    def _details(self, key: str, directory: int) -> ObjectDetails:
        status = os.stat(key.rpartition("/")[2], dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            raise self._tree.symbolic_link(key)
        if not stat.S_ISREG(status.st_mode):
            raise (
                FileNotFoundError
                if stat.S_ISDIR(status.st_mode)
                else self._unusable(key, "is not a regular file")
            )
        try:
            modified = datetime.fromtimestamp(status.st_mtime, UTC)
        except (OverflowError, ValueError):
            raise self._unusable(key, "has a time of change that no calendar has") from None
        return ObjectDetails(key, status.st_size, modified, None)

    def _unusable(self, key: str, why: str) -> StorageError:
        root = self._tree.root
        return StorageError(f"{key} in {root} {why}", operation="scan", bucket=root, key=key)


def _path(base: str) -> DirectoryPath:
    """The directory of keys that begin with a text that ends with "/", or is empty."""
    return tuple(base.split("/")[:-1])


def _is_after(key: str, start_after: str | None) -> bool:
    return start_after is None or key > start_after


def _may_hold_keys_after(directory: str, start_after: str | None) -> bool:
    return start_after is None or directory > start_after or start_after.startswith(directory)
