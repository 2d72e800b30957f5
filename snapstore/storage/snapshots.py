"""The one implementation of a snapshot storage, over any object store.

How the parts work together::

    save:   location → key (model.keys) → bytes (encoding.envelope) → store.put
    load:   location → key → store.get → None, or snapshot (encoding.envelope)
    list:   location → history (storage.history) → store.scan → ids → stop at the limit
    delete: session prefix → store.scan → batches → store.delete, overlapped

The operations on whole sessions are in `snapstore.storage.sessions`, those on archived snapshots
in `snapstore.storage.archived`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime

from snapstore.encoding.envelope import decode_manifest
from snapstore.model.ids import milliseconds_since_epoch, new_snapshot_id, validate_snapshot_id
from snapstore.model.snapshot import (
    SCHEMA_VERSION,
    RawSnapshot,
    SavedSnapshot,
    Snapshot,
    SnapshotLocation,
    SnapshotManifest,
    VersionedSnapshot,
    now,
)
from snapstore.storage.archive import load_as_of
from snapstore.storage.archived import ArchiveOperations
from snapstore.storage.check import CHECK_SESSION, CheckReport, run_check
from snapstore.storage.conditions import version_to_match
from snapstore.storage.history import History, Interval
from snapstore.storage.listing import flatten
from snapstore.storage.observation import unrecorded
from snapstore.storage.rewinding import rewind_latest
from snapstore.storage.updates import LatestUpdate

__all__ = ["ObjectSnapshotStorage"]


class ObjectSnapshotStorage(ArchiveOperations):
    """Snapshots in any object store. `S3Storage`, `FileStorage` and `MemoryStorage` are subclasses.

    It is opened and closed with `async with`, or with `open` and `aclose`, and used on the event
    loop it was opened on.

    Args:
        store: Where the bytes go.
        prefix: What all keys begin with, without the closing `/`; used verbatim. `""` for none.
        max_snapshot_bytes: Largest snapshot as JSON, in bytes, for saves and loads.
        timeout: Seconds that an operation may take in all, retries included; `None` for no
            deadline. It bounds a save or a load as a whole, each page of a listing and each batch
            of a delete. Of `update_latest` it bounds each attempt, without the time that `update`
            takes. Opening may take as long, and at least 15 seconds; closing waits so long for the
            operations under way.
        on_operation: Called with an `OperationRecord` when an operation ends, on the event loop,
            in the context of the operation's caller: a plain function that does not block. What it
            raises is logged, the first time, and goes no further. Default `None`.
        on_operation_keys: Whether records have keys, and so the ids in them. Default `False`.

    Attributes:
        objects: The store under management, for objects of your own beside the snapshots. It is
            opened and closed with the storage.
        layout: Where each object lies in it.
        max_snapshot_bytes: As the argument.

    Raises:
        InvalidIdentifierError: The prefix can't be part of a key, or is too long.
        ValueError: `max_snapshot_bytes` or `timeout` is not positive.
        TypeError: `on_operation` is not a plain function.

    Every operation raises, before any request is sent:

    - `StorageClosedError` before the storage is opened and after it is closed;
    - `WrongEventLoopError` from another event loop;
    - `InvalidIdentifierError` for an id that is not valid, `TypeError` for a location that is none;

    and `StorageError`, mostly one of its subclasses, where the store fails:
    `StorageTimeoutError` at the deadline.
    """

    async def save_snapshot(
        self,
        *,
        location: SnapshotLocation,
        snapshot: Snapshot | RawSnapshot,
        is_latest: bool,
        snapshot_id: str | None = None,
        if_match: str | SavedSnapshot | VersionedSnapshot | None = None,
        if_none_match: bool = False,
    ) -> SavedSnapshot:
        """Save a snapshot, as it is now: it is checked and written as JSON before anything else.

        Args:
            location: Where it belongs.
            snapshot: The snapshot.
            is_latest: `True` writes the latest snapshot, over any there is. `False` writes
                immutable history.
            snapshot_id: A UUIDv7 for history; `None` makes one. Ignored with `is_latest`.
            if_match: Only for latest: write only over this version. An etag, or what a save or
                `load_versioned` returned.
            if_none_match: Only for latest: write only if there is no latest snapshot.

        Returns:
            The id in history, or `None` for latest, and the etag of what was written.

        Raises:
            SnapshotConflictError: The condition does not hold, a missing object included; nothing
                was changed.
            SnapshotExistsError: History has other bytes under this id. The same bytes are a
                success, so that a save can be repeated.
            SnapshotEncodeError: JSON can't carry the snapshot exactly, or it is too large.
            ScopeMismatchError: The snapshot is of another scope than the location.
            TypeError: A condition was given for history, or both for latest.
        """
        with self._operation("save_snapshot"):
            if is_latest:
                key = self.layout.latest(location)
                version = version_to_match(key, if_match, if_none_match)
                data = await self._writer.encode(location, snapshot)
                return await self._writer.save_latest(key, data, version, if_none_match)
            version = version_to_match("", if_match, if_none_match)
            if version is not None or if_none_match:
                raise TypeError(
                    "if_match and if_none_match are for latest: history is never overwritten"
                )
            snapshot_id = _new_or_valid(snapshot_id)
            key = self.layout.history(location, snapshot_id)
            data = await self._writer.encode(location, snapshot)
            return await self._writer.save_history(key, data, snapshot_id)

    async def checkpoint(
        self,
        *,
        location: SnapshotLocation,
        snapshot: Snapshot | RawSnapshot,
        snapshot_id: str | None = None,
        if_match: str | SavedSnapshot | VersionedSnapshot | None = None,
        if_none_match: bool = False,
    ) -> SavedSnapshot:
        """Save a snapshot in history and then as the latest one, in this order.

        So latest never holds what history doesn't. Where the second write fails, history has one
        snapshot more.

        Args:
            location: Where it belongs.
            snapshot: The snapshot.
            snapshot_id: A UUIDv7; `None` makes one.
            if_match: Write latest only over this version.
            if_none_match: Write latest only if there is none.

        Returns:
            The id in history and latest's etag.

        Raises:
            SnapshotConflictError: Latest is not as expected, and was not changed.
            TypeError: Both conditions were given.
            SnapshotExistsError: History has other bytes under this id; latest was not changed.
            SnapshotEncodeError: JSON can't carry the snapshot exactly, or it is too large.
            ScopeMismatchError: The snapshot is of another scope than the location.
        """
        with self._operation("checkpoint"):
            latest = self.layout.latest(location)
            version = version_to_match(latest, if_match, if_none_match)
            snapshot_id = _new_or_valid(snapshot_id)
            history = self.layout.history(location, snapshot_id)
            data = await self._writer.encode(location, snapshot)
            return await self._writer.save_both(
                history=history,
                latest=latest,
                document=data,
                snapshot_id=snapshot_id,
                if_match=version,
                if_none_match=if_none_match,
            )

    async def load_snapshot(
        self,
        *,
        location: SnapshotLocation,
        snapshot_id: str | None = None,
        as_of: datetime | None = None,
    ) -> Snapshot | None:
        """Load a snapshot.

        Args:
            location: Where it belongs.
            snapshot_id: Its id in history; `None` for the latest.
            as_of: Load the newest snapshot in history or archive of this time or earlier, in whole
                milliseconds. What was deleted from history, or was only saved as latest, is not
                found. It costs the requests of `list_snapshot_ids` for the newest id, a listing of
                the location's packs, and a load; for an archived one a read of its pack.

        Returns:
            The snapshot; `None` if there is none, and for no other reason.

        Raises:
            SnapshotDecodeError: What is stored is not a good snapshot, or is too large; or a pack
                that may have it is damaged.
            TypeError: Both an id and a time are given, or the time is no datetime.
            ValueError: The time is naive or before 1970.
            ModuleNotFoundError: A pack must be read, and the extra `archive` is not installed.
        """
        with self._operation("load_snapshot"):
            if as_of is None:
                versioned = await self._load(location, snapshot_id)
                return None if versioned is None else versioned.snapshot
            milliseconds_since_epoch(as_of, "as_of")
            if snapshot_id is not None:
                raise TypeError("snapshot_id and as_of exclude each other")
            history = History(self.objects, self.layout, location)

            async def load(found: str) -> Snapshot | None:
                versioned = await self._load(location, found)
                return None if versioned is None else versioned.snapshot

            archive = self._archive(location)
            return await load_as_of(history, archive, as_of, load, self._decode_archived)

    async def load_versioned(
        self, *, location: SnapshotLocation, snapshot_id: str | None = None
    ) -> VersionedSnapshot | None:
        """Load a snapshot together with its etag, for compare-and-swap.

        Args:
            location: Where it belongs.
            snapshot_id: Its id in history; `None` for the latest.

        Returns:
            The snapshot with its version; `None` if there is none.

        Raises:
            SnapshotDecodeError: What is stored is not a good snapshot, or is too large.

        Example:
            Save only if nobody else has saved meanwhile::

                read = await storage.load_versioned(location=location)
                await storage.save_snapshot(
                    location=location, snapshot=changed, is_latest=True, if_match=read
                )
        """
        with self._operation("load_versioned"):
            return await self._load(location, snapshot_id)

    async def load_raw(
        self, *, location: SnapshotLocation, snapshot_id: str | None = None
    ) -> RawSnapshot | None:
        """Load a snapshot as the JSON it is stored as, to be saved or sent elsewhere.

        It is checked as by `load_snapshot`, at the same cost, but for the memory of a large one.

        Args:
            location: Where it belongs.
            snapshot_id: Its id in history; `None` for the latest.

        Returns:
            The snapshot as it was checked; `None` if there is none.

        Raises:
            SnapshotDecodeError: What is stored is not a good snapshot, or is too large.
        """
        with self._operation("load_raw"):
            key = self._key(location, snapshot_id)
            return await self.objects.run("get", key, lambda: self._reader.load_raw(key))

    async def rewind(
        self,
        *,
        location: SnapshotLocation,
        snapshot_id: str,
        if_match: str | SavedSnapshot | VersionedSnapshot | None = None,
        if_none_match: bool = False,
    ) -> SavedSnapshot:
        """Go back: make a snapshot of history the latest one. Its document is not changed.

        Args:
            location: Where it belongs.
            snapshot_id: Its id in history.
            if_match: Write latest only over this version.
            if_none_match: Write latest only if there is none. Without a condition it is written
                over any there is.

        Returns:
            The id, and the etag of latest. `load_versioned` of latest gives the same id, where the
            store keeps metadata.

        Raises:
            SnapshotNotFoundError: History has no such snapshot; nothing was changed.
            SnapshotConflictError: Latest is not as expected, and was not changed.
            TypeError: Both conditions were given.
            SnapshotDecodeError: What is stored in history is not a good snapshot, or is too large.
            ScopeMismatchError: It is of another scope than the location.
        """
        with self._operation("rewind"):
            latest = self.layout.latest(location)
            snapshot_id = validate_snapshot_id(snapshot_id)
            return await rewind_latest(
                self.objects,
                self._reader,
                history=self.layout.history(location, snapshot_id),
                latest=latest,
                snapshot_id=snapshot_id,
                if_match=version_to_match(latest, if_match, if_none_match),
                if_none_match=if_none_match,
                encode=lambda raw: self._writer.encode(location, raw),
            )

    async def update_latest(
        self,
        *,
        location: SnapshotLocation,
        update: Callable[[Snapshot | None], Snapshot | Awaitable[Snapshot]],
        max_attempts: int = 64,
    ) -> SavedSnapshot:
        """Change the latest snapshot so that no other writer's change is lost.

        It loads the latest snapshot, applies `update` and saves the result on the condition that
        the one it loaded is still the latest; if not, again from the start after a random wait.

        Args:
            location: Where it belongs.
            update: Makes the new snapshot from the latest one, or from `None` if there is none;
                a function or a coroutine function. It may be called many times. Where it returns
                the snapshot that it was given, unchanged, nothing is written.
            max_attempts: How often it is tried; at least 1.

        Returns:
            The etag of what was written, or of what was left as it is; no id.

        Raises:
            SnapshotConflictError: Every attempt lost its race.
            SnapshotDecodeError: What is stored is not a good snapshot, or is too large.
            SnapshotEncodeError: JSON can't carry the result exactly, or it is too large.
            ScopeMismatchError: The result is of another scope than the location.
            ValueError: `max_attempts` is less than 1.
        """
        if max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")
        with self._operation("update_latest"):
            latest = LatestUpdate(
                self.objects,
                self._reader,
                self.layout.latest(location),
                update=update if self._observer is None else unrecorded(update),
                encode=lambda updated: self._writer.encode(location, updated),
            )
            return await latest.run(max_attempts)

    async def list_snapshot_ids(
        self,
        *,
        location: SnapshotLocation,
        limit: int | None = None,
        start_after: str | None = None,
        newest_first: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[str]:
        """List the ids in history, oldest first or newest first.

        Args:
            location: Where the snapshots belong.
            limit: How many at the most; `None` for all. Zero or less is none.
            start_after: Leave out this id and all that come before it in the direction of the
                listing: with `newest_first`, all that are newer. It need not exist.
            newest_first: The direction.
            since: Only ids of this time or later. Times are compared in whole milliseconds, as ids
                have them: `snapshot_time`.
            until: Only ids of this time or earlier.

        Returns:
            The ids, as many as there are up to `limit`. The oldest ten cost one request, however
            long the history is. The newest, up to 1,000, cost one request among up to 1,000 ids,
            mostly fewer than ten among more, and at most 24 more than listing all.

        Raises:
            TypeError: A time is no datetime.
            ValueError: A time is naive or before 1970, or `since` is later than `until`.
            InvalidResponseError: The store's listing is broken or out of order.
        """
        with self._operation("list_snapshot_ids"):
            history = History(self.objects, self.layout, location)
            interval = Interval.of(start_after, newest_first=newest_first, since=since, until=until)
            return await history.list_ids(interval, limit, newest_first=newest_first)

    def iter_snapshot_ids(
        self,
        *,
        location: SnapshotLocation,
        start_after: str | None = None,
        newest_first: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncGenerator[str, None]:
        """Walk the ids in history, oldest first or newest first, with a page in memory at a time.

        Newest first, it reads all pages before the first id, and then again from the last one. For
        the newest few, `list_snapshot_ids` with a limit takes fewer requests.

        Args:
            location: Where the snapshots belong.
            start_after: As in `list_snapshot_ids`, as are the others.
            newest_first: The direction.
            since: Only ids of this time or later.
            until: Only ids of this time or earlier.

        Returns:
            An async generator. Close it if you leave it early.

        Raises:
            TypeError: A time is no datetime.
            ValueError: A time is naive or before 1970, or `since` is later than `until`.
            InvalidResponseError: The store's listing is broken or out of order.

        Example:
            ::

                async with aclosing(storage.iter_snapshot_ids(location=location)) as ids:
                    async for snapshot_id in ids:
                        ...
        """
        history = History(self.objects, self.layout, location)
        interval = Interval.of(start_after, newest_first=newest_first, since=since, until=until)
        pages = history.iter_pages(interval, newest_first=newest_first)
        if self._observer is not None:
            pages = self._observer.watch_pages("iter_snapshot_ids", self.layout, pages)
        return flatten(pages)

    async def load_manifest(self, *, location: SnapshotLocation) -> SnapshotManifest:
        """Load a location's manifest.

        Returns:
            The manifest; a default one, stamped now and not stored, if there is none.

        Raises:
            SnapshotDecodeError: What is stored is not a manifest.
        """
        with self._operation("load_manifest"):
            key = self.layout.manifest(location)
            stored = await self.objects.run("get", key, lambda: self._reader.get(key))
            if stored is None:
                return SnapshotManifest(SCHEMA_VERSION, now())
            return decode_manifest(stored.data, key=key)

    async def save_manifest(
        self, *, location: SnapshotLocation, manifest: SnapshotManifest
    ) -> None:
        """Save a location's manifest, over any there is.

        Raises:
            SnapshotEncodeError: JSON can't carry it exactly.
        """
        with self._operation("save_manifest"):
            key = self.layout.manifest(location)
            await self._writer.save_manifest(key, manifest)

    async def check(self, *, read_only: bool = False) -> CheckReport:
        """Find out what the store, its server and these credentials can do, by trying it.

        It writes a few small objects under a session of its own, `snapstore-check-<uuid7>`, tries
        to write them twice, over each other and at the same time, and removes them.

        Args:
            read_only: Write nothing: only reading and listing are tried, and the rest is
                `"unknown"`.

        Returns:
            What was found. There are findings on `"write"`, `"read"`, `"list"`, `"create-only"`,
            `"compare-and-swap"` and `"delete"`; on S3 also on `"single writes"` (whether something
            sends a write again), `"metadata"` (whether lost responses can be read back),
            `"if-match"` (which forms of an etag are taken), `"keys"` (whether they come back as
            they were written), `"versioning"`, `"encryption"`, `"batch delete"`, the `"client"`
            and the `"fast path"`; on files on `"locks"`, `"replacing"`, `"durability"`,
            `"permissions"` and `"hosts"`. What fails is reported, not raised. Where it is
            cancelled, its session stays: `delete_session` removes it.
        """
        with self._operation("check"):
            session_id = f"{CHECK_SESSION}{new_snapshot_id()}"
            prefix = self.layout.history_prefix(SnapshotLocation.agent(session_id, "check"))
            return await run_check(self.objects, prefix, read_only=read_only)

    async def _load(
        self, location: SnapshotLocation, snapshot_id: str | None
    ) -> VersionedSnapshot | None:
        key = self._key(location, snapshot_id)
        return await self.objects.run("get", key, lambda: self._reader.load(key))

    def _key(self, location: SnapshotLocation, snapshot_id: str | None) -> str:
        if snapshot_id is None:
            return self.layout.latest(location)
        return self.layout.history(location, validate_snapshot_id(snapshot_id))


def _new_or_valid(snapshot_id: str | None) -> str:
    return new_snapshot_id() if snapshot_id is None else validate_snapshot_id(snapshot_id)
