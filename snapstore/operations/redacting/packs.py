"""Redact packs: a pack that has what is to be redacted is replaced by another one.

An archiver at work may hold texts that it has read before they were redacted. It claims its pack
before it looks at the originals for the last time. So a look for claims and packs, after the
originals were redacted, finds the claim or the pack; otherwise the archiver finds the change. A
claim that is pending is made void: its pack is never relied on, and nothing is lost, since history
has all of it. The claim stays, so that what the archiver may yet write does not count.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from snapstore.encoding.packs import PackReader, PackWriter
from snapstore.model.keys import PackName
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.archiving.packing import Packs
from snapstore.operations.locations import exists
from snapstore.operations.redacting.changed_content import change_content
from snapstore.operations.redacting.changes import Change
from snapstore.storage.claims import read_claim, seize_claim
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import Body

__all__ = ["PackRedaction"]


class PackRedaction:
    """Redacts the packs of a location.

    Args:
        storage: Where, with a pace.
        location: The location.
        change: Makes the new content.
        conditional: Whether the store deletes on a condition.
        dry_run: Whether nothing is changed.
    """

    def __init__(
        self,
        storage: ObjectSnapshotStorage,
        location: SnapshotLocation,
        change: Change,
        *,
        conditional: bool,
        dry_run: bool,
    ) -> None:
        self._objects = storage.objects
        self._max_bytes = storage.max_snapshot_bytes
        self._change = change
        self._dry_run = dry_run
        self._packs = Packs(
            storage.objects,
            storage.layout,
            location,
            max_bytes=storage.max_snapshot_bytes,
            conditional=conditional,
        )

    async def stop(self, name: PackName) -> bool:
        """Make sure that a pack which is being written, or was, does not count.

        Args:
            name: The pack, of which there is a claim.

        Returns:
            Whether there was something to stop, so that another pass is needed.
        """
        claim = await read_claim(self._objects, name)
        if self._dry_run or claim is None:
            return False
        match claim.state:
            case "pending":
                claim = await claim.take_over(self._objects, "void")
                if claim is not None:
                    await self._packs.remove(claim)
                return True
            case "void":
                is_there = await exists(self._objects, name.key)
                await self._packs.remove(claim)
                return is_there
            case "held" if claim.replaces is not None:
                own = await claim.take_over(self._objects, "held")
                old = None if own is None else await self._packs.roll_back(own)
                if old is not None:
                    await self._packs.release(old)
                elif own is not None:
                    await self._packs.release(own)
                return own is None or old is not None
            case _:
                return False

    async def redact(
        self, name: PackName
    ) -> tuple[Literal["planned", "redacted", "changed"], list[str]] | None:
        """Redact a pack.

        Args:
            name: The pack.

        Returns:
            What was done, and where in the new pack; `None` if there was nothing to do.

        Raises:
            SnapshotDecodeError: The pack is damaged.
            SnapshotEncodeError: `change` makes something of a snapshot that is none.
        """
        claim = await read_claim(self._objects, name)
        if claim is not None and claim.state in ("pending", "void"):
            return self._gone()  # `stop` sees to it
        pack = await self._packs.read(name)
        if pack is None:
            return self._gone()
        places = await asyncio.to_thread(self._places, pack)
        if not places:
            return None
        if self._dry_run:
            return "planned", places
        own = await seize_claim(self._objects, name)
        if own is None:
            return "changed", places
        writer = await asyncio.to_thread(self._changed, pack)
        del pack
        if await self._packs.replace(own, writer) is not None:
            return "redacted", places
        await self._packs.give_back(own)
        return "changed", places

    def _gone(self) -> tuple[Literal["changed"], list[str]] | None:
        """A pack that was listed and is gone may have been replaced: look again."""
        return None if self._dry_run else ("changed", [])

    def _places(self, pack: PackReader) -> list[str]:
        places: list[str] = []
        for packed, document in pack.read_all():
            changed = self._change_document(pack.name, document)
            if changed is not None:
                places += [f"{packed.snapshot_id}.{place}" for place in changed[1]]
        return places

    def _changed(self, pack: PackReader) -> PackWriter:
        writer = Packs.new_writer()
        for packed, document in pack.read_all():
            changed = self._change_document(pack.name, document)
            writer.add(packed.snapshot_id, document if changed is None else changed[0])
        return writer

    def _change_document(self, name: PackName, document: bytes) -> tuple[bytes, list[str]] | None:
        return change_content(
            name.key, Body(document), self._change, kind="history", max_bytes=self._max_bytes
        )
