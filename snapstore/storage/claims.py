"""Claims: which packs operations are at work on.

A claim is a small object beside a pack. Its state is changed only by conditional writes, so that of
two operations one wins:

- `"pending"`: the pack is being written, or was when its writer died. Nothing relies on it:
  history, or the pack that it is to replace, still has every document of it.
- `"held"`: the pack is whole, and what it has is being deleted elsewhere.
- `"void"`: the pack is to be deleted. Nobody relies on it any more.

A pack without a claim is whole.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Final, Literal, NamedTuple

import msgspec

from snapstore.errors import OutcomeUnknownError, SnapshotDecodeError
from snapstore.model.keys import PackName
from snapstore.stores.base import ObjectTooLargeError, PreconditionFailedError, Version
from snapstore.stores.managed import ManagedStore

__all__ = ["Claim", "ClaimState", "create_claim", "is_unchanged", "read_claim", "release_claim"]

ClaimState = Literal["pending", "held", "void"]

_MAX_BYTES: Final = 1024


class _Body(msgspec.Struct):
    state: ClaimState
    run: str


class Claim(NamedTuple):
    """A claim on a pack, at a version.

    Attributes:
        pack: The pack.
        state: What it says.
        version: Its version.
    """

    pack: PackName
    state: ClaimState
    version: Version

    async def change(self, objects: ManagedStore, state: ClaimState) -> Claim | None:
        """Change it, if it is still at this version.

        Returns:
            The claim as it is now, which is this operation's own; `None` if another came first.
        """
        return await _write(objects, self.pack, state, if_match=self.version)


async def create_claim(objects: ManagedStore, pack: PackName, state: ClaimState) -> Claim | None:
    """Claim a pack.

    Returns:
        The claim; `None` if there is one already.
    """
    return await _write(objects, pack, state, if_match=None)


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
        state = msgspec.json.decode(stored.data, type=_Body).state
        return Claim(pack, state, stored.version)
    except (ObjectTooLargeError, msgspec.MsgspecError, UnicodeDecodeError):
        pass
    # Outside of the handler: its error tells of the content.
    raise SnapshotDecodeError(f"{key} is not the claim of an operation on a pack", key=key)


async def is_unchanged(objects: ManagedStore, claim: Claim) -> bool:
    """Whether a claim is still at its version, and no other operation has taken it over."""
    now = await read_claim(objects, claim.pack)
    return now is not None and now.version.etag == claim.version.etag


async def release_claim(objects: ManagedStore, claim: Claim, *, conditional: bool) -> None:
    """Remove a claim, unless another operation has taken it over.

    Args:
        objects: Where it is.
        claim: The claim.
        conditional: Whether the store deletes on a condition. If not, one that is taken over just
            now is removed, too.
    """
    if conditional:
        with suppress(PreconditionFailedError):  # gone, or another's
            await objects.delete_if_match(claim.pack.claim, claim.version)
        return
    if await is_unchanged(objects, claim):
        await objects.delete([claim.pack.claim])


async def _write(
    objects: ManagedStore, pack: PackName, state: ClaimState, *, if_match: Version | None
) -> Claim | None:
    # The random part makes the etags of any two claims differ, where they are hashes.
    data = msgspec.json.encode(_Body(state, secrets.token_hex(8)))
    try:
        version = await objects.put(
            pack.claim, data, if_match=if_match, if_none_match=if_match is None
        )
    except PreconditionFailedError:
        return None
    except OutcomeUnknownError:
        stored = await objects.get(pack.claim, max_bytes=_MAX_BYTES)
        if stored is None or stored.data != data:
            raise
        version = stored.version
    return Claim(pack, state, version)
