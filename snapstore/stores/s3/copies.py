"""Copies that the server makes, with metadata of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from snapstore.errors import StorageError
from snapstore.stores.base import Version
from snapstore.stores.deadline import Deadline
from snapstore.stores.s3.conditions import S3Write
from snapstore.stores.s3.request_loop import RequestLoop
from snapstore.stores.s3.requests import Requests

__all__ = ["copy", "copy_with_metadata"]

_TRIES: Final = 10
"""How often a source may be replaced while it is copied."""


async def copy_with_metadata(
    loop: RequestLoop, requests: Requests, source: str, key: str
) -> Version | None:
    """Copy an object with what is kept beside it: both are of one version.

    The server keeps the metadata of a copy only as a whole, with the marks of the write that made
    the source. So it is asked for before the copy, and once more after it, and the copy is made
    again if the source was replaced in between. The condition of a copy
    (`x-amz-copy-source-if-match`) would spare the second look, but some servers ignore it.

    Args:
        loop: Makes the requests.
        requests: One request each.
        source: As in `CopyingStore.copy`.
        key: The same.

    Raises:
        StorageError: It failed, or the source is replaced again and again; `outcome` says what is
            known.
    """
    before = await _look_at(loop, requests, source)
    for _ in range(_TRIES):
        if before is None:
            return None
        version = await copy(loop, requests, source, key, before[0])
        after = await _look_at(loop, requests, source)
        # A source that is gone can't be compared: what was copied was there.
        if version is None or after is None or after == before:
            return version
        before = after
    raise StorageError(
        f"{source} is replaced again and again: its copy may have metadata of another version",
        operation="CopyObject",
        key=key,
        outcome="applied",
    )


async def _look_at(
    loop: RequestLoop, requests: Requests, key: str
) -> tuple[Mapping[str, str], Version] | None:
    try:
        return await loop.run("HeadObject", key, lambda: requests.metadata_of(key))
    except StorageError as error:
        if error.code != "NoSuchKey":
            raise
        return None


async def copy(
    loop: RequestLoop,
    requests: Requests,
    source: str,
    key: str,
    metadata: Mapping[str, str],
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
            "CopyObject",
            key,
            lambda: requests.copy(source, key, write),
            write=write,
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
