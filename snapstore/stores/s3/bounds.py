"""Limits for the size of responses.

Callers limit the body of an object. All other responses are read whole, so each has a limit here,
on the fast path and in `HTTPSession`.
"""

from __future__ import annotations

from typing import Any, Final

from snapstore.stores.base import Body

__all__ = ["ReplyTooLargeError", "read_bounded"]

_MAX_XML: Final = 16 * 2**20
"""The most bytes of a listing, or of the response to a delete. 1,000 keys of 1,024 bytes each, all
percent-encoded, take about 4 MB."""

_MAX_REPLY: Final = 64 * 2**10
"""The most bytes of any other response: an error, or that to a write."""

_LISTS: Final = frozenset({"GET", "POST"})


class ReplyTooLargeError(Exception):
    """A good response is larger than its limit; the rest of it has not been read."""


async def read_bounded(reply: Any) -> bytes:
    """Read the body of a response that is not an object.

    Args:
        reply: An `aiohttp.ClientResponse` or a `Response` whose body has not been read.

    Returns:
        The body. Of an error that is larger than its limit only the beginning: the status tells
        enough.

    Raises:
        ReplyTooLargeError: It is a good response, and larger than its limit.
    """
    is_good = reply.status < 300
    limit = _MAX_XML if is_good and reply.method in _LISTS else _MAX_REPLY
    chunks: list[Body] = []
    read, is_whole = 0, False
    try:
        while read <= limit and not is_whole:
            chunks.append(Body(await reply.content.readany()))
            read += len(chunks[-1])
            is_whole = not chunks[-1]
    finally:
        if not is_whole:
            reply.close()  # a connection with an unread rest can't be used again
    if is_good and not is_whole:
        raise ReplyTooLargeError(f"the reply is larger than {limit:,} bytes")
    return b"".join(chunks)[:limit]
