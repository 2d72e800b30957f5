"""Remove a whole session, and lose nothing of what another writer saves meanwhile.

The order is:

1. The session is listed, and judged by what was seen.
2. Its latest snapshots are deleted, each only at the version that was seen. One that was changed
   keeps the session, and those deleted before it are put back where there is none by now.
3. It is listed again. Anything that was not there before keeps it as well.
4. What was seen is deleted, and nothing else. The stash goes before the last object that shows
   that there is a session, and stays if something new has come. If there are only latest snapshots
   beside it, a manifest is written before step 2, so that there is such an object.

Where this is killed after step 2, a history or a manifest without latest remains, and a later run
removes it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from itertools import islice
from typing import Final, Literal, NamedTuple

import msgspec

from snapstore.encoding.envelope import encode_manifest
from snapstore.errors import StorageError, UnsupportedOperationError
from snapstore.model.ids import new_snapshot_id
from snapstore.model.snapshot import SCHEMA_VERSION, SnapshotLocation, SnapshotManifest, now
from snapstore.operations.events import SessionEvent
from snapstore.operations.inventory import Inventory, take_inventory
from snapstore.operations.parallel import overlapped, to_the_end
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import PAGE_SIZE, PreconditionFailedError, StoredObject
from snapstore.stores.capabilities import (
    ConditionalDeleteStore,
    MetadataStore,
    ObjectDetails,
    capability,
)
from snapstore.stores.pace import Pace

__all__ = ["SessionPruneReport", "SessionRemoval"]

Result = Literal["planned", "removed", "partly", "kept", "changed", "failed"]

_ANY_SIZE: Final = 2**62


class SessionPruneReport(msgspec.Struct, kw_only=True):
    """Totals of sessions that were removed, or in a dry run would be.

    Attributes:
        dry_run: Whether nothing was changed.
        sessions: Sessions that were looked at.
        removed: Sessions removed, or to be removed.
        woken: Sessions that were idle, but updated before they were removed: they are kept, or what
            has come is.
        failed: Sessions of which some objects could not be deleted.
        objects: Objects that were deleted, or would be.
        bytes: Bytes of the removed sessions.
        requests: Calls of the store: on S3 a request each, without retries.
    """

    dry_run: bool = False
    sessions: int = 0
    removed: int = 0
    woken: int = 0
    failed: int = 0
    objects: int = 0
    bytes: int = 0
    requests: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing has failed."""
        return not self.failed


