"""Listings by a delimiter: what keys begin with, found by the server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing

from snapstore.errors import StorageError, UnsupportedOperationError
from snapstore.stores.capabilities import beginning_of
from snapstore.stores.s3.listing import scan
from snapstore.stores.s3.request_loop import RequestLoop
from snapstore.stores.s3.requests import Page, Requests, is_refused_as_such

__all__ = ["scan_prefixes"]


async def scan_prefixes(
    loop: RequestLoop,
    requests: Requests,
    bucket: str,
    prefix: str,
    *,
    delimiter: str,
    start_after: str | None,
    page_size: int,
) -> AsyncGenerator[list[str], None]:
    """See `DelimiterStore.scan_prefixes`.

    Args:
        loop: Makes the requests.
        requests: One request each.
        bucket: The bucket, for errors.
        prefix: As in `DelimiterStore.scan_prefixes`.
        delimiter: The same.
        start_after: The same.
        page_size: The same.

    Raises:
        UnsupportedOperationError: The server refuses the delimiter, ignores it, or takes another.
        InvalidResponseError: As for `listing.scan`.
    """
    # SeaweedFS lists by the wrong delimiter after a key that lies deep in a beginning.
    own = None if start_after is None else beginning_of(start_after, prefix, delimiter)
    start_after = own or start_after

    def request(token: str | None) -> Awaitable[Page[tuple[str, bool], str]]:
        return requests.list_prefixes(prefix, delimiter, page_size, start_after, token)

    async with aclosing(scan(loop, bucket, prefix, request)) as pages:
        is_first = True
        while True:
            try:
                page = await anext(pages, None)
            except StorageError as error:
                failure = error
            else:
                if page is None:
                    return
                if not all(_is_expected(*item, prefix, delimiter) for item in page):
                    raise _unsupported(bucket, prefix, delimiter, "ignores it, or takes another")
                yield [text for text, is_prefix in page if is_prefix and text != own]
                is_first = False
                continue
            if is_first and is_refused_as_such(failure) and await _lists(loop, requests, prefix):
                raise _unsupported(bucket, prefix, delimiter, f"refuses it: {failure}")
            raise failure


def _is_expected(text: str, is_prefix: bool, prefix: str, delimiter: str) -> bool:
    """Whether the server may list a text by a delimiter, as a common prefix or as a key."""
    return beginning_of(text, prefix, delimiter) == (text if is_prefix else None)


async def _lists(loop: RequestLoop, requests: Requests, prefix: str) -> bool:
    """Whether the server lists the same prefix without a delimiter."""
    try:
        await loop.run("ListObjectsV2", prefix, lambda: requests.list(prefix, 1, None, None))
    except StorageError:
        return False
    return True


def _unsupported(bucket: str, prefix: str, delimiter: str, why: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"ListObjectsV2 of {bucket}/{prefix} by the delimiter {delimiter!r}: the server {why}",
        operation="ListObjectsV2",
        bucket=bucket,
        key=prefix,
    )
