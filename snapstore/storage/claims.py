"""Claims: which packs operations are at work on.

A claim is a small object beside a pack. Its state is changed only by conditional writes, so that of
two operations one wins:

- `"pending"`: the pack is being written, or was when its writer died. Nothing relies on it:
  history, or the pack that it is to replace, still has every document of it.
- `"held"`: the pack is whole, and what it has is being deleted elsewhere.
- `"idle"`: the pack is whole, and no operation is at work on it.
- `"void"`: the pack is to be deleted. Nobody relies on it any more.

A pack without a claim is whole.

A run that seems to be dead may only have stalled. The one that takes its claim over can't stop a
request that is under way: the write of a pack that is void by then, or the delete of a snapshot
that the pack has. So a claim that was taken over tells when, and stays for an hour: a pack that is
written late does not count, and one that is relied on late is not deleted. A run looks at its claim
before it writes, and each minute while it deletes; and does no more once it has lost it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

import msgspec

from snapstore.errors import OutcomeUnknownError, SnapshotDecodeError
from snapstore.model.keys import PackName
from snapstore.stores.base import ObjectTooLargeError, PreconditionFailedError, Version
from snapstore.stores.managed import ManagedStore

__all__ = [
    "Claim",
    "ClaimState",
    "Ownership",
    "create_claim",
    "read_claim",
    "release_claim",
    "seize_claim",
    "take_claim",
]

ClaimState = Literal["pending", "held", "idle", "void"]

OVERTAKEN_FOR: Final = timedelta(hours=1)
"""How long a run that was overtaken may still have a request under way, and clocks may differ."""

_LOOK_AGAIN_AFTER: Final = 60.0
"""Seconds after which a run looks at its claim again."""

_MAX_BYTES: Final = 2048


class _Body(msgspec.Struct, omit_defaults=True):
    state: ClaimState
    run: str
    overtaken: datetime | None = None
    replaces: str | None = None


class Claim(NamedTuple):
    """A claim on a pack, at a version.

    Attributes:
        pack: The pack.
        state: What it says.
        version: Its version.
        overtaken: When a run last took it from another that had not ended; `None` if none has.
        replaces: The pack that this one is written in the place of: the end of its key.
    """

    pack: PackName
    state: ClaimState
    version: Version
    overtaken: datetime | None = None
    replaces: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether no run that was overtaken can still have a request under way."""
        # A time far ahead is that of a wrong clock, and tells nothing.
        return self.overtaken is None or abs(datetime.now(UTC) - self.overtaken) >= OVERTAKEN_FOR

    async def change(self, objects: ManagedStore, state: ClaimState) -> Claim | None:
        """Change it, if it is still at this version: for its own run, or if it is idle.

        Returns:
            The claim as it is now, which is this operation's own; `None` if another came first.
        """
        # What its own run gives up, nobody writes late.
        overtaken = None if self.is_settled or state == "void" else self.overtaken
        changed = self._replace(state=state, overtaken=overtaken)
        return await _write(objects, changed, if_match=self.version)

    async def take_over(self, objects: ManagedStore, state: ClaimState) -> Claim | None:
        """Change it as `change` does, for another run than the one that has it."""
        changed = self._replace(state=state, overtaken=datetime.now(UTC))
        return await _write(objects, changed, if_match=self.version)


class Ownership:
    """Looks each minute whether a claim is still its run's own.

    Args:
        objects: Where it is.
        claim: The claim, which this operation has just written.
    """

    def __init__(self, objects: ManagedStore, claim: Claim) -> None:
        self._objects = objects
        self._claim = claim
        self._is_lost = False
        self._lock = asyncio.Lock()
        self._looked: tuple[float, float] | None = None

    async def is_kept(self) -> bool:
        """Whether no other operation had taken it over a minute ago."""
        async with self._lock:
            # One of these clocks may stand still while the machine sleeps, the other may be set.
            now = time.monotonic(), time.time()
            if self._looked is None or any(
                abs(one - other) >= _LOOK_AGAIN_AFTER
                for one, other in zip(now, self._looked, strict=True)
            ):
                self._is_lost = self._is_lost or not await self.is_unchanged()
                self._looked = now
            return not self._is_lost

    async def is_unchanged(self) -> bool:
        """Whether no other operation has taken it over, as it is now."""
        now = await read_claim(self._objects, self._claim.pack)
        return now is not None and now.version.etag == self._claim.version.etag


