"""The packs of one location: which there are, and what is in them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final, NamedTuple

from snapstore.encoding.packs import MAX_DOCUMENTS, PackReader
from snapstore.errors import SnapshotDecodeError
from snapstore.model.keys import Layout, PackName
from snapstore.model.snapshot import SnapshotLocation
from snapstore.storage.claims import Claim, read_claim
from snapstore.stores.base import ObjectTooLargeError
from snapstore.stores.managed import ManagedStore
from snapstore.stores.recording import count_read

__all__ = ["FULL_PACK_BYTES", "ArchiveListing", "list_archive", "read_pack", "whole_packs"]

FULL_PACK_BYTES: Final = 32 * 2**20
"""Bytes from which on no more documents are added to a pack."""

_FRAMING: Final = MAX_DOCUMENTS * 256 + 2**20
"""Bytes of an index, and by which what can't be compressed grows."""


class ArchiveListing(NamedTuple):
    """The packs and claims of a location.

    Attributes:
        packs: The packs, by their first ids.
        claimed: The packs that have claims, whether there is such a pack or not.
    """

    packs: list[PackName]
    claimed: list[PackName]


async def list_archive(
    objects: ManagedStore, layout: Layout, location: SnapshotLocation
) -> ArchiveListing:
    """List the packs and claims of a location. Other objects are left out."""
    prefix = layout.archive_prefix(location)
    packs: list[PackName] = []
    claimed: list[PackName] = []
    async with aclosing(objects.scan(prefix)) as pages:
        async for page in pages:
            for key in page:
                name = Layout.pack_in(key, prefix)
                if name is not None:
                    (packs if key == name.key else claimed).append(name)
    return ArchiveListing(sorted(packs), claimed)


async def whole_packs(
    objects: ManagedStore, layout: Layout, location: SnapshotLocation
) -> list[PackName]:
    """List the packs that hold what the history no longer has, by their first ids.

    Raises:
        SnapshotDecodeError: A claim is none.
    """
    packs, claimed = await list_archive(objects, layout, location)
    there = set(packs)
    claims = [await read_claim(objects, name) for name in claimed if name in there]
    return [name for name in packs if not _is_without_use(name, claims)]


def _is_without_use(name: PackName, claims: list[Claim | None]) -> bool:
    return any(
        claim is not None and claim.pack == name and claim.state in ("pending", "void")
        for claim in claims
    )


async def read_pack(objects: ManagedStore, name: PackName, *, max_bytes: int) -> PackReader | None:
    """Read a pack and its index; `None` if there is none under its key.

    Args:
        objects: Where it is.
        name: Its name.
        max_bytes: How large a document may be.

    Raises:
        SnapshotDecodeError: It is not a good pack, or too large.
    """
    limit = FULL_PACK_BYTES + _FRAMING + max_bytes
    try:
        stored = await objects.get(name.key, max_bytes=limit)
    except ObjectTooLargeError:
        stored = None
    else:
        if stored is None:
            return None
    if stored is None:
        raise SnapshotDecodeError(
            f"{name.key} is not a good pack of snapshots: it has more than {limit:,} bytes",
            key=name.key,
        )
    count_read(len(stored.data))
    return await asyncio.to_thread(PackReader, name, stored.data, max_bytes=max_bytes)
