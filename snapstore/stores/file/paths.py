"""Keys as paths: what the names of directories and files may be."""

from __future__ import annotations

import os

from snapstore.errors import InvalidIdentifierError
from snapstore.stores.file.directories import DirectoryPath

__all__ = ["directory_of", "is_name", "segments_of"]


def segments_of(key: str) -> list[str]:
    """The directories and the file name of a key.

    Raises:
        InvalidIdentifierError: It is no path inside the root: a segment is empty, begins with `.`
            (which is kept for temporary files), has a NUL or more than 255 bytes, or is no text
            that a file name can be.
    """
    segments = key.split("/")
    if not all(map(is_name, segments)):
        raise InvalidIdentifierError(f"{key!a} can't be a file under a folder")
    return segments


def directory_of(key: str) -> DirectoryPath:
    """The directory that the file of a key lies in.

    Raises:
        InvalidIdentifierError: The key is no path inside the root.
    """
    return tuple(segments_of(key)[:-1])


def is_name(segment: str) -> bool:
    """Whether a segment of a key can be the name of a file or a directory."""
    try:
        length = len(os.fsencode(segment))
    except UnicodeEncodeError:
        return False
    return 0 < length <= 255 and not segment.startswith(".") and "\0" not in segment