async def create_claim(
    objects: ManagedStore, pack: PackName, state: ClaimState, *, replaces: Claim | None = None
) -> Claim | None:
    """Claim a pack.

    Args:
        objects: Where it is.
        pack: The pack.
        state: What the claim says.
        replaces: The claim on the pack that this one is written in the place of: what relies on
            that one relies on this one then.

    Returns:
        The claim; `None` if there is one already.
    """
    claim = Claim(pack, state, Version(""))
    if replaces is not None:
        claim = claim._replace(
            overtaken=replaces.overtaken, replaces=replaces.pack.key.rpartition("/")[2]
        )
    return await _write(objects, claim, if_match=None)


async def take_claim(objects: ManagedStore, pack: PackName) -> Claim | None:
    """Hold a pack that no other operation is at work on; `None` if one is, or was cut off."""
    created = await create_claim(objects, pack, "held")
    if created is not None:
        return created
    found = await read_claim(objects, pack)
    if found is None or found.state != "idle":
        return None
    return await found.change(objects, "held")


async def seize_claim(objects: ManagedStore, pack: PackName) -> Claim | None:
    """Take over a pack from any holder; `None` if it does not count, or another came in between."""
    taken = await take_claim(objects, pack)
    if taken is not None:
        return taken
    found = await read_claim(objects, pack)
    if found is None or found.state != "held":
        return None
    return await found.take_over(objects, "held")


async def read_claim(objects: ManagedStore, pack: PackName) -> Claim | None:
    """Read the claim on a pack; `None` if there is none.

    Raises:
        SnapshotDecodeError: What is there is no claim.
    """
    key = pack.claim
    try:
        stored = await objects.get(key, max_bytes=_MAX_BYTES)
        if stored is None:
            return None
        body = msgspec.json.decode(stored.data, type=_Body)
        if body.overtaken is None or body.overtaken.tzinfo is not None:
            return Claim(pack, body.state, stored.version, body.overtaken, body.replaces)
    except (ObjectTooLargeError, msgspec.MsgspecError, UnicodeDecodeError):
        pass
    # Outside of the handler: its error tells of the content.
    raise SnapshotDecodeError(f"{key} is not the claim of an operation on a pack", key=key)


async def release_claim(objects: ManagedStore, claim: Claim, *, conditional: bool) -> None:
    """End the work on a pack, unless another operation has taken it over.

    Args:
        objects: Where it is.
        claim: The claim, which is this operation's own, or is idle or void.
        conditional: Whether the store deletes on a condition. If not, the claim of a pack that
            counts stays, idle: a delete could remove that of another operation.
    """
    if claim.is_settled and conditional:
        with suppress(PreconditionFailedError):  # gone, or another's
            await objects.delete_if_match(claim.pack.claim, claim.version)
    elif claim.is_settled and claim.state == "void":
        await objects.delete([claim.pack.claim])
    elif claim.state == "held":
        await claim._replace(replaces=None).change(objects, "idle")


async def _write(objects: ManagedStore, claim: Claim, *, if_match: Version | None) -> Claim | None:
    key = claim.pack.claim
    # The random part makes the etags of any two claims differ, where they are hashes.
    body = _Body(claim.state, secrets.token_hex(8), claim.overtaken, claim.replaces)
    data = msgspec.json.encode(body)
    try:
        version = await objects.put(key, data, if_match=if_match, if_none_match=if_match is None)
    except PreconditionFailedError:
        return None
    except OutcomeUnknownError:
        stored = await objects.get(key, max_bytes=_MAX_BYTES)
        if stored is None or stored.data != data:
            raise
        version = stored.version
    return claim._replace(version=version)
