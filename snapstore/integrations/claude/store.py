"""The session store: the SDK's `SessionStore` over an object store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio.to_thread

from snapstore.integrations.adapter import StoreAdapter
from snapstore.integrations.claude.compaction import CompactedTranscript, compact
from snapstore.integrations.claude.deletion import delete_transcript, list_keys
from snapstore.integrations.claude.entries import encode_part
from snapstore.integrations.claude.layout import (
    LONGEST,
    Layout,
    decode_segment,
    is_part,
    milliseconds_of,
)
from snapstore.integrations.claude.parts import read_transcript
from snapstore.integrations.claude.summaries import read_summaries
from snapstore.integrations.claude.writer import forget_writers, writer_of
from snapstore.stores.base import ObjectStore
from snapstore.stores.managed import ManagedStore

if TYPE_CHECKING:
    from claude_agent_sdk import (
        SessionKey,
        SessionListSubkeysKey,
        SessionStoreEntry,
        SessionStoreListEntry,
        SessionSummaryEntry,
    )

__all__ = ["SnapstoreSessionStore"]

T = TypeVar("T")


class SnapstoreSessionStore(StoreAdapter):
    """Keeps the transcripts of the Claude Agent SDK in an object store.

    It implements all of the SDK's `SessionStore`, in the layout of the reference adapter for
    TypeScript, which reads what this one writes. Each batch is one new object.

    It is opened by `async with`, by `with`, or by its first use, and may be used from any thread
    and any event loop, of asyncio or of trio: its store lives on a thread of its own. Over a
    `ManagedStore` it is used on the store's own loop alone.

    Args:
        store: Where the transcripts go: an object store that is not open, or a `ManagedStore`.
        prefix: What all keys begin with; closing `/` are taken off. `""` for none.
        timeout: Seconds that each request may take, its retries included; `None` for no deadline.
            A `ManagedStore` has its own instead. Unless that is `None`, an append may take 35
            seconds with all of its requests: the SDK gives it up after 60.

    Raises:
        TypeError: The store uses an S3 client that was passed in.
        ValueError: `timeout` is not positive.
        InvalidIdentifierError: The prefix can't be part of a key, or leaves no room for one.

    Each method raises `InvalidIdentifierError`, before any request, for an id that is no text, or
    empty, or too long for a key; `StorageError`, mostly a subclass, if a request fails; and
    `StorageClosedError` after the store was closed. The SDK appends a batch again after an error,
    but not after a timeout, and then reports it as a `MirrorErrorMessage`.

    Example:
        ::

            async with SnapstoreSessionStore(S3ObjectStore("my-bucket"), prefix="agents") as store:
                options = ClaudeAgentOptions(session_store=store)
                async for message in query(prompt="Hello!", options=options):
                    print(message)
    """

    def __init__(
        self,
        store: ObjectStore | ManagedStore,
        *,
        prefix: str = "",
        timeout: float | None = 20.0,
    ) -> None:
        if isinstance(prefix, str):
            prefix = prefix.rstrip("/")
        super().__init__(store, prefix=prefix, timeout=timeout, longest=LONGEST)
        self._layout = Layout(self._base)

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Append a batch of entries to a transcript, and fold them into the summary.

        It is one PUT, and one more for the summary of a main transcript. The first batch of a
        transcript in this process takes a GET and a LIST more.

        Args:
            key: The transcript.
            entries: The batch; nothing is done for an empty one.

        Raises:
            SnapshotEncodeError: An entry holds what JSON can't carry exactly.
            StorageError: The batch was not appended, or it is not known, or the summary was not
                written. To append it again next repeats nothing.
        """
        transcript = self._layout.transcript(key)
        if not entries:
            return
        data, sdk_key = encode_part(entries), dict(key)
        await self._work(lambda store: writer_of(store, transcript).append(store, sdk_key, data))

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """Load a transcript: one LIST for each 1,000 parts, a GET for each, overlapped, and one.

        Args:
            key: The transcript.

        Returns:
            Its entries, in the order in which they were appended; of those with one uuid, the
            first. `None` if it has none, and for no other reason.

        Raises:
            SnapshotDecodeError: A part is damaged. The message names its key.
        """
        transcript = self._layout.transcript(key)

        async def load(store: ManagedStore) -> Any:
            found = await read_transcript(store, transcript)
            if found is None:
                return None
            entries, newest = found
            writer_of(store, transcript).saw(newest)
            return entries

        return cast("list[SessionStoreEntry] | None", await self._work(load))

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """List the sessions of a project: one LIST for each 1,000 parts of all of them.

        Args:
            project_key: The project.

        Returns:
            The id of each session that has a main transcript, and the time of its newest part.
        """
        prefix = self._layout.project(project_key)

        async def list_them(store: ManagedStore) -> dict[str, int]:
            times: dict[str, int] = {}
            async with aclosing(store.scan(prefix)) as pages:
                async for page in pages:
                    for key in page:
                        segment, _, rest = key.removeprefix(prefix).partition("/")
                        session_id = decode_segment(segment)
                        if session_id is not None and "/" not in rest and is_part(rest):
                            known = times.get(session_id, 0)
                            times[session_id] = max(known, milliseconds_of(rest))
            return times

        times = await self._work(list_them)
        return [{"session_id": found, "mtime": mtime} for found, mtime in times.items()]

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """Read the summaries of a project: one LIST for each 1,000, a GET for each, overlapped.

        Args:
            project_key: The project.

        Returns:
            The summary of each session that this store has appended to. One that is damaged is
            logged and left out: the SDK then derives it from the transcript.
        """
        prefix = self._layout.summaries(project_key)
        summaries = await self._work(lambda store: read_summaries(store, prefix))
        return [cast("SessionSummaryEntry", summary.entry()) for summary in summaries]

    async def delete(self, key: SessionKey) -> None:
        """Delete a transcript; a main transcript with all of its session.

        Args:
            key: The transcript. It need not exist.

        Raises:
            PartialDeleteError: Some objects were not confirmed as deleted; delete it again.
            StorageUnavailableError: Others wrote to it each time that it was deleted.
        """
        transcript = self._layout.transcript(key)
        records = self._layout.compactions(key)

        async def delete(store: ManagedStore) -> None:
            await delete_transcript(store, transcript, records)
            forget_writers(store, transcript)

        await self._work(delete)

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """List the subpaths of a session: one LIST for each 1,000 parts of all its transcripts.

        Args:
            key: The session.

        Returns:
            The subpath of each transcript beside the main one. One with an empty segment, `.` or
            `..` is left out, since the SDK makes paths of them.
        """
        session = self._layout.transcript(key).session

        async def list_them(store: ManagedStore) -> list[str]:
            directories = {
                directory: None
                for found in await list_keys(store, session)
                if is_part(found) and (directory := found.removeprefix(session).rpartition("/")[0])
            }
            subpaths = dict.fromkeys(map(decode_segment, directories))
            return [found for found in subpaths if found is not None and _is_safe(found)]

        return await self._work(list_them)

    async def compact(self, key: SessionKey, *, grace: float = 60.0) -> CompactedTranscript:
        """Write the parts of a transcript as few large ones, and delete the small ones.

        Readers and writers may be at work meanwhile. If it is cut off, nothing is lost or
        repeated, and the next call finishes it. A reference adapter that reads while it is under
        way, or after it was cut off, finds entries twice.

        Args:
            key: The transcript.
            grace: Parts of the last so many seconds are left alone: others may be about to write
                parts that belong before them. At least the deadline of a request; 0 for none, if
                nobody else writes.

        Returns:
            How many parts there were, and how many there are.

        Raises:
            ValueError: `grace` is negative.
            SnapshotDecodeError: A part is damaged. It stays as it is.
            StorageUnavailableError: Others changed the transcript meanwhile; compact it again.
        """
        if not grace >= 0:
            raise ValueError("grace must be 0 seconds or more")
        transcript = self._layout.transcript(key)
        return await self._work(lambda store: compact(store, transcript, grace=grace))

    async def _work(self, work: Callable[[ManagedStore], Coroutine[Any, Any, T]]) -> T:
        """Run work with the store, and await it here, in asyncio or in trio."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return await anyio.to_thread.run_sync(lambda: self._call(work))
        return await self._run(work)


def _is_safe(subpath: str) -> bool:
    return not {"", ".", ".."} & set(subpath.split("/"))
