"""The one implementation of a snapshot storage, over any object store.

How the parts work together::

    save:   location → key (layout) → bytes (codec) → store.put
    load:   location → key → store.get → None, or snapshot (codec)
    list:   history prefix, start-after key → store.scan → ids → stop at the limit
    delete: session prefix → store.scan → batches → store.delete, overlapped
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from snapstore.encoding.envelope import (
    decode_manifest,
    decode_raw_snapshot,
    decode_raw_snapshot_in_slices,
    decode_snapshot,
    decode_snapshot_in_slices,
    encode_manifest,
    encode_snapshot,
)
from snapstore.encoding.padding import PADDING_BYTES, strip_padding
from snapstore.errors import (
    InvalidIdentifierError,
    OutcomeUnknownError,
    ScopeMismatchError,
    SnapshotConflictError,
    SnapshotDecodeError,
    StorageError,
)
from snapstore.model.ids import new_snapshot_id, validate_snapshot_id
from snapstore.model.keys import Layout
from snapstore.model.snapshot import (
    SCHEMA_VERSION,
    DeletedSession,
    RawSnapshot,
    SavedSnapshot,
    Snapshot,
    SnapshotLocation,
    SnapshotManifest,
    VersionedSnapshot,
    now,
)
from snapstore.storage.check import CheckReport, Probes
from snapstore.storage.deletion import SessionDeletion
from snapstore.storage.listing import each_of, iter_id_pages, iter_keys
from snapstore.storage.writes import ORIGIN, put_history, put_latest, try_latest
from snapstore.stores.base import (
    PAGE_SIZE,
    Body,
    Finding,
    InspectableStore,
    ObjectStore,
    ObjectTooLargeError,
    PreconditionFailedError,
    RefusedWrite,
    StoredObject,
    SweepableStore,
    Version,
)
from snapstore.stores.deadline import in_time
from snapstore.stores.lifecycle import Lifecycle
from snapstore.stores.retry import full_jitter

__all__ = ["DEFAULT_MAX_SNAPSHOT_BYTES", "ObjectSnapshotStorage"]

T = TypeVar("T")

DEFAULT_MAX_SNAPSHOT_BYTES: Final = 64 * 2**20
"""64 MiB: how large a snapshot may be as JSON, unless it is said otherwise."""

_LARGE: Final = 512 * 1024
"""Bytes of JSON from which on decoding it at once would stall the event loop."""

_ETAG = re.compile(r"[!#-~]+", re.ASCII)
"""What may stand between the quotes of an etag (RFC 9110, section 8.8.3), and is ASCII."""

_UNDER_WAY: Final = nullcontext()
"""The use of the store by a listing inside an operation, which has begun its own already."""


class ObjectSnapshotStorage:
    """Snapshots in any object store. `S3Storage`, `FileStorage` and `MemoryStorage` are ones.

    It is opened and closed with `async with`, or with `open` and `aclose`, and used on the event
    loop it was opened on.

    Args:
        store: Where the bytes go.
        prefix: What all keys begin with, without the closing `/`; used verbatim. `""` for none.
        max_snapshot_bytes: How large a snapshot may be as JSON, in bytes, both ways.
        timeout: Seconds that an operation may take in all, retries included; `None` for no
            deadline. It bounds a save or a load as a whole, each page of a listing and each batch
            of a delete. Of `update_latest` it bounds each attempt, without the time that `update`
            takes.

    Raises:
        InvalidIdentifierError: The prefix can't be part of a key, or is too long.
        ValueError: `max_snapshot_bytes` or `timeout` is not positive.

    Every operation raises, before any request is sent:

    - `StorageClosedError` before the storage is opened and after it is closed;
    - `WrongEventLoopError` from another event loop;
    - `InvalidIdentifierError` for an id that is not valid, `TypeError` for a location that is none;

    and `StorageError`, mostly one of its subclasses, where the store fails:
    `StorageTimeoutError` at the deadline.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        prefix: str = "",
        max_snapshot_bytes: int = DEFAULT_MAX_SNAPSHOT_BYTES,
        timeout: float | None = None,
    ) -> None:
        if max_snapshot_bytes < 1:
            raise ValueError("max_snapshot_bytes must be at least 1")
        if timeout is not None and not timeout > 0:
            raise ValueError("timeout must be more than 0 seconds, or None")
        self._store = store
        self._layout = Layout(prefix)
        self._max_bytes = max_snapshot_bytes
        self._timeout = timeout
        self._lifecycle = Lifecycle(type(self).__name__, store.open, store.aclose)
        self._decoding: asyncio.Lock

    async def open(self) -> None:
        """Get ready for use on the running event loop. A closed storage may be opened again.

        Raises:
            LifecycleError: It is open already.
            StorageError: The store can't be opened.
        """
        # Two that take turns would both end late, and hold the memory of both until then.
        self._decoding = asyncio.Lock()
        await self._lifecycle.open()

    async def aclose(self) -> None:
        """Refuse new operations, wait for those under way, and release what is held.

        Closing a closed storage does nothing.

        Raises:
            WrongEventLoopError: It was opened on another loop.
        """
        await self._lifecycle.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

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
        with self._lifecycle:
            if is_latest:
                key = self._layout.latest(location)
                version = _version(key, if_match, if_none_match)
                data = self._encode(location, snapshot)
                work = put_latest(
                    self._store, key, data, if_match=version, if_none_match=if_none_match
                )
                conditional = version is not None or if_none_match
                return await self._write(work, key, repeatable=not conditional)
            version = _version("", if_match, if_none_match)
            if version is not None or if_none_match:
                raise TypeError(
                    "if_match and if_none_match are for latest: history is never overwritten"
                )
            snapshot_id = _new_or_valid(snapshot_id)
            key = self._layout.history(location, snapshot_id)
            data = self._encode(location, snapshot)
            work = put_history(self._store, key, data, snapshot_id)
            return await self._write(work, key, snapshot_id=snapshot_id)

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
        with self._lifecycle:
            latest = self._layout.latest(location)
            version = _version(latest, if_match, if_none_match)
            snapshot_id = _new_or_valid(snapshot_id)
            history = self._layout.history(location, snapshot_id)
            data = self._encode(location, snapshot)

            async def put_both() -> SavedSnapshot:
                await put_history(self._store, history, data, snapshot_id)
                return await put_latest(
                    self._store,
                    latest,
                    data,
                    snapshot_id=snapshot_id,
                    if_match=version,
                    if_none_match=if_none_match,
                )

            conditional = version is not None or if_none_match
            return await self._write(
                put_both(), latest, snapshot_id=snapshot_id, repeatable=not conditional
            )

    async def load_snapshot(
        self, *, location: SnapshotLocation, snapshot_id: str | None = None
    ) -> Snapshot | None:
        """Load a snapshot.

        Args:
            location: Where it belongs.
            snapshot_id: Its id in history; `None` for the latest.

        Returns:
            The snapshot; `None` if there is none, and for no other reason.

        Raises:
            SnapshotDecodeError: What is stored is not a good snapshot, or is too large.
        """
        versioned = await self.load_versioned(location=location, snapshot_id=snapshot_id)
        return None if versioned is None else versioned.snapshot

    async def load_versioned(
        self, *, location: SnapshotLocation, snapshot_id: str | None = None
    ) -> VersionedSnapshot | None:
        """Load a snapshot together with its etag, for compare-and-swap.

        Args and errors: as `load_snapshot`.

        Example:
            Save only if nobody else has saved meanwhile::

                read = await storage.load_versioned(location=location)
                await storage.save_snapshot(
                    location=location, snapshot=changed, is_latest=True, if_match=read
                )
        """
        with self._lifecycle:
            key = self._key(location, snapshot_id)
            return await self._in_time(self._load(key), "get", key)

    async def load_raw(
        self, *, location: SnapshotLocation, snapshot_id: str | None = None
    ) -> RawSnapshot | None:
        """Load a snapshot as the JSON it is stored as, to be saved or sent elsewhere.

        It is checked as by `load_snapshot`, at the same cost, but for the memory of a large one.

        Args and errors: as `load_snapshot`.
        """
        with self._lifecycle:
            key = self._key(location, snapshot_id)
            return await self._in_time(self._load_raw(key), "get", key)

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
        """
        if max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")
        with self._lifecycle:
            key = self._layout.latest(location)
            refused: RefusedWrite | None = None
            for attempt in range(max_attempts):
                if attempt:
                    await asyncio.sleep(full_jitter(attempt - 1))
                began = time.monotonic()
                stored = await self._read(key, refused)
                version = None if stored is None else stored.version
                if refused is not None and (applied := _resolved(refused, version)) is not None:
                    return SavedSnapshot(None, applied.etag, applied.lineage, key)
                taken = time.monotonic() - began
                read = await self._in_time(self._decode(stored, key), "get", key, taken=taken)
                taken = time.monotonic() - began
                updated = update(None if read is None else read.snapshot)
                if inspect.isawaitable(updated):
                    updated = await updated
                data = self._encode(location, updated)
                if stored is not None and read is not None and updated is read.snapshot:
                    before = decode_snapshot(stored.data, key=key)
                    if data == encode_snapshot(before, max_bytes=self._max_bytes):
                        return SavedSnapshot(None, read.etag, read.lineage, key)
                is_last = attempt + 1 == max_attempts
                work: Awaitable[SavedSnapshot | RefusedWrite]
                if is_last:
                    work = put_latest(
                        self._store, key, data, if_match=version, if_none_match=stored is None
                    )
                else:
                    work = try_latest(self._store, key, data, if_match=version)
                try:
                    result = await self._write(work, key, repeatable=False, taken=taken)
                except SnapshotConflictError:
                    if is_last:
                        raise
                    refused = None
                    continue
                if isinstance(result, SavedSnapshot):
                    return result
                refused = result
            raise AssertionError("unreachable")

    async def list_snapshot_ids(
        self,
        *,
        location: SnapshotLocation,
        limit: int | None = None,
        start_after: str | None = None,
    ) -> list[str]:
        """List the ids in history, oldest first.

        Args:
            location: Where the snapshots belong.
            limit: How many at the most; `None` for all. Zero or less is none.
            start_after: Leave out this id and all before it; it need not exist.

        Returns:
            The ids, as many as there are up to `limit`. A page of ten costs one request, however
            long the history is.

        Raises:
            InvalidResponseError: The store's listing is broken or out of order.
        """
        ids: list[str] = []
        page_size = PAGE_SIZE if limit is None else min(max(limit, 1), PAGE_SIZE)
        with self._lifecycle:
            async with aclosing(self._history(location, start_after, page_size)) as pages:
                while limit is None or len(ids) < limit:
                    page = await anext(pages, None)
                    if page is None:
                        break
                    ids += page
        return ids if limit is None else ids[: max(limit, 0)]

    def iter_snapshot_ids(
        self, *, location: SnapshotLocation, start_after: str | None = None
    ) -> AsyncGenerator[str, None]:
        """Walk the ids in history, oldest first, with one page in memory at a time.

        Args and errors: as `list_snapshot_ids`.

        Returns:
            An async generator. Close it if you leave it early.

        Example:
            ::

                async with aclosing(storage.iter_snapshot_ids(location=location)) as ids:
                    async for snapshot_id in ids:
                        ...
        """
        return each_of(self._history(location, start_after, PAGE_SIZE, use=self._lifecycle))

    async def delete_session(self, *, session_id: str) -> DeletedSession:
        """Delete every object of a session: all scopes, latest, history and manifests.

        It is not atomic: what another writer saves meanwhile may stay. In a versioned bucket the
        versions stay. A session is what has an object of the layout directly under its name
        (`<session_id>/scopes/…`). Under a name without one, as `backups`, nothing is deleted. Nor
        is what belongs to another store that lies nested under the session's name, like that of a
        prefix `tenant1` under a session `tenant1`: its sessions, and the directories `context/`,
        `memory/` and `offloader/` of the Strands SDKs.

        A delete that failed or was cancelled can be repeated.

        Args:
            session_id: The session. If it has no objects, nothing is done.

        Returns:
            How many objects were deleted, and how many kept.

        Raises:
            PartialDeleteError: Some objects were not confirmed as deleted. `failed` names them,
                `"Unconfirmed"` being the code of those whose request failed or was not made. If a
                later request failed as a whole, its error is the cause, and what had not been
                listed yet is not named.
        """
        with self._lifecycle:
            prefix = self._layout.session_prefix(session_id)

            async def delete(keys: list[str]) -> Mapping[str, str]:
                work = self._store.delete(keys)
                return await self._in_time(work, "delete", prefix, writes=True)

            place = self._store.name
            deletion = SessionDeletion(prefix, place, pages=self._pages, delete=delete)
            deleted = await deletion.run()
            if isinstance(self._store, SweepableStore):
                own = f"{prefix}scopes/"
                await self._in_time(self._store.sweep(own), "delete", own, writes=True)
            return deleted

    async def load_manifest(self, *, location: SnapshotLocation) -> SnapshotManifest:
        """Load a location's manifest.

        Returns:
            The manifest; a default one, stamped now and not stored, if there is none.

        Raises:
            SnapshotDecodeError: What is stored is not a manifest.
        """
        with self._lifecycle:
            key = self._layout.manifest(location)
            stored = await self._in_time(self._get(key), "get", key)
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
        with self._lifecycle:
            key = self._layout.manifest(location)
            data = Body(encode_manifest(manifest, max_bytes=self._max_bytes))
            await self._write(self._store.put(key, data), key)

    async def check(self) -> CheckReport:
        """Find out what the store, its server and these credentials can do, by trying it.

        It writes a few small objects under a session of its own, `snapstore-check-<uuid7>`, tries
        to write them twice, over each other and at the same time, and removes them.

        Returns:
            What was found. There are findings on `"write"`, `"read"`, `"list"`, `"create-only"`,
            `"compare-and-swap"` and `"delete"`; on S3 also on `"single writes"` (whether something
            sends a write again), `"metadata"` (whether lost responses can be read back),
            `"if-match"` (which forms of an etag are taken), `"keys"` (whether they come back as
            they were written), `"versioning"`, `"encryption"`, `"batch delete"`, the `"client"`
            and the `"direct path"`; on files on `"locks"`, `"replacing"`, `"durability"`,
            `"permissions"` and `"hosts"`. What fails is reported, not raised. Where it is
            cancelled, its session stays: `delete_session` removes it.
        """
        with self._lifecycle:
            session_id = f"snapstore-check-{new_snapshot_id()}"
            prefix = self._layout.history_prefix(SnapshotLocation.agent(session_id, "check"))

            def in_time(probe: Awaitable[T]) -> Awaitable[T]:
                return self._in_time(probe, "check", prefix)

            probes = Probes(self._store, prefix)
            async with aclosing(probes.run(in_time)) as found:
                findings = [finding async for finding in found]
            if isinstance(self._store, InspectableStore):
                try:
                    findings += await in_time(self._store.inspect(f"{prefix}inspected.json"))
                except StorageError as error:
                    findings.append(Finding("inspection", "unknown", str(error)))
            return CheckReport(tuple(findings))

    def _encode(self, location: SnapshotLocation, snapshot: Snapshot | RawSnapshot) -> bytes:
        data = Body(encode_snapshot(snapshot, max_bytes=self._max_bytes))
        if not isinstance(location, SnapshotLocation):
            del data  # it would be in the error's frame
            raise TypeError(f"location must be a SnapshotLocation, not a {type(location).__name__}")
        if snapshot.scope != location.scope:
            del data
            raise ScopeMismatchError(
                f"a snapshot of scope {snapshot.scope!r} can't be saved in scope {location.scope!r}"
            )
        return data

    async def _load(self, key: str) -> VersionedSnapshot | None:
        return await self._decode(await self._get(key), key)

    async def _decode(self, stored: StoredObject | None, key: str) -> VersionedSnapshot | None:
        if stored is None:
            return None
        if len(stored.data) <= _LARGE:
            snapshot = decode_snapshot(stored.data, key=key)
        else:
            async with self._decoding:
                snapshot = await decode_snapshot_in_slices(stored.data, key=key)
        etag, lineage = stored.version
        origin = Layout.snapshot_id_of(key) or stored.metadata.get(ORIGIN)
        return VersionedSnapshot(snapshot, etag, lineage, key, snapshot_id=origin)

    async def _read(self, key: str, refused: RefusedWrite | None) -> StoredObject | None:
        """Read an object until the deadline, also to tell what became of a refused write."""
        try:
            return await self._in_time(self._get(key), "get", key)
        except StorageError as error:
            if refused is not None:
                error.outcome, error.retryable = "unknown", False
            raise

    async def _load_raw(self, key: str) -> RawSnapshot | None:
        stored = await self._get(key)
        if stored is None:
            return None
        document = strip_padding(stored.data)
        if len(document) <= _LARGE:
            return decode_raw_snapshot(document, key=key)
        async with self._decoding:
            return await decode_raw_snapshot_in_slices(document, key=key)

    def _key(self, location: SnapshotLocation, snapshot_id: str | None) -> str:
        if snapshot_id is None:
            return self._layout.latest(location)
        return self._layout.history(location, validate_snapshot_id(snapshot_id))

    async def _in_time(
        self,
        work: Awaitable[T],
        operation: str,
        key: str,
        *,
        writes: bool = False,
        taken: float = 0.0,
    ) -> T:
        """Wait for an operation until its deadline.

        Args:
            work: The operation.
            operation: What it is called in errors.
            key: The key or prefix that it is about.
            writes: Whether it changes something.
            taken: The seconds of its time that are gone already.
        """
        return await in_time(
            work,
            self._timeout,
            operation=operation,
            key=key,
            place=self._store.name,
            writes=writes,
            taken=taken,
        )

    async def _write(
        self,
        work: Awaitable[T],
        key: str,
        *,
        snapshot_id: str | None = None,
        repeatable: bool = True,
        taken: float = 0.0,
    ) -> T:
        """Wait for a write until its deadline, and say of its error what a caller needs to know.

        Args:
            work: The write.
            key: The key that it is about.
            snapshot_id: The id of what it saves in history.
            repeatable: Whether the same call may be made again where it may have been applied.
            taken: The seconds of its time that are gone already.
        """
        try:
            return await self._in_time(work, "put", key, writes=True, taken=taken)
        except StorageError as error:
            error.snapshot_id = snapshot_id
            error.outcome = error.outcome or "unknown"
            if error.outcome == "unknown":
                passes = error.retryable or isinstance(error, OutcomeUnknownError)
                error.retryable = passes and repeatable
            raise

    async def _get(self, key: str) -> StoredObject | None:
        try:
            stored = await self._store.get(key, max_bytes=self._max_bytes + PADDING_BYTES)
        except ObjectTooLargeError as error:
            problem = str(error)
        else:
            if stored is None or len(stored.data) <= self._max_bytes:
                return stored
            length = len(strip_padding(stored.data))
            if length <= self._max_bytes:
                return stored
            problem = f"it has {length:,} bytes, where {self._max_bytes:,} are allowed"
        raise SnapshotDecodeError(f"{key} is too large: {problem}", key=key)

    def _history(
        self,
        location: SnapshotLocation,
        start_after: str | None,
        page_size: int,
        use: AbstractContextManager[None] = _UNDER_WAY,
    ) -> AsyncGenerator[list[str], None]:
        prefix, cursor = self._layout.history_prefix(location), None
        if start_after is not None:
            start_after = validate_snapshot_id(start_after, "start_after")
            cursor = self._layout.history(location, start_after)
        pages = self._pages(prefix, cursor, page_size, use)
        return iter_id_pages(pages, prefix, start_after=start_after or "")

    def _pages(
        self,
        prefix: str,
        start_after: str | None = None,
        page_size: int = PAGE_SIZE,
        use: AbstractContextManager[None] = _UNDER_WAY,
    ) -> AsyncGenerator[list[str], None]:
        async def fetch(scan: AsyncGenerator[list[str], None]) -> list[str] | None:
            # A walk uses the store only while a page is fetched: its consumer has all time.
            with use:
                return await self._in_time(anext(scan, None), "scan", prefix)

        scan = self._store.scan(prefix, start_after=start_after, page_size=page_size)
        return iter_keys(scan, prefix, fetch)


def _resolved(refused: RefusedWrite, found: Version | None) -> Version | None:
    """The version that a refused write has made after all, if it was applied."""
    try:
        return refused.resolve(found)
    except PreconditionFailedError:
        return None


def _new_or_valid(snapshot_id: str | None) -> str:
    return new_snapshot_id() if snapshot_id is None else validate_snapshot_id(snapshot_id)


def _version(key: str, given: Any, if_none_match: bool = False) -> Version | None:
    """The version in what a caller gives for `if_match`, its etag without quotes.

    Args:
        key: The key of what is to be written.
        given: The argument.
        if_none_match: The other argument.
    """
    if given is None:
        return None
    if if_none_match:
        raise TypeError("if_match and if_none_match exclude each other")
    lineage = ""
    etag = given
    if isinstance(given, SavedSnapshot | VersionedSnapshot):
        etag, lineage = given.etag, given.lineage
        if key and given.key and given.key != key:
            raise InvalidIdentifierError(f"if_match is a version of {given.key}, not of {key}")
    if isinstance(etag, str):
        etag = etag.removeprefix("W/").strip('"')
        if _ETAG.fullmatch(etag) and etag != "*":
            return Version(etag, lineage)
    raise InvalidIdentifierError("if_match must be an etag, or what a save or load returned")
