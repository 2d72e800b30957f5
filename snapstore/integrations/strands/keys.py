"""Keys and prefixes, spelled as the SDK's own storages spell them, and validated."""

from __future__ import annotations

import re
from collections.abc import Callable

from snapstore.errors import InvalidIdentifierError
from snapstore.integrations.strands.errors import for_strands
from snapstore.integrations.strands.sdk import SDKStorageError, normal_key, normal_prefix
from snapstore.model.keys import MAX_KEY_BYTES

__all__ = ["extend_prefix", "normalize_key", "normalize_prefix", "prefix_of_view"]

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


def normalize_key(key: str) -> str:
    """Spell a key: without empty segments.

    Raises:
        InvalidIdentifierError: It is empty, or has a `..` segment, a backslash or half of a
            surrogate pair.
    """
    return _normalized(normal_key, key)


def normalize_prefix(prefix: str) -> str:
    """Spell the prefix of a listing: without empty segments, but it may end with `/`.

    Raises:
        InvalidIdentifierError: It has a `..` segment, a backslash or half of a surrogate pair.
    """
    return _normalized(normal_prefix, prefix)


def extend_prefix(base: str, prefix: str) -> str:
    """Put a prefix of a storage behind what its keys begin with already.

    Args:
        base: What all keys begin with; `""`, or it ends with `/`.
        prefix: The prefix; `""` for none. As in the SDK, `/` is added to it, also where it ends
            with one.

    Raises:
        InvalidIdentifierError: It can't be part of a key, or leaves no room for one.
    """
    normalized = normalize_prefix(prefix)
    if not normalized:
        return base
    if _CONTROL_CHARACTER.search(normalized):
        raise for_strands(InvalidIdentifierError("prefix must not contain control characters"))
    extended = f"{base}{normalized}/"
    length = len(extended.encode())
    if length >= MAX_KEY_BYTES:
        raise for_strands(
            InvalidIdentifierError(
                f"prefix is too long: a key has {MAX_KEY_BYTES} bytes at the most, and {length} "
                "of them come before it"
            )
        )
    return extended


def prefix_of_view(base: str, name: str) -> str:
    """Put the name of a view behind what the keys of a storage begin with.

    Args:
        base: What all keys of the storage begin with.
        name: The name: one segment, or several between `/`.

    Raises:
        InvalidIdentifierError: It is empty, or can't be part of a key, or leaves no room for one.
    """
    return extend_prefix(base, normalize_key(name))


def _normalized(normalize: Callable[[str], str], key: str) -> str:
    try:
        normalized = normalize(key)
        normalized.encode()
    except SDKStorageError as error:
        failure = InvalidIdentifierError(str(error))
    except UnicodeEncodeError as error:
        failure = InvalidIdentifierError(
            f"Invalid storage key: character {error.start} is half of a surrogate pair, as of an "
            "emoji cut in two; cut texts between characters"
        )
    else:
        return normalized
    # Raised here, since an error in its chain would show the key.
    raise for_strands(failure)
