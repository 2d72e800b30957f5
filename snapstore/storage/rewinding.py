"""Going back: a snapshot of history becomes the latest one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from snapstore.errors import SnapshotNotFoundError, StorageError
from snapstore.model.snapshot import RawSnapshot, SavedSnapshot
from snapstore.storage.reading import SnapshotReader
from snapstore.storage.writes import put_latest, run_write
from snapstore.stores.base import Version
from snapstore.stores.managed import ManagedStore

__all__ = ["rewind_latest"]


async def rewind_latest(
    objects: ManagedStore,
    reader: SnapshotReader,
    *,
    history: str,
    latest: str,
    snapshot_id: str,
    if_match: Version | None,
    if_none_match: bool,
    encode: Callable[[RawSnapshot], Awaitable[bytes]],
) -> SavedSnapshot:
    """Read a snapshot of history and write its document as the latest one, under one deadline.

    Args:
        objects: The store.
        reader: Reads snapshots from it.
        history: The key of the snapshot in history.
        latest: The key of the latest snapshot.
        snapshot_id: The id of the snapshot.
        if_match: Write only over this version.
        if_none_match: Write only if there is no latest snapshot.
        encode: Validates the snapshot for its location.

    Raises:
        SnapshotNotFoundError: There is no such snapshot in history.
    """
    began = time.monotonic()
    try:
        raw = await objects.run("get", history, lambda: reader.load_raw(history))
    except StorageError as error:
        error.outcome = "not applied"
        error.snapshot_id = snapshot_id
        raise
    if raw is None:
        raise SnapshotNotFoundError(
            f"{history} does not exist; the latest snapshot was not changed",
            operation="get",
            bucket=objects.name,
            key=history,
            outcome="not applied",
            snapshot_id=snapshot_id,
        )
    document = await encode(raw)
    return await run_write(
        objects,
        latest,
        lambda: put_latest(
            objects.store,
            latest,
            document,
            snapshot_id=snapshot_id,
            if_match=if_match,
            if_none_match=if_none_match,
        ),
        snapshot_id=snapshot_id,
        repeatable=if_match is None and not if_none_match,
        taken=time.monotonic() - began,
    )
