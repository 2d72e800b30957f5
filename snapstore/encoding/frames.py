"""Errors without the frames that held what they are about.

Error trackers send the local variables of every frame of a traceback. The frames of an encoder or
a decoder hold a conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

__all__ = ["drop_frames", "drop_frames_of_coroutine"]

P = ParamSpec("P")
R = TypeVar("R")


def drop_frames(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function's errors start where it was called.

    Their traceback has neither the function's frame nor those below it, and one frame instead that
    holds no argument.
    """

    @wraps(function)
    def without_frames(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 -- it is raised below
            caught = error.with_traceback(None)
        del args, kwargs
        try:
            raise caught
        finally:
            del caught

    return without_frames


def drop_frames_of_coroutine(
    function: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Do for a coroutine function what `drop_frames` does for a function."""

    @wraps(function)
    async def without_frames(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 -- it is raised below
            caught = error.with_traceback(None)
        del args, kwargs
        try:
            raise caught
        finally:
            del caught

    return without_frames
