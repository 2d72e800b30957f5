"""Append to a transcript: one new part for each batch, and the summary after it.

The name of a part is its time, by the clock of its writer. A writer continues from the newest part
that it has seen, so that its parts come after what it has read, also where its clock is behind.

A batch that is appended again after a failure gets the name that it had: the part is created only
if it is not there, so that nothing is repeated, even if the first try was applied.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from snapstore.errors import StorageTimeoutError, StorageUnavailableError
from snapstore.integrations.claude.entries import decode_part
from snapstore.integrations.claude.layout import (
    Transcript,
    milliseconds_of,
    name_of,
    part_name,
)
from snapstore.integrations.claude.parts import get_part, list_parts
from snapstore.integrations.claude.summaries import (
    Summary,
    fold,
    read_for_summary,
    read_summary,
)
from snapstore.stores.base import PreconditionFailedError, Version
from snapstore.stores.managed import ManagedStore
from snapstore.stores.retry import full_jitter

__all__ = ["SECONDS", "Writer", "forget_writers", "writer_of"]

_MOST_WRITERS: Final = 1_024
"""Transcripts whose state a store keeps in memory. Any other is looked at again."""

_ATTEMPTS: Final = 16

SECONDS: Final = 35.0
"""How long an append may take, with all of its requests. The SDK gives up after 60 seconds, which
opening the store counts to, and does not send the batch again then."""


class _Pending(NamedTuple):
    """A batch that may have been written or not."""

    digest: bytes
    name: str


class _Known(NamedTuple):
    """The summary as it is stored, and the keys of the parts that are not in it."""

    summary: Summary | None
    version: Version | None
    lacking: list[str]


class Writer:
    """What this process knows of a transcript that it writes.

    Its state is `_newest`, the time of the newest part seen; `_pending`, the last batch if it
    failed; and `_known`, the summary. Each is `None` if there is none, or it is not known.

    Args:
        transcript: The transcript.
    """

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._lock = asyncio.Lock()
        self._newest: int | None = None
        self._pending: _Pending | None = None
        self._known: _Known | None = None

    @property
    def is_busy(self) -> bool:
        """Whether it is at work."""
        return self._lock.locked()

    def saw(self, name: str) -> None:
        """Take note of the newest part that a reader has found."""
        milliseconds = milliseconds_of(name)
        if self._newest is None or milliseconds > self._newest:
            self._newest = milliseconds
            self._known = None  # another writer's part is not in it

    async def append(self, store: ManagedStore, key: Mapping[str, Any], data: bytes) -> None:
        """Append a batch.

        Args:
            store: Where the transcript is.
            key: The SDK's key of the transcript.
            data: The batch as a part.

        Raises:
            StorageError: It was not appended, or it is not known whether it was, or the summary
                was not written. To append it again repeats nothing.
        """
        timeout = asyncio.timeout(None if store.timeout is None else SECONDS)
        try:
            async with timeout:
                await self._append_in_turn(store, key, data)
        except TimeoutError:
            if not timeout.expired():
                raise
        else:
            return
        # Outside of the handler: what was interrupted must not be in the chain.
        raise StorageTimeoutError(
            f"a batch of {self._transcript.directory} was not appended within {SECONDS:g} s, by "
            "all requests together; append it again",
            operation="put",
            bucket=store.name,
            key=self._transcript.directory,
            outcome="unknown",
        )

    async def _append_in_turn(
        self, store: ManagedStore, key: Mapping[str, Any], data: bytes
    ) -> None:
        async with self._lock:
            try:
                await self._append(store, key, data)
            except BaseException:
                self._known = None  # the part may have been written, and not be in the summary
                raise

    async def _append(self, store: ManagedStore, key: Mapping[str, Any], data: bytes) -> None:
        summary_key = self._transcript.summary
        if summary_key is not None and self._known is None:
            self._known = await self._look(store, summary_key)
        if self._newest is None:
            keys = await list_parts(store, self._transcript, after=part_name(_now(), 0))
            self._newest = milliseconds_of(keys[-1]) if keys else 0
        digest = hashlib.blake2b(data).digest()
        pending = self._pending
        if pending is None or pending.digest != digest:
            pending = _Pending(digest, self._next_name())
        name = await self._put(store, data, pending)
        if summary_key is not None:
            await self._summarize(store, summary_key, key, name, data)
        self._pending = None

    def _next_name(self) -> str:
        self._newest = max(_now(), (self._newest or 0) + 1)
        return part_name(self._newest, secrets.randbits(24))

    async def _put(self, store: ManagedStore, data: bytes, pending: _Pending) -> str:
        """Write a part, and tell its name."""
        while True:
            self._pending = pending
            part = self._transcript.directory + pending.name
            try:
                await store.put(part, data, if_none_match=True)
            except PreconditionFailedError:
                stored = await get_part(store, part)
                if stored is None or stored.data != data:
                    # It is, or was, another writer's.
                    pending = pending._replace(name=self._next_name())
                    continue
            return pending.name

    async def _look(self, store: ManagedStore, key: str) -> _Known:
        """Read the summary, and list the parts that are not in it."""
        summary, version = await read_summary(store, key)
        after = None if summary is None else summary.through
        lacking = await list_parts(store, self._transcript, after=after)
        newest = [name_of(found) for found in lacking[-1:]] + ([] if after is None else [after])
        self._newest = max([self._newest or 0, *map(milliseconds_of, newest)])
        return _Known(summary, version, lacking)

    async def _summarize(
        self,
        store: ManagedStore,
        summary_key: str,
        key: Mapping[str, Any],
        name: str,
        data: bytes,
    ) -> None:
        """Fold a part that was written, and those that are not in the summary yet."""
        entries = decode_part(data, self._transcript.directory + name)
        for attempt in range(_ATTEMPTS):
            known = self._known or await self._look(store, summary_key)
            self._known = None  # until it is written
            lacking = [found for found in known.lacking if name_of(found) != name]
            parts = await read_for_summary(store, lacking)
            if parts is None:
                continue  # they were compacted
            folded = fold(known.summary, key, {**parts, name: entries})
            try:
                version = await store.put(
                    summary_key,
                    folded.encode(),
                    if_match=known.version,
                    if_none_match=known.version is None,
                )
            except PreconditionFailedError:
                await asyncio.sleep(full_jitter(attempt))
                continue
            # A reader may have seen a newer part of another writer meanwhile.
            if milliseconds_of(folded.through) == self._newest:
                self._known = _Known(folded, version, [])
            return
        raise StorageUnavailableError(
            f"the entries were appended, but {summary_key} was changed by others each of "
            f"{_ATTEMPTS} times that it was to be written; append them again",
            operation="put",
            bucket=store.name,
            key=summary_key,
        )


# Kept for a store and not for an adapter: a forked child and a copy have stores of their own.
_writers: Final[WeakKeyDictionary[ManagedStore, OrderedDict[Transcript, Writer]]] = (
    WeakKeyDictionary()
)


def writer_of(store: ManagedStore, transcript: Transcript) -> Writer:
    """The writer of a transcript in this process."""
    writers = _writers.setdefault(store, OrderedDict())
    writer = writers.setdefault(transcript, Writer(transcript))
    writers.move_to_end(transcript)
    if len(writers) > _MOST_WRITERS:
        oldest = next((known for known, other in writers.items() if not other.is_busy), transcript)
        if oldest != transcript:
            del writers[oldest]
    return writer


def forget_writers(store: ManagedStore, transcript: Transcript) -> None:
    """Forget what is known of a transcript that was deleted; of a main one, of all its session.

    Args:
        store: Where it was.
        transcript: The transcript.
    """
    writers = _writers.get(store, OrderedDict())
    for known in [*writers]:
        if known == transcript or (transcript.summary and known.session == transcript.session):
            del writers[known]


def _now() -> int:
    return time.time_ns() // 1_000_000
