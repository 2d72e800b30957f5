"""Delete transcripts: all that is there, and what others write while it is deleted."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from snapstore.errors import StorageUnavailableError
from snapstore.integrations.adapter import delete_keys
from snapstore.integrations.claude.layout import Transcript
from snapstore.integrations.claude.parts import list_parts
from snapstore.stores.managed import ManagedStore

__all__ = ["delete_transcript", "list_keys"]

_ROUNDS: Final = 10


async def delete_transcript(store: ManagedStore, transcript: Transcript, records: str) -> None:
    """Delete a transcript; a main transcript with all of its session.

    It ends with listings that find nothing. A compaction that does not find its record any more
    deletes what it has written, and what it has written while there was a record is listed.

    Args:
        store: Where it is.
        transcript: The transcript.
        records: What the keys of the records of its session's compactions begin with.

    Raises:
        PartialDeleteError: Some objects were not confirmed as deleted.
        StorageUnavailableError: Others wrote to it each time that it was deleted.
    """
    for attempt in range(_ROUNDS):
        if transcript.summary is None:
            keys = await list_parts(store, transcript)
            after = await list_keys(store, transcript.compaction)
            after = [key for key in after if key == transcript.compaction]
        else:
            # First, so that no later session of this id begins with what this one was about.
            await delete_keys(store, [transcript.summary])
            keys = await list_keys(store, transcript.session)
            # The main transcript last: as long as it is there, the session is listed.
            keys.sort(key=lambda key: "/" not in key.removeprefix(transcript.session))
            after = await list_keys(store, records)
        if attempt and not keys and not after:
            return
        # As long as parts are there, the record tells which of them were replaced.
        await delete_keys(store, [*keys, *after])
    raise StorageUnavailableError(
        f"{transcript.directory} was written to each of {_ROUNDS} times that it was deleted; "
        "delete it again",
        operation="delete",
        bucket=store.name,
        key=transcript.directory,
    )


async def list_keys(store: ManagedStore, prefix: str) -> list[str]:
    """List all keys under a prefix."""
    keys: list[str] = []
    async with aclosing(store.scan(prefix)) as pages:
        async for page in pages:
            keys += page
    return keys
