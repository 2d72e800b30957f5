"""Copies that the server makes, with metadata of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from snapstore.errors import StorageError
from snapstore.stores.base import Version
from snapstore.stores.deadline import Deadline
from snapstore.stores.s3.conditions import S3Write
from snapstore.stores.s3.request_loop import RequestLoop
from snapstore.stores.s3.requests import Requests

__all__ = ["copy"]


async def copy(
    loop: RequestLoop, requests: Requests, source: str, key: str, metadata: Mapping[str, str]
) -> Version | None:
    """See `CopyingStore.copy`.

    Args:
        loop: Makes the requests.
        requests: One request each.
        source: As in `CopyingStore.copy`.
        key: The same.
        metadata: The same.

    Raises:
        StorageError: It failed; `outcome` says what is known.
    """
    write = S3Write(None, create=False, metadata=metadata)
    try:
        return await loop.run(
            "CopyObject", key, lambda: requests.copy(source, key, write), write=write
        )
    except asyncio.CancelledError:
        Deadline.current().outcome = write.outcome
        raise
    except StorageError as error:
        # After a lost response, the source may have been there.
        if error.code == "NoSuchKey" and not write.may_be_applied:
            return None
        error.outcome = write.outcome
        raise
