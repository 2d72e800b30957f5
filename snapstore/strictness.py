"""What JSON carries exactly: the check that a save makes, and the limit of depth both ways.

Texts, finite numbers, booleans and `None`, and the dicts, lists and tuples of them, load again as
they were saved. Everything else would load as something else, and is refused with the path to it.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable
from math import isfinite, isnan
from typing import Any, Final

from snapstore.errors import SnapshotEncodeError

__all__ = ["MAX_DEPTH", "is_too_deep", "refuse_inexact"]

MAX_DEPTH: Final = 200
"""How many objects and lists may lie in each other, the envelope included."""

# Python reads and writes integers of at most 4,300 digits
# (Python documentation, "Integer string conversion length limitation").
_INT_BOUND: Final = 10**4300

_SCALARS: Final[frozenset[type]] = frozenset({str, int, float, bool, type(None)})

_AT_ONCE: Final = 2**22
"""How many members may be looked at level by level, which takes memory for a level."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)


def refuse_inexact(document: dict[str, Any], max_members: int) -> None:
    """Refuse a document that would not load as it is saved.

    Args:
        document: The fields of an object.
        max_members: How many members may lie in it at all depths together. What occurs many times
            is written many times, and each member takes a byte at least.

    Raises:
        SnapshotEncodeError: It holds a value that JSON can't carry exactly, is more than
            `MAX_DEPTH` deep, or has too many members. The message has the path, never the value.
    """
    if not _is_exact(document, min(max_members, _AT_ONCE)):
        _walk(document, (), max_members)


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
    """Whether all is exact; `False` also where there are more members than there is room for.

    It is the larger part of a save of a large snapshot, and written for speed: level by level
    without a call for each container, exact types, the common ones first.
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
        level = below
    return False


def _walk(node: Any, path: tuple[str, ...], room: int) -> int:
    """Look at each value, and return how many members more there is room for."""
    if len(path) >= MAX_DEPTH:
        raise _refusal(path, f"more than {MAX_DEPTH} objects and lists deep")
    room -= len(node)
    if room < 0:
        raise _refusal(path, "too large: more members than bytes are allowed")
    is_dict = type(node) is dict
    for place, (key, value) in enumerate(_members_of(node)):
        why = None
        if is_dict and type(key) is not str:
            why = f"a key that is a {type(key).__name__}, not a str"
        elif type(value) not in (dict, list, tuple):
            why = _why_inexact(value)
            if why is None:
                continue
        here = (*path, _step(key, place) if is_dict else f"[{place}]")
        if why is not None:
            raise _refusal(here, why)
        room = _walk(value, here, room)
    return room


def _members_of(node: Any) -> Iterable[tuple[Any, Any]]:
    return node.items() if type(node) is dict else enumerate(node)


def _why_inexact(value: Any) -> str | None:
    kind = type(value)
    if kind is float and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity"
    if kind is int and not -_INT_BOUND < value < _INT_BOUND:
        return "an integer of more than 4,300 digits"
    return None if kind in _SCALARS else f"a {kind.__qualname__}"


def _step(key: Any, place: int) -> str:
    """A step of a path; of a key that is not a plain name, and may be private, its place."""
    return f".{key}" if type(key) is str and _PLAIN_KEY.fullmatch(key) else f"[key {place}]"


def _refusal(path: tuple[str, ...], why: str) -> SnapshotEncodeError:
    words = "".join(path).removeprefix(".")
    if len(words) > 200:
        words = f"{words[:100]}…{words[-99:]}"
    return SnapshotEncodeError(f"{words}: {why}")
