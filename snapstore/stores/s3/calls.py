"""What a call of the aiobotocore client really sends: each request, and the end of each attempt.

A call reports only its last attempt, and an exception does not tell whether anything was sent. Two
of the client's events do: `before-send`, emitted for each request, and `needs-retry`, emitted at
the end of each attempt. The hooks here record both in the active `Call`, which is a context
variable, so that concurrent calls are told apart.

The hook on `before-send` is also the capture hook of the fast path: it keeps the request, and in a
dry run answers it so that nothing is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any, Final, Literal

from snapstore.stores.readback import AttemptOutcome, Write
from snapstore.stores.recording import RequestLog
from snapstore.stores.s3.signing import signed_host

__all__ = ["Call", "register_hooks", "unregister_hooks"]

_call: ContextVar[Call | None] = ContextVar("snapstore_call", default=None)


class Call:
    """One call of the store, on either path. As a context manager, it is the active call.

    Args:
        write: The write that it makes, in which the end of each attempt is noted.
        attempts_left: The most attempts; `None` for no limit.
        single_attempt: Whether a slow call makes one attempt, however the client is configured.
        dry_run: Whether its request is prepared and signed, and then not sent.
        log: Where its requests are noted for the hook of the storage; `None` without one.

    Attributes:
        log: As the argument.
        requests: The requests of a slow call, as they were sent.
        attempts: How often something was sent.
    """

    def __init__(
        self,
        *,
        write: Write | None = None,
        attempts_left: int | None = None,
        single_attempt: bool = False,
        dry_run: bool = False,
        log: RequestLog | None = None,
    ) -> None:
        self.write = write
        self.log: RequestLog | None = log
        self.attempts_left = attempts_left
        self.single_attempt = single_attempt
        self.dry_run = dry_run
        self.requests: list[Any] = []
        self.attempts: int = 0
        self._token: Token[Call | None] | None = None

    @property
    def is_last_attempt(self) -> bool:
        """Whether nothing more may be sent."""
        return self.attempts_left is not None and self.attempts >= self.attempts_left

    @classmethod
    def current(cls) -> Call:
        """The active call; a new one that nobody looks at, if there is none."""
        return _call.get() or cls()

    def __enter__(self) -> None:
        self._token = _call.set(self)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _call.reset(self._token)
        # A connection keeps the context of the task that made it, and so this call. The body and
        # the signature must not live as long.
        self._token = None
        self.requests.clear()

    def sent(self, path: Literal["fast", "slow"]) -> None:
        """Note that a request is being sent, and on which path."""
        self.attempts += 1
        if self.log is not None:
            self.log.sent(path)
        if self.write is not None:
            self.write.sent()

    def ended(self, outcome: AttemptOutcome) -> None:
        """Note how the attempt in flight has ended."""
        if self.write is not None:
            self.write.ended(outcome)


def register_hooks(client: Any) -> None:
    """Record the calls of a client. Each store on it registers them once."""
    events = client.meta.events
    events.register("before-send.s3", _before_send, **_options("before-send"))
    events.register_first("needs-retry.s3", _needs_retry, **_options("needs-retry"))


def unregister_hooks(client: Any) -> None:
    """Undo one `register_hooks`."""
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
    """Record a request. The client takes a response that is returned here instead of sending it."""
    call = _call.get()
    if call is None:
        return None
    # aiohttp sends the host as the URL spells it, whose letters botocore signs in lower case.
    request.headers["Host"] = signed_host(request.url)
    call.requests.append(request)
    if call.dry_run:
        return _NotSent()
    call.sent("slow")
    return None


def _needs_retry(
    response: tuple[Any, Mapping[str, Any]] | None, caught_exception: Exception | None, **_: Any
) -> bool | None:
    """Note how an attempt ended. `False` forbids the client to retry, `None` leaves it to it."""
    call = _call.get()
    if call is None or call.dry_run:
        return None
    from snapstore.stores.s3.attempts import is_wrong_region, outcome_of

    if response is not None:
        if call.log is not None:
            call.log.answered(response[0].status_code)
        call.ended(outcome_of(response[1]))
    elif caught_exception is not None:
        call.ended(outcome_of(caught_exception))
    if not (call.single_attempt or call.is_last_attempt):
        return None
    # Sending it to the bucket's region is no retry.
    return None if response is not None and is_wrong_region(response[1]) else False
