"""Whether this process can run another event loop in a thread, and words for why it can't.

Python starts no threads while the interpreter exits. gevent and eventlet replace threads by
greenlets, which share one thread, and so can't each run an event loop.
"""

from __future__ import annotations

import sys
import threading

from snapstore.errors import LifecycleError

__all__ = ["is_exiting", "require_threads"]


def require_threads(what: str) -> None:
    """Raise an error if no thread can be started that runs an event loop of its own.

    Args:
        what: What needs the thread, for the error.

    Raises:
        LifecycleError: The interpreter is exiting, or gevent or eventlet has replaced what threads
            are made of.
    """
    if is_exiting():
        raise LifecycleError(
            f"{what} can't be opened while the interpreter exits, since no threads are started "
            "any more: save before the main thread ends"
        )
    green = _replaced_by()
    if green is not None:
        raise LifecycleError(
            f"{what} needs the threads of Python, which {green} has replaced: it works only where "
            f"{green} does not patch the standard library"
        )


def is_exiting() -> bool:
    """Whether the main thread has ended, after which Python starts no threads for work."""
    return not threading.main_thread().is_alive()


def _replaced_by() -> str | None:
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and any(
        gevent.is_module_patched(name) for name in ("threading", "queue", "select")
    ):
        return "gevent"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None
