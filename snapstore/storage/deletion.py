"""Delete a session: all of it, nothing else, and repeatably.

A session is what has an object of our layout directly under its name. Under a name without one
nothing is deleted: an id may come from a URL, and `backups/` or the SDKs' `context/` may lie beside
the sessions. A delete that was cut off can only be repeated while something shows that there is a
session. So where other keys lie under its name as well, one object of the layout is deleted last.

An archiver may have packed a history between its listing and its deletion, and a redaction may have
written a pack in the place of another one. What they have written is found by one more listing,
after the history and that pack are gone. What they write later they take back by themselves, since
they look for the history, or the pack, again: see `snapstore.operations.archiving.packing`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from snapstore.errors import PartialDeleteError, StorageError, shown
from snapstore.model.keys import Layout
from snapstore.model.snapshot import DeletedSession
from snapstore.stores.base import PAGE_SIZE, UNCONFIRMED
from snapstore.stores.capabilities import SweepableStore, capability
from snapstore.stores.managed import ManagedStore

__all__ = ["SessionDeletion"]

logger: Final = logging.getLogger("snapstore")


class SessionDeletion:
    """The deletion of one session.

    Args:
        objects: The store.
        prefix: What the session's keys begin with.
    """

    def __init__(self, objects: ManagedStore, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix
        self._has_begun = False
        self._may_have_new_packs = False
        self._deleted = 0
        self._kept = 0
        self._failed: dict[str, str] = {}
        self._unconfirmed: list[str] = []
        # The object of the layout that is deleted last; empty where there is no session.
        self._held_back: list[str] = []

    async def run(self) -> DeletedSession:
        """Delete the session. While one page is deleted, the next one is listed.

        Raises:
            PartialDeleteError: Some objects were not confirmed as deleted.
            StorageError: A request failed, and no key had failed before.
        """
        try:
            async with aclosing(self._objects.scan(self._prefix)) as pages:
                await self._delete_pages(pages)
            self._log_kept()
            # If only objects of the layout have failed, they show that there is a session.
            if all(map(self._is_own, self._failed)):
                keys, self._held_back = self._held_back, []
                await self._delete_keys(keys)
            else:
                self._failed |= dict.fromkeys(self._held_back, UNCONFIRMED)
            while self._may_have_new_packs and not self._failed:
                self._may_have_new_packs = False
                await self._delete_new_packs()
        except StorageError as error:
            if not self._failed:
                error.outcome = error.outcome or ("unknown" if self._has_begun else "not applied")
                raise
            # What the earlier requests could not delete must be reported all the same.
            self._failed |= dict.fromkeys([*self._unconfirmed, *self._held_back], UNCONFIRMED)
            raise self._partial(f"; then {error}") from error
        if self._failed:
            raise self._partial("; delete the session again")
        await self._sweep()
        return DeletedSession(self._deleted, self._kept)

    async def _delete_pages(self, pages: AsyncGenerator[list[str], None]) -> None:
        async def fetch() -> list[str] | None:
            return await anext(pages, None)

        is_first = True
        page = await fetch()
        while page is not None:
            following = asyncio.create_task(fetch())
            try:
                # A store that has given its last page knows that without a request.
                await asyncio.sleep(0)
                is_last = following.done() and (following.exception() or following.result()) is None
                if page and is_first:
                    is_first = False
                    self._held_back = self._first_own(page) or await self._find_own()
                await self._delete_page(page, is_last=is_last)
                page = await following
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _delete_page(self, page: Sequence[str], *, is_last: bool) -> None:
        keys = [key for key in page if not Layout.is_nested_store(key, self._prefix)]
        if not self._held_back:
            keys = []
        self._kept += len(page) - len(keys)
        keys = [key for key in keys if key not in self._held_back]
        if is_last and all(map(self._is_own, [*keys, *self._failed])):
            keys, self._held_back = keys + self._held_back, []
        await self._delete_keys(keys)

    async def _delete_new_packs(self) -> None:
        """Delete what was archived while the session was being deleted."""
        async with aclosing(self._objects.scan(f"{self._prefix}scopes/")) as pages:
            async for page in pages:
                await self._delete_keys([key for key in page if self._is_archive(key)])

    async def _delete_keys(self, keys: Sequence[str]) -> None:
        self._deleted += len(keys)
        self._may_have_new_packs = self._may_have_new_packs or any(map(self._may_be_packed, keys))
        # Not every server keeps to the size of a page that it was asked for.
        for start in range(0, len(keys), PAGE_SIZE):
            self._unconfirmed = list(keys[start:])
            self._failed |= await self._delete_batch(self._unconfirmed[:PAGE_SIZE])
        self._unconfirmed = []

    async def _delete_batch(self, keys: list[str]) -> Mapping[str, str]:
        store, self._has_begun = self._objects.store, True
        return await self._objects.run(
            "delete", self._prefix, lambda: store.delete(keys), writes=True
        )

    async def _sweep(self) -> None:
        """Let the store remove what interrupted writes of the session have left."""
        own = f"{self._prefix}scopes/"
        sweepable = capability(self._objects.store, SweepableStore)
        if sweepable is not None:
            await self._objects.run("delete", own, lambda: sweepable.sweep(own), writes=True)

    async def _find_own(self) -> list[str]:
        """Look for an object of the layout where the first page does not show one."""
        async with aclosing(self._objects.scan(f"{self._prefix}scopes/")) as pages:
            async for page in pages:
                if found := self._first_own(page):
                    return found
        return []

    def _first_own(self, page: Sequence[str]) -> list[str]:
        return [key for key in page if self._is_own(key)][:1]

    def _is_own(self, key: str) -> bool:
        return Layout.is_own(key, self._prefix)

    def _may_be_packed(self, key: str) -> bool:
        return Layout.snapshot_id_of(key) is not None or self._is_archive(key)

    def _is_archive(self, key: str) -> bool:
        place = Layout.place_of(key, self._prefix)
        return place is not None and place.kind == "archive"

    def _log_kept(self) -> None:
        if self._kept:
            is_session = self._deleted or self._held_back
            why = "of another store nested there" if is_session else "since there is no session"
            logger.warning(
                "delete_session kept %d objects under %s %s", self._kept, shown(self._prefix), why
            )

    def _partial(self, end: str) -> PartialDeleteError:
        key, code = next(iter(self._failed.items()))
        found = self._deleted + len(self._held_back)
        return PartialDeleteError(
            f"{len(self._failed)} of {found} objects under {self._prefix} in "
            f"{self._objects.name} were not deleted, {key} ({code}) among them{end}",
            failed=self._failed,
            outcome="unknown",
            retryable=True,
            operation="delete",
            bucket=self._objects.name,
            key=self._prefix,
        )
