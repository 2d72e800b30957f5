"""A listing, page by page. A broken chain of pages is an error, never an early end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from functools import partial
from typing import TypeVar

from snapstore.errors import InvalidResponseError
from snapstore.stores.s3.request_loop import RequestLoop
from snapstore.stores.s3.requests import Page

__all__ = ["scan"]

T = TypeVar("T")
Token = TypeVar("Token", bound=Hashable)


async def scan(
    loop: RequestLoop,
    bucket: str,
    prefix: str,
    request: Callable[[Token | None], Awaitable[Page[T, Token]]],
    *,
    operation: str = "ListObjectsV2",
) -> AsyncGenerator[list[T], None]:
    """Fetch a listing, page by page.

    Args:
        loop: Makes the requests.
        bucket: The bucket, for errors.
        prefix: The prefix, for errors.
        request: Makes one request: for the page at a token, or with `None` for the first page.
        operation: The S3 operation that it is.

    Raises:
        InvalidResponseError: A page does not say whether or where the listing continues.
    """
    token: Token | None = None
    seen: set[Token | None] = {None}

    while True:
        page = await loop.run(operation, prefix, partial(request, token))
        if page.truncated is None:
            why = "it does not say whether it goes on"
            raise _broken_listing(operation, bucket, prefix, why)
        if page.truncated and page.token in seen:
            why = "it goes on, but does not say where"
            raise _broken_listing(operation, bucket, prefix, why)
        seen.add(page.token)
        yield page.items
        if not page.truncated:
            return
        token = page.token


def _broken_listing(operation: str, bucket: str, prefix: str, why: str) -> InvalidResponseError:
    return InvalidResponseError(
        f"{operation} of {bucket}/{prefix}: the listing is broken: {why}",
        operation=operation,
        bucket=bucket,
        key=prefix,
    )
