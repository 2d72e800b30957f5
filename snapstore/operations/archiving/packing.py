"""Packs that are written and removed, so that a crash or another operation loses nothing.

A new pack is written in this order:

1. A claim is made, `"pending"`: nothing relies on the pack.
2. The originals are looked at once more, and the pack is given up if one is not as it was read. An
   operation that changes an original, and looks for claims and packs afterwards, therefore finds
   the claim, or the pack, or has kept it from being written: a redaction leaves no old text.
3. The pack is written, create-only, under a name that no other run uses, and read back whole.
4. The originals are looked at again: what was deleted meanwhile, as by `delete_session`, must not
   come back out of a pack.
5. The claim becomes `"held"`, by a conditional write. From here on the pack counts. If another
   operation has made it `"void"` before, the pack is removed, and no original was deleted.
6. Each original is deleted at the version that was read. One that was changed since is taken out of
   the pack, which is written anew for that. So is one that somebody else has deleted, but only if
   the claim is still the same: else another archiver may have deleted it since this pack has it.
7. The claim is removed.

A run that was cut off is known by its claim. One that is pending is made void, and its pack is
deleted: no original is gone. One that is held tells that originals may be left, and may have been
changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Container
from contextlib import suppress

from snapstore.encoding.packs import PackedDocument, PackReader, PackWriter
from snapstore.errors import InvalidResponseError, OutcomeUnknownError
from snapstore.model.keys import Layout, PackName
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.archiving.originals import raise_not_deleted
from snapstore.operations.locations import exists
from snapstore.storage.claims import Claim, create_claim, read_claim, release_claim
from snapstore.storage.packs import read_pack
from snapstore.stores.base import Body, PreconditionFailedError
from snapstore.stores.managed import ManagedStore

__all__ = ["Packs"]


class Packs:
    """Writes and removes the packs of a location.

    Args:
        objects: Where they are.
        layout: The keys.
        location: The location.
        max_bytes: How large a document may be.
        conditional: Whether the store deletes on a condition.
    """

    def __init__(
        self,
        objects: ManagedStore,
        layout: Layout,
        location: SnapshotLocation,
        *,
        max_bytes: int,
        conditional: bool,
    ) -> None:
        self._objects = objects
        self._layout = layout
        self._location = location
        self._max_bytes = max_bytes
        self._conditional = conditional

    @staticmethod
    def new_writer() -> PackWriter:
        """Makes a pack whose name no other run uses."""
        return PackWriter(secrets.token_hex(8))

    async def finish(self, writer: PackWriter) -> tuple[PackName, Body]:
        """The name of a pack that was made, and the pack."""
        return await asyncio.to_thread(self._finish, writer)

    def _finish(self, writer: PackWriter) -> tuple[PackName, Body]:
        data = Body(writer.finish())
        first, last = writer.documents[0].snapshot_id, writer.documents[-1].snapshot_id
        digest = hashlib.sha256(data).hexdigest()
        return self._layout.pack(self._location, first, last, digest), data

    async def read(self, name: PackName) -> PackReader | None:
        """Read a pack and its index; `None` if there is none.

        Raises:
            SnapshotDecodeError: It is not a good pack.
        """
        return await read_pack(self._objects, name, max_bytes=self._max_bytes)

    async def write(self, name: PackName, data: Body, documents: list[PackedDocument]) -> bool:
        """Write a pack, read it back, and compare every document with what was packed.

        Args:
            name: Its name.
            data: The pack.
            documents: What was packed.

        Returns:
            Whether it is there: another operation may have removed it.

        Raises:
            InvalidResponseError: It can't be read back as it was written.
            SnapshotDecodeError: It is damaged.
        """
        # What an earlier try has written is looked at as well.
        with suppress(PreconditionFailedError, OutcomeUnknownError):
            await self._objects.put(name.key, data, if_none_match=True)
        pack = await self.read(name)
        if pack is None:
            return False
        if pack.documents != documents:
            raise InvalidResponseError(
                f"{name.key} can't be read as it was written", operation="get", key=name.key
            )
        await asyncio.to_thread(verify, pack)
        return True

    async def remove(self, claim: Claim) -> None:
        """Delete a pack whose claim is void, and then the claim."""
        raise_not_deleted(self._objects, await self._objects.delete([claim.pack.key]))
        await self.release(claim)

    async def abandon(self, claim: Claim) -> None:
        """Give up a pack of our own that nothing relies on."""
        voided = await claim.change(self._objects, "void") or await read_claim(
            self._objects, claim.pack
        )
        raise_not_deleted(self._objects, await self._objects.delete([claim.pack.key]))
        # One who has made it void leaves it to this run, which may yet have written the pack.
        if voided is not None and voided.state == "void":
            await self.release(voided)

    async def release(self, claim: Claim) -> None:
        """Remove a claim."""
        await release_claim(self._objects, claim, conditional=self._conditional)

    async def drop(self, pack: PackReader, unwanted: Container[str]) -> PackName | None:
        """Take documents out of a pack: see `replace`.

        Args:
            pack: The pack.
            unwanted: The ids of the documents.

        Returns:
            The pack that has the others; `None` if nothing was left for one; the same pack if
            another operation came in between: then it must stay claimed, for the next run.
        """
        writer = await asyncio.to_thread(_repack, pack, unwanted)
        if not writer.documents:
            raise_not_deleted(self._objects, await self._objects.delete([pack.name.key]))
            return None
        return await self.replace(pack.name, writer) or pack.name

    async def replace(self, name: PackName, writer: PackWriter) -> PackName | None:
        """Write a pack in the place of another one, which is deleted.

        Until the new pack counts, the old one does. After a crash in between both are there.

        Args:
            name: The old pack.
            writer: Has made the new one.

        Returns:
            The new pack; `None` if another operation has removed either of them meanwhile: then
            the old one, if it is there, is as it was.
        """
        documents = writer.documents
        new, data = await self.finish(writer)
        del writer  # and its memory
        claim = await create_claim(self._objects, new, "pending")
        if claim is None:
            return None
        # If the session is being deleted, the old one is gone, or the new one is found.
        is_there = await self.write(new, data, documents) and await exists(self._objects, name.key)
        held = await claim.change(self._objects, "held") if is_there else None
        if held is None:
            await self.abandon(claim)
            return None
        raise_not_deleted(self._objects, await self._objects.delete([name.key]))
        await self.release(held)
        return new


def verify(pack: PackReader) -> None:
    """Read every document of a pack.

    Raises:
        SnapshotDecodeError: One is not what was packed.
    """
    for _ in pack.read_all():
        pass


def _repack(pack: PackReader, unwanted: Container[str]) -> PackWriter:
    writer = Packs.new_writer()
    for packed, document in pack.read_all():
        if packed.snapshot_id not in unwanted:
            writer.add(packed.snapshot_id, document)
    return writer
