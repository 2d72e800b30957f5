"""Writes of snapshots: latest, over any or on a condition, and history, which is create-only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from snapstore.encoding.envelope import encode_manifest, encode_snapshot_in_steps
from snapstore.encoding.frames import drop_frames_of_coroutine
from snapstore.encoding.padding import pad
from snapstore.encoding.turns import Turns
from snapstore.errors import (
    OutcomeUnknownError,
    ScopeMismatchError,
    SessionDeletedError,
    SnapshotConflictError,
    SnapshotExistsError,
    StorageError,
)
from snapstore.model.snapshot import (
    RawSnapshot,
    SavedSnapshot,
    Snapshot,
    SnapshotLocation,
    SnapshotManifest,
)
from snapstore.stores.base import (
    Body,
    ObjectStore,
    ObjectTooLargeError,
    PreconditionFailedError,
    Version,
)
from snapstore.stores.capabilities import (
    DeferredReadbackStore,
    MetadataStore,
    RefusedWrite,
    capability,
)
from snapstore.stores.managed import ManagedStore
from snapstore.stores.recording import count_read, count_written

__all__ = [
    "ORIGIN",
    "SnapshotWriter",
    "conflict",
    "put_history",
    "put_latest",
    "run_write",
    "try_latest",
]

T = TypeVar("T")

ORIGIN: Final = "snapstore-snapshot"
"""The metadata of latest that holds the id of the entry in history that it was saved from."""


class SnapshotWriter:
    """Saves snapshots and manifests, each save as one call of a store.

    Args:
        objects: Where to.
        max_bytes: How large a document may be as JSON.
    """

    def __init__(self, objects: ManagedStore, max_bytes: int) -> None:
        self._objects = objects
        self._max_bytes = max_bytes
        self._turns = Turns()

    @drop_frames_of_coroutine
    async def encode(self, location: SnapshotLocation, snapshot: Snapshot | RawSnapshot) -> bytes:
        """Encode a snapshot that is to be saved at a location, as it is at the call.

        The event loop runs while a large one is checked.

        Raises:
            SnapshotEncodeError: JSON can't carry it exactly, or it is too large.
            ScopeMismatchError: It is of another scope than the location.
        """
        if not isinstance(location, SnapshotLocation):
            raise TypeError(f"location must be a SnapshotLocation, not a {type(location).__name__}")
        steps = encode_snapshot_in_steps(snapshot, max_bytes=self._max_bytes)
        scope = getattr(snapshot, "scope", None)  # of the call, too
        data = Body(await self._turns.run(location, steps))
        if scope != location.scope:
            raise ScopeMismatchError(
                f"a snapshot of scope {scope!r} can't be saved in scope {location.scope!r}"
            )
        return data

    async def save_latest(
        self, key: str, document: bytes, if_match: Version | None, if_none_match: bool
    ) -> SavedSnapshot:
        """Write the latest snapshot: see `put_latest`."""
        store = self._objects.store
        return await run_write(
            self._objects,
            key,
            lambda: put_latest(
                store, key, document, if_match=if_match, if_none_match=if_none_match
            ),
            repeatable=if_match is None and not if_none_match,
        )

    async def save_history(self, key: str, document: bytes, snapshot_id: str) -> SavedSnapshot:
        """Write a snapshot to history: see `put_history`."""
        store = self._objects.store
        return await run_write(
            self._objects,
            key,
            lambda: put_history(store, key, document, snapshot_id),
            snapshot_id=snapshot_id,
        )

    async def save_both(
        self,
        *,
        history: str,
        latest: str,
        document: bytes,
        snapshot_id: str,
        if_match: Version | None,
        if_none_match: bool,
    ) -> SavedSnapshot:
        """Write a snapshot to history, and then as the latest one.

        Args:
            history: Its key in history.
            latest: The key of latest.
            document: The snapshot as JSON.
            snapshot_id: Its id in history.
            if_match: Write latest only over this version.
            if_none_match: Write latest only if there is none.
        """
        store = self._objects.store

        async def put_both() -> SavedSnapshot:
            await put_history(store, history, document, snapshot_id)
            return await put_latest(
                store,
                latest,
                document,
                snapshot_id=snapshot_id,
                if_match=if_match,
                if_none_match=if_none_match,
            )

        return await run_write(
            self._objects,
            latest,
            put_both,
            snapshot_id=snapshot_id,
            repeatable=if_match is None and not if_none_match,
        )

    async def save_manifest(self, key: str, manifest: SnapshotManifest) -> None:
        """Write a manifest, over any there is.

        Raises:
            SnapshotEncodeError: JSON can't carry it exactly.
        """
        data = Body(encode_manifest(manifest, max_bytes=self._max_bytes))
        count_written(len(data))
        await run_write(self._objects, key, lambda: self._objects.store.put(key, data))


async def put_latest(
    store: ObjectStore,
    key: str,
    document: bytes,
    *,
    snapshot_id: str | None = None,
    if_match: Version | None = None,
    if_none_match: bool = False,
) -> SavedSnapshot:
    """Write the latest snapshot.

    Args:
        store: Where to.
        key: Its key.
        document: The snapshot as JSON.
        snapshot_id: The id of the entry in history that it was saved from.
        if_match: Write only over this version.
        if_none_match: Write only if there is none.

    Raises:
        SnapshotConflictError: The condition does not hold.
    """
    count_written(len(document))
    try:
        with_metadata = capability(store, MetadataStore)
        if with_metadata is not None:
            # Each try without condition may be applied, over what others have written meanwhile.
            is_conditional = if_match is not None or if_none_match
            version = await with_metadata.put_with_metadata(
                key,
                pad(document) if is_conditional else partial(pad, document),
                {} if snapshot_id is None else {ORIGIN: snapshot_id},
                if_match=if_match,
                if_none_match=if_none_match,
            )
        else:
            version = await store.put(
                key, pad(document), if_match=if_match, if_none_match=if_none_match
            )
    except PreconditionFailedError as error:
        refusal = error
    else:
        return SavedSnapshot(snapshot_id, version.etag, version.lineage, key)
    # Outside of the handler: one error is enough.
    raise conflict(key, refusal)


async def try_latest(
    store: ObjectStore, key: str, document: bytes, *, if_match: Version | None
) -> SavedSnapshot | RefusedWrite:
    """Write the latest snapshot over a version, or where there is none: `None`.

    Returns:
        What was saved; or the refused write, for a caller who reads the object anyway.

    Raises:
        SnapshotConflictError: The condition does not hold, and there is nothing to resolve.
    """
    refusing = capability(store, DeferredReadbackStore)
    if refusing is None:
        return await put_latest(
            store, key, document, if_match=if_match, if_none_match=if_match is None
        )
    count_written(len(document))
    try:
        result = await refusing.try_put(
            key, pad(document), if_match=if_match, if_none_match=if_match is None
        )
    except PreconditionFailedError as error:  # its outcome was in doubt, and was read back
        refusal = error
    else:
        if isinstance(result, Version):
            return SavedSnapshot(None, result.etag, result.lineage, key)
        return result
    # Outside of the handler: one error is enough.
    raise conflict(key, refusal)


async def put_history(
    store: ObjectStore, key: str, document: bytes, snapshot_id: str
) -> SavedSnapshot:
    """Write a snapshot to history, where there must be none under its id, or the same one.

    Args:
        store: Where to.
        key: Its key.
        document: The snapshot as JSON.
        snapshot_id: Its id.

    Raises:
        SnapshotExistsError: There is another one.
    """
    failure: PreconditionFailedError | OutcomeUnknownError
    count_written(len(document))
    try:
        version = await store.put(key, document, if_none_match=True)
    except (PreconditionFailedError, OutcomeUnknownError) as error:
        failure = error
    else:
        return SavedSnapshot(snapshot_id, version.etag, version.lineage, key)
    is_unknown = isinstance(failure, OutcomeUnknownError)
    # The same bytes are our own, from an earlier call or from a try whose response was lost.
    stored, is_larger = None, False
    try:
        stored = await store.get(key, max_bytes=len(document))
    except ObjectTooLargeError:
        is_larger = True
    except StorageError:
        if not is_unknown:
            raise
    if stored is not None:
        count_read(len(stored.data))
    if stored is not None and stored.data == document:
        return SavedSnapshot(snapshot_id, stored.version.etag, stored.version.lineage, key)
    if is_unknown:
        raise failure
    if stored is None and not is_larger:
        raise SnapshotConflictError(f"{key} was written and deleted meanwhile", **failure.facts)
    raise SnapshotExistsError(
        f"{key} exists with other content; history is never overwritten: use another snapshot_id",
        **failure.facts,
    )


async def run_write(
    objects: ManagedStore,
    key: str,
    work: Callable[[], Awaitable[T]],
    *,
    snapshot_id: str | None = None,
    repeatable: bool = True,
    taken: float = 0.0,
) -> T:
    """Write as one call, and say of its error what a caller needs to know.

    Args:
        objects: Where to.
        key: The key that it is about.
        work: Begins the write.
        snapshot_id: The id of what it saves in history.
        repeatable: Whether the same call may be made again where it may have been applied.
        taken: Seconds of the deadline that earlier steps have used.
    """
    try:
        return await objects.run("put", key, work, writes=True, taken=taken)
    except StorageError as error:
        error.snapshot_id = snapshot_id
        error.outcome = error.outcome or "unknown"
        if error.outcome == "unknown":
            passes = error.retryable or isinstance(error, OutcomeUnknownError)
            error.retryable = passes and repeatable
        raise


def conflict(key: str, refusal: PreconditionFailedError) -> SnapshotConflictError:
    """The error for a refused write of the latest snapshot.

    Args:
        key: Its key.
        refusal: What the store has raised.
    """
    if refusal.is_missing:
        return SessionDeletedError(
            f"{key} was not written: there is no snapshot to replace; it was deleted, or never "
            "saved here",
            **refusal.facts,
        )
    return SnapshotConflictError(
        f"{key} was not written: another writer came first", **refusal.facts
    )
