"""Deletes: up to 1,000 objects by one request, or each by its own where a server wants that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from snapstore.errors import StorageError, shown
from snapstore.stores.base import UNCONFIRMED
from snapstore.stores.retry import full_jitter
from snapstore.stores.s3.request_loop import RequestLoop
from snapstore.stores.s3.requests import DELETED, Requests, is_refused_as_such, xml_can_carry

__all__ = ["Deletes"]

Item = TypeVar("Item", str, tuple[str, str])
"""What is deleted: a key, or a key and a version id."""

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
        return await self._delete(keys, self._requests.delete, self._requests.delete_one)

    async def delete_versions(
        self, versions: Sequence[tuple[str, str]], *, bypass_governance: bool
    ) -> Mapping[tuple[str, str], str]:
        """See `VersionedStore.delete_versions`, and `delete`."""

        def delete_one(version: tuple[str, str]) -> Awaitable[None]:
            key, version_id = version
            return self._requests.delete_one(
                key, version_id=version_id, bypass_governance=bypass_governance
            )

        by_batch = partial(self._requests.delete_versions, bypass_governance=bypass_governance)

        return await self._delete(versions, by_batch, delete_one)

    async def _delete(
        self,
        items: Sequence[Item],
        by_batch: Callable[[Sequence[Item]], Awaitable[dict[Item, str]]],
        by_itself: Callable[[Item], Awaitable[None]],
    ) -> Mapping[Item, str]:
        """Delete.

        Args:
            items: What is to be deleted.
            by_batch: Deletes several by one request; returns what became of each.
            by_itself: Deletes one by one request.
        """
        batch = [item for item in items if xml_can_carry(_key(item))]
        results: dict[Item, str] = {}
        refusal: StorageError | None = None
        if batch and self.batches_refused is None:
            try:
                results = await self._delete_batch(batch, by_batch)
            except StorageError as error:
                if not is_refused_as_such(error):
                    raise
                refusal = error
        if refusal is not None:
            results = await self._delete_each(batch[:1], by_itself)
            if DELETED not in results.values():
                raise refusal  # it is not the batch that is refused
            self.batches_refused = refusal
        rest = [item for item in items if item not in results]
        results |= await self._delete_each(rest, by_itself)
        return {item: shown(code, 100) for item, code in results.items() if code != DELETED}

    async def _delete_batch(
        self,
        items: Sequence[Item],
        by_batch: Callable[[Sequence[Item]], Awaitable[dict[Item, str]]],
    ) -> dict[Item, str]:
        """Delete by one request, and again those that failed with a transient code.

        Returns:
            The result for each: `DELETED`, or a code.
        """
        results = dict.fromkeys(items, UNCONFIRMED)
        remaining = list(items)

        async def request() -> dict[Item, str]:
            return await by_batch(remaining)

        for attempt in range(_MAX_ATTEMPTS):
            if attempt:
                await asyncio.sleep(full_jitter(attempt))
            try:
                results |= await self._loop.run("DeleteObjects", _key(remaining[0]), request)
            except StorageError:
                if not attempt:
                    raise
                break  # the results of the responses before must not be lost
            remaining = [item for item in remaining if results[item] in _TRANSIENT_CODES]
            if not remaining:
                break
        return results

    async def _delete_each(
        self, items: Sequence[Item], by_itself: Callable[[Item], Awaitable[None]]
    ) -> dict[Item, str]:
        """Delete each by a request of its own; returns as `_delete_batch`."""

        async def delete(item: Item) -> str:
            try:
                await self._loop.run("DeleteObject", _key(item), lambda: by_itself(item))
            except StorageError as error:
                return error.code or UNCONFIRMED
            return DELETED

        return dict(zip(items, await asyncio.gather(*map(delete, items)), strict=True))


def _key(item: str | tuple[str, str]) -> str:
    return item if isinstance(item, str) else item[0]
