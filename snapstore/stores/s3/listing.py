"""A listing, page by page. A broken chain of pages is an error, never an early end."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from snapstore.errors import InvalidResponseError
from snapstore.stores.s3.request_loop import RequestLoop
from snapstore.stores.s3.requests import Page, Requests

__all__ = ["scan"]


async def scan(
    loop: RequestLoop,
    requests: Requests,
    bucket: str,
    prefix: str,
    *,
    start_after: str | None,
    page_size: int,
) -> AsyncGenerator[list[str], None]:
    """See `ObjectStore.scan`.

    Args:
        loop: Makes the requests.
        requests: One request each.
        bucket: The bucket, for errors.
        prefix: As in `ObjectStore.scan`.
        start_after: As in `ObjectStore.scan`.
        page_size: As in `ObjectStore.scan`.

    Raises:
        InvalidResponseError: A page does not say whether or where the listing continues.
    """
    token: str | None = None
    seen: set[str | None] = {None, ""}

    async def request() -> Page:
        return await requests.list(prefix, page_size, start_after, token)

    while True:
        page = await loop.run("ListObjectsV2", prefix, request)
        if page.truncated is None:
            raise _broken_listing(bucket, prefix, "it does not say whether it goes on")
        if page.truncated and page.token in seen:
            raise _broken_listing(bucket, prefix, "it goes on, but does not say where")
        seen.add(page.token)
        yield page.keys
        if not page.truncated:
            return
        token = page.token


def _broken_listing(bucket: str, prefix: str, why: str) -> InvalidResponseError:
    return InvalidResponseError(
        f"ListObjectsV2 of {bucket}/{prefix}: the listing is broken: {why}",
        operation="ListObjectsV2",
        bucket=bucket,
        key=prefix,
    )
