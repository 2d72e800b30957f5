"""What is taken from the Strands SDK that it does not publish, in one place.

Its own storages share these, and a storage that is to look like one of them has no other way.
"""

from __future__ import annotations

from typing import Any, Final

try:
    from strands._context_manager import stash as _stash
    from strands.storage import storage as _storage
    from strands.types.exceptions import StorageError as SDKStorageError
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] != "strands":
        raise
    raise ModuleNotFoundError(
        "this needs the Strands SDK, 1.62 or newer: pip install 'snapstore[strands]'",
        name=_error.name,
    ) from None

__all__ = [
    "EPHEMERAL",
    "NAMESPACED",
    "STASH_PREFIX",
    "SDKStorageError",
    "is_namespaced",
    "normal_key",
    "normal_prefix",
]

STASH_PREFIX: Final[str] = _stash.STASH_PREFIX
"""What the keys of all stash begin with."""

EPHEMERAL: Final[object] = _storage._EPHEMERAL  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
"""Marks a storage that is gone with the process, so that snapshots carry the stash themselves."""

NAMESPACED: Final[object] = _storage._NAMESPACED  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
"""Marks a storage that is a view already, so that the SDK's managers add no prefix to it."""


def is_namespaced(storage: Any) -> bool:
    """Whether a storage is a view already."""
    return getattr(storage, "_namespaced", None) is NAMESPACED


def normal_key(key: str) -> str:
    """A key as the SDK's storages spell it: no empty segments.

    Raises:
        strands.types.exceptions.StorageError: It is empty, or has a `..` or a backslash.
    """
    return _storage._normalize_key(key)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def normal_prefix(prefix: str) -> str:
    """A prefix as the SDK's storages spell it: it may be empty, or end with `/`.

    Raises:
        strands.types.exceptions.StorageError: It has a `..` or a backslash.
    """
    return _storage._normalize_prefix(prefix)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
