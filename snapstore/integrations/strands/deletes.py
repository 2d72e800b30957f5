"""Batch single deletes.

The SDK deletes a session object by object, a hundred at a time. Deletes that are requested while a
batch is in flight go into the next batch. No delete waits for others to join it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Final

from snapstore.stores.base import PAGE_SIZE

__all__ = ["BatchedDeletes"]

_DONE: Final = None


class BatchedDeletes:
    """Deletes on one event loop, in batches of up to 1,000 keys.

    Args:
        delete: Deletes some keys and returns those that it could not delete, each with a code:
            `ObjectStore.delete`.
    """

    def __init__(self, delete: Callable[[list[str]], Awaitable[Mapping[str, str]]]) -> None:
        self._delete_all = delete
        self._waiting: dict[str, list[asyncio.Future[str | None]]] = {}
        self._sender: asyncio.Task[None] | None = None

    async def delete(self, key: str) -> str | None:
        """Delete one key.

        Returns:
            `None` when it is deleted; the server's code if it could not be.

        Raises:
            StorageError: The request that it was part of failed.
        """
        outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(outcome)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        return await outcome

    async def aclose(self) -> None:
        """Wait for the batch in flight, if any: its callers may have been cancelled."""
        if self._sender is not None:
            await self._sender

    async def _send(self) -> None:
        try:
            # There is no await between finding no next batch and the end.
            while batch := self._next():
                try:
                    failed = await self._delete_all(list(batch))
                except Exception as error:  # noqa: BLE001 -- it is raised to the callers
                    for outcome in _pending(batch):
                        outcome.set_exception(error)
                else:
                    for key, outcomes in batch.items():
                        for outcome in _pending({key: outcomes}):
                            outcome.set_result(failed.get(key, _DONE))
        finally:
            self._sender = None

    def _next(self) -> dict[str, list[asyncio.Future[str | None]]]:
        """Take the next batch, without the keys whose callers were all cancelled."""
        while self._waiting:
            keys = list(islice(self._waiting, PAGE_SIZE))
            taken = {key: self._waiting.pop(key) for key in keys}
            batch = {key: found for key, found in taken.items() if not all(f.done() for f in found)}
            if batch:
                return batch
        return {}


def _pending(
    batch: Mapping[str, list[asyncio.Future[str | None]]],
) -> list[asyncio.Future[str | None]]:
    return [outcome for found in batch.values() for outcome in found if not outcome.done()]
