"""Erase a session, or all of a namespace, for good: with versions, delete markers and stash.

The order answers what can come in between:

1. What is current is deleted as usual. In a versioned bucket that makes delete markers, so a load
   finds nothing from now on, even if the rest fails.
2. Every version is deleted. They are found by the listing of versions, not by what is current, so
   this works also after `delete_session`. Where an object is current again, because somebody has
   saved it meanwhile, it is deleted as usual first: its older version would come back else.
3. The delete markers are deleted, but not those of keys that have a version, since it had to stay
   or was saved meanwhile: it would come back.
4. All is listed once more. If something is there, it begins again, a few times.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final, Literal

from snapstore.errors import StorageError, UnsupportedOperationError
from snapstore.model.keys import Layout
from snapstore.operations.erasing.receipt import EraseEvent, ErasureReceipt, RetainedVersion
from snapstore.operations.operation import Operation, with_pace
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import PAGE_SIZE
from snapstore.stores.capabilities import (
    DetailedListingStore,
    ObjectVersion,
    SweepableStore,
    VersionedStore,
    capability,
)
from snapstore.stores.managed import ManagedStore
from snapstore.stores.pace import Pace

__all__ = ["erase_all", "erase_session"]

_PASSES: Final = 3
"""How often it begins again where somebody goes on saving."""

Includes = Callable[[str], bool]


def erase_session(
    storage: ObjectSnapshotStorage,
    *,
    session_id: str,
    dry_run: bool = False,
    bypass_governance: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[EraseEvent, ErasureReceipt]:
    """Erase a session for good: its objects and its stash, with versions and delete markers.

    It erases what `delete_session` deletes, and works after it, too. Nothing can be loaded from the
    first step on. It may be cut off and made again. What another writer saves meanwhile is erased
    as well, up to the third pass; then the receipt says that something is left.

    Args:
        storage: Where, open.
        session_id: The session.
        dry_run: Change nothing: the events tell what would be erased.
        bypass_governance: Erase also what is locked in governance mode. It needs the permission
            `s3:BypassGovernanceRetention`.
        max_requests_per_second: Keeps it from slowing saves; `None` for no limit.

    Returns:
        The operation. Its report is the receipt.

    Raises:
        InvalidIdentifierError: The session id is not valid.
        ValueError: `max_requests_per_second` is not more than 0.
    """
    layout = storage.layout
    session, stash = layout.session_prefix(session_id), layout.stash_prefix(session_id)

    def includes(key: str) -> bool:
        if key.startswith(session):
            return not Layout.is_nested_store(key, session)
        return layout.is_stash(key, session_id)

    note = (
        "Contents that an application has offloaded elsewhere than under "
        f"{stash} are not known here."
    )
    erasure = _Erasure(
        storage,
        (session, stash),
        includes,
        note,
        dry_run=dry_run,
        bypass_governance=bypass_governance,
        pace=Pace(max_requests_per_second),
    )
    return Operation(erasure.run(), erasure.receipt)


def erase_all(
    storage: ObjectSnapshotStorage,
    *,
    dry_run: bool = False,
    bypass_governance: bool = False,
    max_requests_per_second: float | None = None,
) -> Operation[EraseEvent, ErasureReceipt]:
    """Erase all that lies under the prefix of a storage for good: a user's namespace, say.

    Objects that are not of the layout go as well. For a prefix that is or ends with `session`, the
    stash that the Strands SDKs keep beside it goes as well.

    Args:
        storage: A storage with a prefix, such as `storage.namespace("user-7")`.
        dry_run: As in `erase_session`, as are the others.
        bypass_governance: Erase also what is locked in governance mode.
        max_requests_per_second: Keeps it from slowing saves.

    Returns:
        The operation. Its report is the receipt.

    Raises:
        ValueError: The storage has no prefix: that would be the whole bucket.
    """
    layout = storage.layout
    if not layout.sessions_prefix:
        raise ValueError("erase_all needs a storage with a prefix: without, it is the whole bucket")
    prefixes = [layout.sessions_prefix]
    if not layout.stashes_prefix.startswith(layout.sessions_prefix):
        prefixes.append(layout.stashes_prefix)
    erasure = _Erasure(
        storage,
        tuple(prefixes),
        lambda _: True,
        "Contents that an application has offloaded under another prefix are not known here.",
        dry_run=dry_run,
        bypass_governance=bypass_governance,
        pace=Pace(max_requests_per_second),
    )
    return Operation(erasure.run(), erasure.receipt)


class _Erasure:
    def __init__(
        self,
        storage: ObjectSnapshotStorage,
        prefixes: tuple[str, ...],
        includes: Includes,
        note: str,
        *,
        dry_run: bool,
        bypass_governance: bool,
        pace: Pace,
    ) -> None:
        self._objects: ManagedStore = with_pace(storage, pace).objects
        self._includes = includes
        self._bypass_governance = bypass_governance
        self._pace = pace
        self._versions = capability(self._objects, VersionedStore)
        self._cannot_list_versions = False
        self._object_bytes = self._version_bytes = 0
        # Of this pass, and what is left of the one before.
        self._retained: dict[tuple[str, str | None], RetainedVersion] = {}
        self._retained_before: dict[tuple[str, str | None], RetainedVersion] = {}
        self.receipt = ErasureReceipt(
            place=storage.objects.name,
            prefixes=prefixes,
            dry_run=dry_run,
            started_at=datetime.now(UTC),
            notes=[note],
        )

    async def run(self) -> AsyncGenerator[EraseEvent, None]:
        receipt = self.receipt
        receipt.started_at = datetime.now(UTC)
        await self._find_out_about_versions()
        for _ in range(_PASSES):
            self._retained_before, self._retained = self._retained, {}
            try:
                async with aclosing(self._pass()) as events:
                    async for event in events:
                        receipt.requests = self._pace.turns
                        if event.result in ("retained", "failed"):
                            receipt.retained = self._retained_so_far()
                        yield event
                self._retained_before = {}
            finally:
                receipt.retained = self._retained_so_far()
            if receipt.dry_run:
                break
            receipt.nothing_left = await self._is_nothing_left()
            if receipt.nothing_left or any(one.reason for one in receipt.retained):
                break
        if self._cannot_list_versions and receipt.nothing_left:
            receipt.nothing_left = None
        await self._sweep()
        receipt.requests = self._pace.turns
        receipt.finished_at = datetime.now(UTC)

    def _retained_so_far(self) -> list[RetainedVersion]:
        # If it is cut off, this pass has not come to all that the one before could not erase.
        return [*(self._retained_before | self._retained).values()]

    async def _find_out_about_versions(self) -> None:
        """List versions once, so that a missing permission is found before anything is changed."""
        if self._versions is None:
            return
        try:
            async with aclosing(
                self._versions.scan_versions(self.receipt.prefixes[0], page_size=1)
            ) as pages:
                async for _ in pages:
                    break
        except UnsupportedOperationError:
            self._versions = None
            self._cannot_list_versions = True
            self.receipt.notes.append(
                "The server can't list versions: if the bucket has any, they are still there."
            )

    async def _pass(self) -> AsyncGenerator[EraseEvent, None]:
        for prefix in self.receipt.prefixes:
            async with aclosing(self._listed(prefix)) as pages:
                async for page in pages:
                    sizes = {key: size for key, size in page.items() if self._includes(key)}
                    for event in await self._delete(sizes):
                        yield event
        if self._versions is None:
            return
        for prefix in self.receipt.prefixes:
            async with aclosing(self._versions.scan_versions(prefix)) as pages_of_versions:
                async for versions in pages_of_versions:
                    found = [one for one in versions if self._includes(one.key)]
                    for event in await self._erase_versions(found):
                        yield event
        for prefix in self.receipt.prefixes:
            async with aclosing(self._markers(prefix)) as pages_of_markers:
                async for markers in pages_of_markers:
                    for event in await self._erase_each(markers):
                        yield event

    def _count(self, *, objects: int = 0, versions: int = 0) -> None:
        """Count bytes. In a versioned bucket an object that is deleted stays, as a version."""
        self._object_bytes += objects
        self._version_bytes += versions
        self.receipt.bytes = self._version_bytes or self._object_bytes

    async def _listed(self, prefix: str) -> AsyncGenerator[dict[str, int | None], None]:
        """List objects, with their sizes where the store tells them."""
        detailed = capability(self._objects, DetailedListingStore)
        if detailed is None:
            async with aclosing(self._objects.scan(prefix)) as pages:
                async for page in pages:
                    yield dict.fromkeys(page)
            return
        async with aclosing(detailed.scan_details(prefix)) as details:
            async for found in details:
                yield {one.key: one.size for one in found}

    async def _delete(self, sizes: Mapping[str, int | None]) -> list[EraseEvent]:
        """Delete objects as usual.

        Args:
            sizes: Their keys, and the bytes of each; `None` where they are not known.
        """
        keys = [*sizes]
        if not keys:
            return []
        if self.receipt.dry_run:
            if self._versions is not None:  # each is one of the versions that are listed next
                return []
            self.receipt.objects += len(keys)
            self._count(objects=sum(size or 0 for size in sizes.values()))
            return [
                EraseEvent(key=key, kind="object", result="planned", size=size)
                for key, size in sizes.items()
            ]
        failed: dict[str, str] = {}
        for start in range(0, len(keys), PAGE_SIZE):
            failed |= await self._objects.delete(keys[start : start + PAGE_SIZE])
        for key in keys:
            self._retained_before.pop((key, None), None)
        for key, code in failed.items():
            self._retained[key, None] = RetainedVersion(key=key, version_id=None, code=code)
        self.receipt.objects += len(keys) - len(failed)
        self._count(objects=sum(sizes[key] or 0 for key in keys if key not in failed))
        return [
            EraseEvent(
                key=key,
                kind="object",
                result="failed" if key in failed else "erased",
                size=size,
                code=failed.get(key),
            )
            for key, size in sizes.items()
        ]

    async def _erase_versions(self, found: list[ObjectVersion]) -> list[EraseEvent]:
        """Erase versions for good."""
        # Saved since it was deleted: what lies under it must not become current.
        again = {one.key: one.size for one in found if one.is_current and not one.is_delete_marker}
        events = await self._delete(again)
        return events + await self._erase_each([one for one in found if not one.is_delete_marker])

    async def _markers(self, prefix: str) -> AsyncGenerator[list[ObjectVersion], None]:
        """The delete markers of keys that have no version: without its marker, one would be back.

        What is told of a key may be parted between two pages.
        """
        if self._versions is None:
            return
        waiting: dict[str, list[ObjectVersion]] = {}
        kept: set[str] = {key for key, _ in self._retained}
        async with aclosing(self._versions.scan_versions(prefix)) as pages:
            async for page in pages:
                if not self.receipt.dry_run:  # where the versions are still there
                    kept |= {one.key for one in page if not one.is_delete_marker}
                markers = [one for one in page if one.is_delete_marker and self._includes(one.key)]
                here = {one.key for one in page}
                # A key of the page before that is not in this one is told of as a whole.
                yield [
                    marker
                    for key in [*waiting]
                    if key not in here
                    for marker in waiting.pop(key)
                    if key not in kept
                ]
                for marker in markers:
                    waiting.setdefault(marker.key, []).append(marker)
                kept = {key for key in kept if key in waiting or key in here}
                kept |= {key for key, _ in self._retained}
        yield [m for key, markers in waiting.items() if key not in kept for m in markers]

    async def _erase_each(self, versions: list[ObjectVersion]) -> list[EraseEvent]:
        events: list[EraseEvent] = []
        for start in range(0, len(versions), PAGE_SIZE):
            events += await self._erase_batch(versions[start : start + PAGE_SIZE])
        return events

    async def _erase_batch(self, versions: list[ObjectVersion]) -> list[EraseEvent]:
        receipt = self.receipt
        failed: dict[tuple[str, str], str] = {}
        if not receipt.dry_run and versions and self._versions is not None:
            failed |= await self._versions.delete_versions(
                [(one.key, one.version_id) for one in versions],
                bypass_governance=self._bypass_governance,
            )
        events: list[EraseEvent] = []
        for one in versions:
            code = failed.get((one.key, one.version_id))
            retained = None if code is None else await self._retain(one, code)
            if code is None:
                self._retained_before.pop((one.key, one.version_id), None)
                receipt.versions += not one.is_delete_marker
                receipt.delete_markers += one.is_delete_marker
                self._count(versions=one.size)
            result: Literal["planned", "erased", "retained", "failed"] = "erased"
            if receipt.dry_run:
                result = "planned"
            elif retained is not None:
                result = "failed" if retained.reason is None else "retained"
            events.append(
                EraseEvent(
                    key=one.key,
                    kind="delete marker" if one.is_delete_marker else "version",
                    result=result,
                    version_id=one.version_id,
                    size=one.size,
                    code=code,
                )
            )
        return events

    async def _retain(self, version: ObjectVersion, code: str) -> RetainedVersion:
        """Note a version that could not be erased, and why."""
        reason, until = None, None
        if self._versions is not None:
            try:
                lock = await self._versions.lock_of(version.key, version.version_id)
            except StorageError:
                lock = None  # it is refused all the same, and only nothing tells why
            if lock is not None:
                reason, until = lock
        retained = RetainedVersion(
            key=version.key, version_id=version.version_id, code=code, reason=reason, until=until
        )
        self._retained[version.key, version.version_id] = retained
        return retained

    async def _is_nothing_left(self) -> bool:
        for prefix in self.receipt.prefixes:
            async with aclosing(self._objects.scan(prefix)) as pages:
                async for page in pages:
                    if any(map(self._includes, page)):
                        return False
            if self._versions is None:
                continue
            async with aclosing(self._versions.scan_versions(prefix)) as pages_of_versions:
                async for versions in pages_of_versions:
                    if any(self._includes(one.key) for one in versions):
                        return False
        return True

    async def _sweep(self) -> None:
        """Let the store remove what interrupted writes have left, which holds content, too."""
        sweepable = capability(self._objects, SweepableStore)
        if sweepable is None or self.receipt.dry_run:
            return
        for prefix in self.receipt.prefixes:
            await sweepable.sweep(prefix)
