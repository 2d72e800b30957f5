"""Deletes: up to 1,000 objects by one request, or each by its own where a server wants that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from snapstore.errors import StorageError, shown
from snapstore.stores.base import UNCONFIRMED
from snapstore.stores.retry import full_jitter
from snapstore.stores.s3.request_loop import RequestLoop
from snapstore.stores.s3.requests import DELETED, Requests, is_refused_as_such, xml_can_carry

__all__ = ["Deletes"]

_MAX_ATTEMPTS: Final = 4
_TRANSIENT_CODES: Final = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "UnknownError"}
)
"""Codes of a single key that pass (Amazon S3 API Reference, "Error responses"); the last one is
Ceph's for any internal failure."""


class Deletes:
    """Deletes the objects of one bucket.

    Args:
        loop: Makes the requests.
        requests: One request each.

    Attributes:
        batches_refused: How the server has refused DeleteObjects as such; `None` if it has not.
    """

    def __init__(self, loop: RequestLoop, requests: Requests) -> None:
        self._loop = loop
        self._requests = requests
        self.batches_refused: StorageError | None = None

    async def delete(self, keys: Sequence[str]) -> Mapping[str, str]:
        """See `ObjectStore.delete`. One request, whose response must name every key.

        A key that XML can't carry needs a request of its own (boto3 #2005), and so does each key
        if the server refuses DeleteObjects as such.
        """
        batch = [key for key in keys if xml_can_carry(key)]
        results: dict[str, str] = {}
        refusal: StorageError | None = None
        if batch and self.batches_refused is None:
            try:
                results = await self._delete_batch(batch)
            except StorageError as error:
                if not is_refused_as_such(error):
                    raise
                refusal = error
        if refusal is not None:
            results = await self._delete_each(batch[:1])
            if DELETED not in results.values():
                raise refusal  # it is not the batch that is refused
            self.batches_refused = refusal
        results |= await self._delete_each([key for key in keys if key not in results])
        return {key: shown(code, 100) for key, code in results.items() if code != DELETED}

    async def _delete_batch(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete by one request, and again those keys that failed with a transient code.

        Returns:
            The result for each key: `DELETED`, or a code.
        """
        results = dict.fromkeys(keys, UNCONFIRMED)
        remaining = list(keys)

        async def request() -> dict[str, str]:
            return await self._requests.delete(remaining)

        for attempt in range(_MAX_ATTEMPTS):
            if attempt:
                await asyncio.sleep(full_jitter(attempt))
            try:
                results |= await self._loop.run("DeleteObjects", remaining[0], request)
            except StorageError:
                if not attempt:
                    raise
                break  # the results of the responses before must not be lost
            remaining = [key for key in remaining if results[key] in _TRANSIENT_CODES]
            if not remaining:
                break
        return results

    async def _delete_each(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete each key by a request of its own; returns as `_delete_batch`."""

        async def delete(key: str) -> str:
            try:
                await self._loop.run("DeleteObject", key, lambda: self._requests.delete_one(key))
            except StorageError as error:
                return error.code or UNCONFIRMED
            return DELETED

        return dict(zip(keys, await asyncio.gather(*map(delete, keys)), strict=True))
