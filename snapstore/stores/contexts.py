"""Context variables that hold a value for as long as an operation is under way."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TypeVar

__all__ = ["restore"]

T = TypeVar("T")


def restore(variable: ContextVar[T], token: Token[T] | None) -> None:
    """Give a context variable the value that it had before it was set.

    Args:
        variable: The variable.
        token: What setting it returned; `None` if it was not set.
    """
    if token is None:
        return
    try:  # noqa: SIM105 -- `suppress` takes longer, and each operation comes here several times
        variable.reset(token)
    except ValueError:
        # A coroutine whose loop has ended is closed in another context, which has none of this.
        pass
