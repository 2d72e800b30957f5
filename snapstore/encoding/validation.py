"""What JSON carries exactly: the check that a save makes, and the limit of depth both ways.

Texts, finite numbers, booleans and `None`, and the dicts, lists and tuples of them, load again as
they were saved. Everything else would load as something else, and is refused with the path to it.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Mapping
from math import isfinite, isnan
from types import MappingProxyType
from typing import Any, Final

from snapstore.errors import SnapshotEncodeError

__all__ = ["MAX_DEPTH", "is_too_deep", "validate_exact"]

MAX_DEPTH: Final = 200
"""How many objects and lists may lie in each other, the envelope included."""

# Python reads and writes integers of at most 4,300 digits
# (Python documentation, "Integer string conversion length limitation").
_INT_BOUND: Final = 10**4300

_SCALARS: Final[frozenset[type]] = frozenset({str, int, float, bool, type(None)})

_AT_ONCE: Final = 2**22
"""How many members may be looked at level by level, which takes memory for a level."""

_MANY: Final = 2**16
"""Objects and lists on one level from which on it matters whether they are always the same."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)


def validate_exact(
    document: dict[str, Any], max_members: int, labels: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Refuse a document that would not load as it is saved.

    Args:
        document: The fields of an object.
        max_members: How many members may lie in it at all depths together. What occurs many times
            is written many times, and each member takes a byte at least.
        labels: What fields are called in errors, where that is not their name.

    Raises:
        SnapshotEncodeError: It holds a value that JSON can't carry exactly, is more than
            `MAX_DEPTH` deep, or has too many members. The message has the path, never the value.
    """
    if not _is_exact(document, min(max_members, _AT_ONCE)):
        _Walk(max_members, labels).over(document, ())


def is_too_deep(document: Any, depth: int = 1) -> bool:
    """Whether objects and lists lie too deep in a document that was decoded.

    Args:
        document: A dict or a list.
        depth: How many objects and lists it lies in, itself included.
    """
    level = [document]
    for _ in range(depth, MAX_DEPTH):
        # The collector tracks no texts and numbers, and may leave out objects that hold nothing
        # else (Python documentation, `gc.is_tracked`), which matter only on the last level.
        level = list(filter(gc.is_tracked, gc.get_referents(*level)))
        if not level:
            return False
    return any(type(child) in (dict, list) for child in gc.get_referents(*level))


def _is_exact(document: dict[str, Any], room: int) -> bool:
    """Whether all is exact; `False` also where nothing is known.

    That is so where there are more members than there is room for, and where the same ones occur
    over and over. It is written for speed: level by level without a call for each container, exact
    types, the common ones first.
    """
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            room -= len(node)
            if room < 0:
                return False
            values = node
            if type(node) is dict:
                for key in node:
                    if type(key) is not str:
                        return False
                values = node.values()
            for value in values:
                kind = type(value)  # a subclass of str, int or dict would load as another type
                if kind is str:
                    continue
                if kind is dict or kind is list or kind is tuple:
                    below.append(value)
                elif kind is int:
                    if not -_INT_BOUND < value < _INT_BOUND:
                        return False
                elif kind is float:
                    if not isfinite(value):
                        return False
                elif value is not None and kind is not bool:
                    return False
        if not below:
            return True
        if len(below) > _MANY and len(set(map(id, below))) < len(below) // 2:
            return False
        level = below
    return False


class _Walk:
    """A look at each value of a document. What occurs twice is counted twice and looked at once."""

    def __init__(self, max_members: int, labels: Mapping[str, str]) -> None:
        self._max_members = max_members
        self._labels = labels
        # By id: how deep it was looked at, its members, and the container itself, so that no
        # other one has its id.
        self._seen: dict[int, tuple[int, int, Any]] = {}

    def over(self, node: Any, path: tuple[str, ...]) -> int:
        """Look at each value in a container, and return how many members lie in it."""
        if len(path) >= MAX_DEPTH:
            raise _refusal(path, f"more than {MAX_DEPTH} objects and lists deep")
        depth, members, _ = self._seen.get(id(node), (-1, 0, None))
        if depth >= len(path):
            return members
        members = len(node)
        is_dict = type(node) is dict
        for place, (key, value) in enumerate(_members_of(node)):
            why = None
            if is_dict and type(key) is not str:
                why = f"a key that is a {type(key).__name__}, not a str"
            elif type(value) not in (dict, list, tuple):
                why = _why_inexact(value)
                if why is None:
                    continue
            here = (*path, self._step(key, place, path) if is_dict else f"[{place}]")
            if why is not None:
                raise _refusal(here, why)
            members += self.over(value, here)
            if members > self._max_members:
                raise _refusal(here, "too large: more members than bytes are allowed")
        self._seen[id(node)] = (len(path), members, node)
        return members

    def _step(self, key: Any, place: int, path: tuple[str, ...]) -> str:
        """A step of a path; of a key that is not a plain name, and may be private, its place."""
        if type(key) is not str or not _PLAIN_KEY.fullmatch(key):
            return f"[key {place}]"
        return f".{key if path else self._labels.get(key, key)}"


def _members_of(node: Any) -> Iterable[tuple[Any, Any]]:
    return node.items() if type(node) is dict else enumerate(node)


def _why_inexact(value: Any) -> str | None:
    kind = type(value)
    if kind is float and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity"
    if kind is int and not -_INT_BOUND < value < _INT_BOUND:
        return "an integer of more than 4,300 digits"
    return None if kind in _SCALARS else f"a {kind.__qualname__}"


def _refusal(path: tuple[str, ...], why: str) -> SnapshotEncodeError:
    words = "".join(path).removeprefix(".")
    if len(words) > 200:
        words = f"{words[:100]}…{words[-99:]}"
    return SnapshotEncodeError(f"{words}: {why}")
