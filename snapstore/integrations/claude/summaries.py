"""Summaries of sessions, which the SDK folds of entries as they are appended.

A summary is derived: what is missing or damaged is folded again of the transcript. It names the
newest part that is in it, so that parts which another writer has added are found.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Final, cast

import msgspec
from claude_agent_sdk import fold_session_summary

from snapstore.encoding.documents import decode_document, encode_json
from snapstore.errors import SnapshotDecodeError, shown
from snapstore.integrations.claude.entries import Entry, decode_part
from snapstore.integrations.claude.layout import milliseconds_of, name_of
from snapstore.integrations.claude.parts import get_part
from snapstore.storage.overlap import overlap
from snapstore.stores.base import Version
from snapstore.stores.managed import ManagedStore

__all__ = ["Summary", "fold", "read_for_summary", "read_summaries", "read_summary"]

logger: Final = logging.getLogger("snapstore")

_MAX_BYTES: Final = 2**24


class Summary(msgspec.Struct, frozen=True):
    """The summary of a session.

    Args:
        session_id: The session.
        mtime: When the newest part in it was written, in milliseconds since the epoch.
        data: What the SDK has folded.
        through: The name of the newest part in it.
    """

    session_id: str
    mtime: int
    data: dict[str, Any]
    through: str

    def encode(self) -> bytes:
        """The summary as JSON."""
        return encode_json(msgspec.structs.asdict(self))

    def entry(self) -> dict[str, Any]:
        """The summary as the SDK's `SessionSummaryEntry`."""
        return {"session_id": self.session_id, "mtime": self.mtime, "data": self.data}


def fold(
    before: Summary | None, key: Mapping[str, Any], parts: Mapping[str, list[Entry]]
) -> Summary:
    """Fold parts into a summary.

    Args:
        before: The summary; `None` for a new one.
        key: The SDK's key of the session.
        parts: The entries of each part by its name; not empty.
    """
    summary: Any = None if before is None else before.entry()
    for _name, entries in sorted(parts.items()):
        summary = fold_session_summary(summary, cast("Any", key), cast("Any", entries))
    through = max(parts)
    if before is not None:
        through = max(through, before.through)
    return Summary(summary["session_id"], milliseconds_of(through), summary["data"], through)


async def read_summary(store: ManagedStore, key: str) -> tuple[Summary | None, Version | None]:
    """Read a summary and its version; `None` for each that there is not.

    One that is damaged is logged, and counts as none.
    """
    stored = await store.get(key, max_bytes=_MAX_BYTES)
    if stored is None:
        return None, None
    try:
        document = decode_document(stored.data, key, "summary")
        return msgspec.convert(document, Summary), stored.version
    except (SnapshotDecodeError, msgspec.ValidationError):
        logger.warning("%s is not a summary of a session, and is left out", shown(key))
        return None, stored.version


async def read_for_summary(store: ManagedStore, keys: list[str]) -> dict[str, list[Entry]] | None:
    """Read parts that are not in a summary.

    Returns:
        The entries of each by its name; `None` if one was deleted since it was listed. One that is
        damaged is logged and has none: it must not keep others from being appended.
    """
    parts: dict[str, list[Entry]] = {}
    for key, stored in zip(keys, await overlap(keys, partial(get_part, store)), strict=True):
        if stored is None:
            return None
        try:
            parts[name_of(key)] = decode_part(stored.data, key)
        except SnapshotDecodeError as error:
            logger.warning("left out of the summary of its session: %s", error)
            parts[name_of(key)] = []
    return parts


async def read_summaries(store: ManagedStore, prefix: str) -> list[Summary]:
    """Read all summaries under a prefix."""

    async def read(key: str) -> Summary | None:
        return (await read_summary(store, key))[0]

    found: list[Summary] = []
    async with aclosing(store.scan(prefix)) as pages:
        async for page in pages:
            found += [summary for summary in await overlap(page, read) if summary is not None]
    return found
