"""How much of a reply is read, whatever the server sends.

The body of an object is bounded by whoever reads it. All other replies are read whole, so each has
a bound here; on the fast path, and in the HTTP session of a client of our own (see `client`).
"""

from __future__ import annotations

from typing import Any, Final

from snapstore.stores.base import Body

__all__ = ["ReplyTooLargeError", "read_bounded"]

_MAX_XML: Final = 16 * 2**20
"""Bytes of a listing, or of the reply to a delete. 1,000 keys of 1,024 bytes each, with each byte
percent-encoded, take about 4 MB."""

_MAX_REPLY: Final = 64 * 2**10
"""Bytes of any other reply: of an error, and of a write."""

_LISTS: Final = frozenset({"GET", "POST"})


class ReplyTooLargeError(Exception):
    """A good reply is larger than its bound; the rest of it has not been read."""


async def read_bounded(reply: Any) -> bytes:
    """Read the body of a reply that is not an object.

    Args:
        reply: An `aiohttp.ClientResponse` whose body has not been read.

    Returns:
        The body. Of an error only the beginning where it is larger than its bound: the status
        tells enough.

    Raises:
        ReplyTooLargeError: It is a good reply, and larger than its bound.
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
