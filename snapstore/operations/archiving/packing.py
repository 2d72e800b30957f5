"""Packs that are written and removed, so that a crash or another operation loses nothing.

A new pack is written in this order:

1. A claim is made, `"pending"`: nothing relies on the pack.
2. The originals are looked at once more, and the pack is given up if one is not as it was read. An
   operation that changes an original, and looks for claims and packs afterwards, therefore finds
   the claim, or the pack, or has kept it from being written: a redaction leaves no old text.
3. If the claim is still as it was, the pack is written, create-only, under a name that no other run
   uses, and read back whole.
4. The originals are looked at again: what was deleted meanwhile, as by `delete_session`, must not
   come back out of a pack.
5. The claim becomes `"held"`, by a conditional write. From here on the pack counts. If another
   operation has made it `"void"` before, the pack is removed, and no original was deleted.
6. Each original is deleted at the version that was read, while the claim is this run's own. One
   that was changed since is taken out of the pack, which is written anew for that. So is one that
   somebody else has deleted, but only if the claim is still the same: else another archiver may
   have deleted it since this pack has it.
7. The claim is removed.

Two rules keep what is in a pack. An original is deleted only by one who holds the claim on a pack
that has it. A pack is deleted only by one who has made its claim `"void"`, which is a conditional
write on the claim that it held. A claim that was taken over protects its pack for an hour from
being deleted, since the run that had it may yet delete an original: `snapstore.storage.claims`.

A run that was cut off is known by its claim. One that is pending is made void, and its pack is
deleted: no original is gone. One that is held tells that originals may be left, and may have been
changed; or that the pack was to replace another one, which still counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Container

from snapstore.encoding.packs import PackedDocument, PackReader, PackWriter
from snapstore.errors import InvalidResponseError, OutcomeUnknownError
from snapstore.model.keys import Layout, PackName
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.archiving.originals import raise_not_deleted
from snapstore.operations.locations import exists
from snapstore.storage.claims import (
    Claim,
    Ownership,
    create_claim,
    read_claim,
    release_claim,
    seize_claim,
)
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

    async def write(self, claim: Claim, data: Body, documents: list[PackedDocument]) -> bool:
        """Write a pack, read it back, and compare every document with what was packed.

        Args:
            claim: The claim on it, which is this operation's own.
            data: The pack.
            documents: What was packed.

        Returns:
            Whether it is there: another operation may have taken the claim over, or removed it.

        Raises:
            InvalidResponseError: It can't be read back as it was written.
            SnapshotDecodeError: It is damaged.
            OutcomeUnknownError: It is not there, but may yet be. The claim must stay.
        """
        name = claim.pack
        if not await Ownership(self._objects, claim).is_kept():
            return False
        unknown: OutcomeUnknownError | None = None
        try:
            await self._objects.put(name.key, data, if_none_match=True)
        except PreconditionFailedError:
            pass  # an earlier try has written it
        except OutcomeUnknownError as error:
            unknown = error
        pack = await self.read(name)
        if pack is None:
            if unknown is not None:
                raise unknown
            return False
        if pack.documents != documents:
            raise InvalidResponseError(
                f"{name.key} can't be read as it was written", operation="get", key=name.key
            )
        await asyncio.to_thread(verify, pack)
        return True

    async def remove(self, claim: Claim) -> None:
        """Delete a pack whose claim is void, and the claim where nobody may yet write the pack."""
        raise_not_deleted(self._objects, await self._objects.delete([claim.pack.key]))
        await self.release(claim)

    async def discard(self, claim: Claim) -> bool:
        """Delete a pack, or what is left of one that is gone: its claim.

        Args:
            claim: The claim on it, which is this operation's own.

        Returns:
            Whether it was done: not if another operation has taken the claim over.
        """
        void = await claim.change(self._objects, "void")
        if void is not None:
            await self.remove(void)
        return void is not None

    async def abandon(self, claim: Claim) -> None:
        """Give up a pack of our own that nobody but this run can have relied on."""
        void = await claim.change(self._objects, "void")
        if void is None:
            void = await read_claim(self._objects, claim.pack)
            if void is None and await exists(self._objects, claim.pack.key):
                # It was removed while we wrote the pack. Somebody may rely on that by now.
                void = await create_claim(self._objects, claim.pack, "void")
            if void is None or void.state != "void":
                return
            # The operation that made it void leaves it to this run, which writes nothing any more.
            void = void._replace(overtaken=None)
        await self.remove(void)

    async def release(self, claim: Claim) -> None:
        """End the work on a pack."""
        await release_claim(self._objects, claim, conditional=self._conditional)

    async def give_back(self, claim: Claim) -> None:
        """End the work on a pack that may be gone: then its claim goes as well."""
        if await exists(self._objects, claim.pack.key):
            await self.release(claim)
        else:
            await self.discard(claim)

    async def drop(
        self, claim: Claim, pack: PackReader, unwanted: Container[str]
    ) -> PackName | None:
        """Take documents out of a pack: see `replace`.

        Args:
            claim: The claim on the pack, which is this operation's own.
            pack: The pack.
            unwanted: The ids of the documents.

        Returns:
            The pack that has the others; `None` if nothing was left for one; the same pack if
            another operation came in between: then it must stay claimed, for the next run.
        """
        writer = await asyncio.to_thread(_repack, pack, unwanted)
        if writer.documents:
            return await self.replace(claim, writer) or claim.pack
        return None if await self.discard(claim) else claim.pack

    async def replace(self, old: Claim, writer: PackWriter) -> PackName | None:
        """Write a pack in the place of another one, which is deleted.

        The new pack counts from when its claim is held, the old one until its claim is void. After
        a crash in between, `roll_back` gives up the new one.

        Args:
            old: The claim on the old pack, which is this operation's own.
            writer: Has made the new one.

        Returns:
            The new pack; `None` if another operation has come in between: then the old one, if it
            is there, is as it was.
        """
        documents = writer.documents
        new, data = await self.finish(writer)
        del writer  # and its memory
        claim = await create_claim(self._objects, new, "pending", replaces=old)
        if claim is None:
            return None
        # If the session is being deleted, the old one is gone, or the new one is found.
        is_there = await self.write(claim, data, documents)
        is_there = is_there and await exists(self._objects, old.pack.key)
        held = await claim.change(self._objects, "held") if is_there else None
        void = await old.change(self._objects, "void") if held is not None else None
        if held is None or void is None:
            await self.abandon(held or claim)
            return None
        await self.remove(void)
        await self.release(held)
        return new

    async def roll_back(self, claim: Claim) -> Claim | None:
        """Give up a pack that was to replace another one, if that one still counts.

        Args:
            claim: The claim on the new pack, which is this operation's own.

        Returns:
            If it was given up, the claim on the old pack, which is this operation's own.
        """
        name = self._replaced(claim)
        if name is None or not await exists(self._objects, name.key):
            return None
        # The operation that was to replace it can't do so any more.
        old = await seize_claim(self._objects, name)
        if old is None:
            return None
        if not await exists(self._objects, name.key):
            await self.discard(old)
            return None
        await self.abandon(claim)
        return old

    def _replaced(self, claim: Claim) -> PackName | None:
        prefix = self._layout.archive_prefix(self._location)
        return None if claim.replaces is None else Layout.pack_in(prefix + claim.replaces, prefix)


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