class SessionRemoval:
    """Removes sessions.

    Args:
        storage: Where, with a pace.
        report: Counts.
        pace: Counts requests.
        unconditional: Whether latest snapshots are deleted without condition.
    """

    def __init__(
        self,
        storage: ObjectSnapshotStorage,
        report: SessionPruneReport,
        pace: Pace,
        *,
        unconditional: bool,
    ) -> None:
        self._objects = storage.objects
        self._layout = storage.layout
        self._report = report
        self._pace = pace
        self._unconditional = unconditional

    async def of_sessions(
        self,
        session_ids: AsyncGenerator[str, None],
        is_to_go: Callable[[str, Inventory], bool | None],
    ) -> AsyncGenerator[SessionEvent, None]:
        """Remove those of some sessions that are to go.

        Args:
            session_ids: The sessions. It is closed at the end.
            is_to_go: Tells by its objects whether a session is to go; `None` if it is not what
                was expected.

        Returns:
            An async generator of an event for each that was to go, or was not as expected.

        Raises:
            UnsupportedOperationError: The store lacks what is needed; nothing was changed.
        """

        def work(session_id: str) -> AsyncGenerator[SessionEvent, None]:
            return self._of_session(session_id, is_to_go)

        async with aclosing(session_ids):
            await self._require_capabilities()
            async with aclosing(overlapped(session_ids, work)) as events:
                async for event in events:
                    yield event

    async def _require_capabilities(self) -> None:
        if self._unconditional or self._report.dry_run:
            return
        scratch = self._layout.latest(
            SnapshotLocation.agent(f"snapstore-check-{new_snapshot_id()}", "check")
        )
        deleting = capability(self._objects, ConditionalDeleteStore)
        if deleting is None or not await deleting.has_conditional_deletes(scratch):
            raise UnsupportedOperationError(
                f"{self._objects.name}: sessions can't be removed safely, since deletes have no "
                "conditions here: one that is updated in the same moment would be lost; "
                "unconditional=True accepts that",
                operation="delete",
                bucket=self._objects.name,
            )

    async def _of_session(
        self, session_id: str, is_to_go: Callable[[str, Inventory], bool | None]
    ) -> AsyncGenerator[SessionEvent, None]:
        inventory = await take_inventory(self._objects, self._layout, session_id)
        self._report.sessions += 1
        self._report.requests = self._pace.turns
        verdict = is_to_go(session_id, inventory)
        if verdict is False:
            return
        removal = _Removal("changed" if verdict is None else "planned", None, inventory.objects)
        if verdict and not self._report.dry_run:
            removal = await self._remove(session_id, inventory)
        result, code, deleted = removal
        self._report.removed += result in ("planned", "removed")
        self._report.objects += deleted if result != "changed" else 0
        self._report.bytes += inventory.size if result in ("planned", "removed") else 0
        self._report.woken += result in ("kept", "partly")
        self._report.failed += result == "failed"
        self._report.requests = self._pace.turns
        yield SessionEvent(
            session_id=session_id,
            result=result,
            updated_at=inventory.updated_at,
            objects=inventory.objects,
            size=inventory.size,
            fingerprint=inventory.fingerprint,
            code=code,
        )

    async def _remove(self, session_id: str, inventory: Inventory) -> _Removal:
        if inventory.has_stash and not inventory.has_rest:
            held = await self._hold(session_id, inventory)
            if held is None:
                return _Removal("kept")
            inventory = held
        latests = await self._read_latests(session_id, inventory)
        if latests is None:
            return _Removal("kept")
        removed: list[_Latest] = []
        try:
            for latest in latests:
                if not await self._delete_latest(latest, removed):
                    await self._put_back(removed)
                    return _Removal("kept")
            found = await take_inventory(self._objects, self._layout, session_id)
            if found.fingerprint != inventory.fingerprint_without_latests:
                await self._put_back(removed)
                return _Removal("kept")
        except BaseException:
            # Also where it is cancelled: the session may have woken up.
            await to_the_end(self._put_back(removed))
            raise
        return await self._delete_rest(session_id, inventory, len(latests))

    async def _hold(self, session_id: str, inventory: Inventory) -> Inventory | None:
        """Let something else than latest snapshots show that there is a session, until the end.

        Without, a stash could not be found any more, if this is cut off in between.

        Returns:
            The session with a manifest in it; `None` if something else has changed.
        """
        location = self._layout.location_in(
            inventory.latests[0].key, self._layout.session_prefix(session_id)
        )
        if location is None:  # it is one: its key is that of a latest snapshot
            return None
        key = self._layout.manifest(location)
        manifest = encode_manifest(SnapshotManifest(SCHEMA_VERSION, now()), max_bytes=1024)
        try:
            await self._objects.put(key, manifest, if_none_match=True)
        except PreconditionFailedError:
            return None
        held = await take_inventory(self._objects, self._layout, session_id)
        same = held.latests == inventory.latests and [*held.stash_keys()] == [
            *inventory.stash_keys()
        ]
        return held if same and {*held.keys()} == {key, *inventory.keys()} else None

    async def _read_latests(self, session_id: str, inventory: Inventory) -> list[_Latest] | None:
        """Read the latest snapshots, to be put back if need be; `None` if one has changed."""
        latests: list[_Latest] = []
        for found in inventory.latests:
            stored = await self._objects.get(found.key, max_bytes=_ANY_SIZE)
            if stored is None or (found.etag or stored.version.etag) != stored.version.etag:
                return None
            latests.append(_Latest(found, stored))
        if any(found.etag is None for found in inventory.latests):
            # What was read is what was judged, if a listing before it and one after it agree.
            again = await take_inventory(self._objects, self._layout, session_id)
            if again.fingerprint != inventory.fingerprint:
                return None
        return latests

    async def _delete_latest(self, latest: _Latest, removed: list[_Latest]) -> bool:
        """Delete a latest snapshot if it is as it was judged.

        Args:
            latest: The snapshot.
            removed: It is added here if this may have deleted it.

        Returns:
            Whether it is gone.
        """
        key = latest.found.key
        if self._unconditional:
            if not await self._is_unchanged(latest.found):
                return False
            removed.append(latest)
            failed = await self._objects.delete([key])
            if failed:
                raise StorageError(
                    f"{key} was not deleted: {failed[key]}",
                    operation="delete",
                    bucket=self._objects.name,
                    key=key,
                    code=failed[key],
                )
            return True
        removed.append(latest)
        try:
            await self._objects.delete_if_match(key, latest.stored.version)
        except PreconditionFailedError as error:
            if error.outcome == "not applied":
                removed.remove(latest)
            return error.is_missing
        return True

    async def _is_unchanged(self, latest: ObjectDetails) -> bool:
        pages = self._objects.scan_details(latest.key, page_size=1)
        async with aclosing(pages):
            async for page in pages:
                return page[:1] == [latest]
        return False

    async def _put_back(self, removed: list[_Latest]) -> None:
        """Write latest snapshots where there is none by now."""
        keeping = capability(self._objects, MetadataStore)
        failure: StorageError | None = None
        for found, stored in removed:
            try:
                if keeping is None:
                    await self._objects.put(found.key, stored.data, if_none_match=True)
                else:
                    await keeping.put_with_metadata(
                        found.key, stored.data, stored.metadata, if_none_match=True
                    )
            except PreconditionFailedError:
                pass  # it was saved anew, or was not deleted after all
            except StorageError as error:
                failure = error
        if failure is not None:
            raise failure

    async def _delete_rest(self, session_id: str, inventory: Inventory, deleted: int) -> _Removal:
        """Delete what was seen.

        Args:
            session_id: The session.
            inventory: What was seen.
            deleted: How many objects are deleted already.
        """
        keys = inventory.keys()
        held_back: list[str] = []
        while batch := [*held_back, *islice(keys, PAGE_SIZE - len(held_back))]:
            # Something must show that there is a session until its stash is gone.
            held_back = [batch.pop()] if inventory.has_stash else []
            if not batch:
                break
            if failed := await self._objects.delete(batch):
                code = next(iter(failed.values()))
                return _Removal("failed", code, deleted + len(batch) - len(failed))
            deleted += len(batch)
        if inventory.has_stash:
            found = await take_inventory(self._objects, self._layout, session_id)
            if found.latests or not {*islice(found.keys(), 2)} <= {*held_back}:
                return _Removal("partly", None, deleted)
            stash = inventory.stash_keys()
            while batch := [*islice(stash, PAGE_SIZE)]:
                if failed := await self._objects.delete(batch):
                    code = next(iter(failed.values()))
                    return _Removal("failed", code, deleted + len(batch) - len(failed))
                deleted += len(batch)
        failed = await self._objects.delete(held_back)
        if failed:
            return _Removal("failed", next(iter(failed.values())), deleted)
        # What has come since was not deleted, but then the session is not gone.
        found = await take_inventory(self._objects, self._layout, session_id)
        result: Result = "partly" if found.objects else "removed"
        return _Removal(result, None, deleted + len(held_back))


class _Removal(NamedTuple):
    """What became of a session.

    Attributes:
        result: As of an event.
        code: The code of an object that was not deleted.
        deleted: How many objects were deleted.
    """

    result: Result
    code: str | None = None
    deleted: int = 0


class _Latest(NamedTuple):
    """A latest snapshot that is to be deleted.

    Attributes:
        found: As it was listed.
        stored: As it was read, to be put back.
    """

    found: ObjectDetails
    stored: StoredObject
