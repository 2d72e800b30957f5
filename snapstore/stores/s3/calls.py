"""What a call of the aiobotocore client really sends: each request, and how each try of it ends.

A call reports its last try alone, and an exception does not tell whether anything was sent. Two of
the client's events tell: `before-send`, emitted for each request, and `needs-retry`, emitted with
the end of each try. The hooks registered here note both in the `Call` under way, which is a context
variable, so that calls at the same time are told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from snapstore.stores.readback import Ending, Write
from snapstore.stores.s3.signing import signed_host

__all__ = ["Call", "register_hooks", "unregister_hooks"]

_call: ContextVar[Call | None] = ContextVar("snapstore_call", default=None)


class Call:
    """One call of the store, by whichever path.

    Args:
        write: The write that it makes, which learns how each try ends.
        tries_left: How many tries it may have in all; `None` for no limit.
        one_try: Whether a generic call makes one try of it, whatever the client would do.
        dry_run: Whether its request is prepared and signed, and then not sent.

    Attributes:
        requests: The requests of a generic call, as they were sent.
        tries: How often something was sent.
    """

    def __init__(
        self,
        *,
        write: Write | None = None,
        tries_left: int | None = None,
        one_try: bool = False,
        dry_run: bool = False,
    ) -> None:
        self.write = write
        self.tries_left = tries_left
        self.one_try = one_try
        self.dry_run = dry_run
        self.requests: list[Any] = []
        self.tries = 0

    @property
    def is_last_try(self) -> bool:
        """Whether nothing more may be sent."""
        return self.tries_left is not None and self.tries >= self.tries_left

    @classmethod
    def current(cls) -> Call:
        """The call under way; one that nobody looks at, where there is none."""
        return _call.get() or cls()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Make it the call under way."""
        token = _call.set(self)
        try:
            yield
        finally:
            _call.reset(token)

    def sent(self) -> None:
        """Note that a request is being sent."""
        self.tries += 1
        if self.write is not None:
            self.write.sent()

    def ended(self, ending: Ending) -> None:
        """Note how the try under way has ended."""
        if self.write is not None:
            self.write.ended(ending)


def register_hooks(client: Any) -> None:
    """Watch the calls of a client. As many as there are stores on it may do so."""
    events = client.meta.events
    events.register("before-send.s3", _before_send, **_options("before-send"))
    events.register_first("needs-retry.s3", _needs_retry, **_options("needs-retry"))


def unregister_hooks(client: Any) -> None:
    """Stop watching."""
    events = client.meta.events
    events.unregister("before-send.s3", _before_send, **_options("before-send"))
    events.unregister("needs-retry.s3", _needs_retry, **_options("needs-retry"))


def _options(event: str) -> dict[str, Any]:
    return {"unique_id": f"snapstore-{event}", "unique_id_uses_count": True}


class _NotSent:
    """Stands for the response to a request that is not sent."""

    status_code = 412
    headers: Final[Mapping[str, str]] = {}

    @property
    async def content(self) -> bytes:
        return b"<Error><Code>NotSent</Code></Error>"


def _before_send(request: Any, **_: Any) -> _NotSent | None:
    """Note a request. A response is one to do without sending it."""
    call = _call.get()
    if call is None:
        return None
    # aiohttp sends the host as the URL spells it, whose letters botocore signs in lower case.
    request.headers["Host"] = signed_host(request.url)
    call.requests.append(request)
    if call.dry_run:
        return _NotSent()
    call.sent()
    return None


def _needs_retry(
    response: tuple[Any, Mapping[str, Any]] | None, caught_exception: Exception | None, **_: Any
) -> bool | None:
    """Note how a try ended. `False` keeps the client from another one, `None` leaves it to it."""
    call = _call.get()
    if call is None or call.dry_run:
        return None
    from snapstore.stores.s3.errors import ending_of, is_wrong_region

    if response is not None:
        call.ended(ending_of(response[1]))
    elif caught_exception is not None:
        call.ended(ending_of(caught_exception))
    if not (call.one_try or call.is_last_try):
        return None
    # To send it to the bucket's region is no retry.
    return None if response is not None and is_wrong_region(response[1]) else False
