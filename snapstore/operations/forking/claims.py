"""The claims by which a fork is known, and one run of it at a time: as `fork` tells."""

from __future__ import annotations

from collections.abc import KeysView
from contextlib import suppress
from typing import Any, Final

import msgspec

from snapstore.encoding.envelope import decode_manifest, encode_manifest
from snapstore.errors import SnapshotDecodeError, SnapshotExistsError
from snapstore.model.ids import new_snapshot_id
from snapstore.model.keys import Layout
from snapstore.model.snapshot import SCHEMA_VERSION, SnapshotLocation, SnapshotManifest, now
from snapstore.stores.base import PreconditionFailedError, Version
from snapstore.stores.managed import ManagedStore

__all__ = ["Claims"]

_MAX_BYTES: Final = 2**20
"""How large a manifest may be."""
_CLAIM: Final = "forkedFrom"


class Claims:
    """The claims of one run, each in the manifest of a location of the target.

    Args:
        objects: Where.
        layout: Where in it.
        session_id: The session that is forked.
        into: The id of the fork.
        upto: The last snapshot of the fork; `None` for all of history.

    Attributes:
        whole: Locations whose claim says that they are whole.
    """

    def __init__(
        self, objects: ManagedStore, layout: Layout, session_id: str, into: str, upto: str | None
    ) -> None:
        self._objects = objects
        self._layout = layout
        self._session_id = session_id
        self._into = into
        self._upto = upto
        self._run = new_snapshot_id()
        self._versions: dict[SnapshotLocation, Version] = {}
        self.whole: set[SnapshotLocation] = set()

    @property
    def locations(self) -> KeysView[SnapshotLocation]:
        """Locations of the source whose claim was read or made."""
        return self._versions.keys()

    async def read(self, location: SnapshotLocation) -> None:
        """Read the claim of a location.

        Args:
            location: A location of the source, as everywhere here.

        Raises:
            SnapshotExistsError: There is none, or it is of another fork.
        """
        key = self._key(location)
        stored = await self._objects.get(key, max_bytes=_MAX_BYTES)
        claim: Any = None
        if stored is not None:
            with suppress(SnapshotDecodeError):
                claim = decode_manifest(stored.data, key=key).extra.get(_CLAIM)
        expected = {"sessionId": self._session_id, "upto": self._upto}
        if stored is None or not isinstance(claim, dict) or not expected.items() <= claim.items():
            raise self.occupied(key)
        self._versions[location] = stored.version
        if claim.get("complete") is not False:
            self.whole.add(location)

    async def write(
        self, location: SnapshotLocation, end: str | None, *, is_complete: bool = False
    ) -> None:
        """Write the claim of a location, over the version that was read, or where there is none.

        Args:
            location: The location.
            end: Its last snapshot; `None` for all of history.
            is_complete: Whether the fork of it is whole.

        Raises:
            SnapshotExistsError: Somebody has written it meanwhile.
        """
        key = self._layout.manifest(location)
        source = await self._objects.get(key, max_bytes=_MAX_BYTES)
        manifest = SnapshotManifest(SCHEMA_VERSION, now())
        if source is not None:
            manifest = decode_manifest(source.data, key=key)
        claim: dict[str, Any] = {
            "sessionId": self._session_id,
            "snapshotId": end,
            "upto": self._upto,
            "complete": is_complete,
        }
        if not is_complete:
            claim["run"] = self._run
        if _CLAIM in manifest.extra:
            claim[_CLAIM] = manifest.extra[_CLAIM]
        claimed = msgspec.structs.replace(manifest, extra={**manifest.extra, _CLAIM: claim})
        target = self._key(location)
        data = encode_manifest(claimed, max_bytes=_MAX_BYTES)
        replaces = self._versions.get(location)
        try:
            self._versions[location] = await self._objects.put(
                target, data, if_match=replaces, if_none_match=replaces is None
            )
        except PreconditionFailedError:
            pass
        else:
            return
        raise self.occupied(target)

    async def require(self, location: SnapshotLocation) -> None:
        """Look whether a claim is still of this run.

        Raises:
            SnapshotExistsError: Another run has taken it over, or somebody has written over it.
        """
        key = self._key(location)
        stored = await self._objects.get(key, max_bytes=_MAX_BYTES)
        if stored is None or stored.version.etag != self._versions[location].etag:
            raise self.occupied(key)

    async def release(self, location: SnapshotLocation) -> None:
        """Take back a claim, unless somebody has written over it."""
        key = self._key(location)
        version = self._versions.pop(location)
        stored = await self._objects.get(key, max_bytes=_MAX_BYTES)
        if stored is not None and stored.version.etag == version.etag:
            await self._objects.delete([key])

    def occupied(self, key: str) -> SnapshotExistsError:
        """The error for an object that is not of this fork."""
        return SnapshotExistsError(
            f"{key} exists: the session {self._into} is not free",
            operation="scan",
            bucket=self._objects.name,
            key=key,
            outcome="not applied",
        )

    def _key(self, location: SnapshotLocation) -> str:
        target = msgspec.structs.replace(location, session_id=self._into)
        return self._layout.manifest(target)
