"""Redact a session: remove texts from everything that was ever saved of it.

It is the only thing that replaces history. Each object is read, changed, and written over the
version that was read, and over no other. Passes over the whole session are repeated until one finds
nothing to change: what is saved meanwhile is kept, and redacted by the next pass. In a versioned
bucket the versions that are not current still have the texts, so they are erased at the end of each
pass. A pack is written anew and then deleted: nothing is written over a pack.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Final, Literal, TypeVar

import msgspec

from snapstore.encoding.padding import pad, strip_padding
from snapstore.errors import UnsupportedOperationError
from snapstore.model.ids import validate_identifier
from snapstore.model.keys import Layout, PackName
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.archiving.archiver import has_conditional_deletes
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
from snapstore.operations.redacting.changed_content import change_content
from snapstore.operations.redacting.changes import Change, Redaction
from snapstore.operations.redacting.packs import PackRedaction
from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import PAGE_SIZE, PreconditionFailedError, StoredObject, Version
from snapstore.stores.capabilities import (
    MetadataStore,
    SweepableStore,
    VersionedStore,
    capability,
)
from snapstore.stores.managed import ManagedStore
from snapstore.stores.pace import Pace

__all__ = ["RedactEvent", "RedactReport", "redact"]

T = TypeVar("T")

_ANY_SIZE: Final = 2**62
_MAX_PASSES: Final = 8
"""After so many passes it ends, and says that it is not clean."""
_SHOWN_PLACES: Final = 20
_LARGE: Final = 64 * 1024
"""Bytes from which on content is changed in a thread."""


class RedactEvent(msgspec.Struct, frozen=True, kw_only=True, tag="redact", omit_defaults=True):
    """An object of the session that has what is to be redacted, or a version that was erased.

    Attributes:
        key: The full key.
        result: `"planned"` in a dry run; `"redacted"`; `"changed"` where another writer came first,
            and the next pass looks again; `"erased"` for a version; `"retained"` for a version that
            could not be erased; `"named"` for an object whose key has the text: it stays.
        places: Where in the new content, as `data.messages[3].content[0].text`; the first 20.
            `""` is the whole.
        version_id: Of a version.
        code: The server's code, where a version was not erased.
    """

    key: str
    result: Literal["planned", "redacted", "changed", "erased", "retained", "named"]
    places: tuple[str, ...] = ()
    version_id: str | None = None
    code: str | None = None


class RedactReport(msgspec.Struct, kw_only=True):
    """Totals of a redaction. It has no content.

    Attributes:
        dry_run: Whether nothing was changed.
        passes: Passes over the session.
        objects: Objects that were read in the last pass.
        redacted: Objects that were rewritten, or in a dry run would be.
        places: Places in them that were changed.
        versions: Versions that were erased, or in a dry run would be.
        retained: Versions that could not be erased.
        is_clean: Whether the last pass found nothing to change, no key has the text, and no version
            is left that was not looked at. `None` for a dry run; and, where all else is clean,
            where the server can't list versions, or with `erase_versions=False`.
        requests: Calls of the store: on S3 a request each, without retries.
    """

    dry_run: bool = False
    passes: int = 0
    objects: int = 0
    redacted: int = 0
    places: int = 0
    versions: int = 0
    retained: int = 0
    is_clean: bool | None = None
    requests: int = 0

    @property
    def ok(self) -> bool:
        """Whether it is clean."""
        return self.is_clean is True


def redact(
    storage: ObjectSnapshotStorage,
    *,
    session_id: str,
    change: Change,
    dry_run: bool = False,
    erase_versions: bool = True,
    max_requests_per_second: float | None = None,
) -> Operation[RedactEvent, RedactReport]:
    """Change everything that was saved of a session: latest, history, manifests, stash, the rest.

    Ids and times stay. Afterwards, repeating the original save of a snapshot in history is a
    `SnapshotExistsError`, and a save on the version of a latest snapshot that was read before is a
    conflict. Agents that are running still hold the text, and may save it again: end them first.

    Args:
        storage: Where, open.
        session_id: The session.
        change: Makes the new content from the old one: `redaction` makes one, and `Change` says
            what it gets. A second pass must find nothing to change.
        dry_run: Change nothing: the events tell where something would be changed.
        erase_versions: Erase the versions of the session's objects that are not current, all of
            them: in a versioned bucket they have the text.
        max_requests_per_second: Keeps it from slowing saves; `None` for no limit.

    Returns:
        The operation. Its events name places, not values. It raises what `change` raises, and
        `SnapshotEncodeError` if `change` makes something of a snapshot or a manifest that is none,
        or is too large; what was done before that stays done.

    Raises:
        InvalidIdentifierError: The session id is not valid.
        TypeError: `change` can't be called.
        ValueError: `max_requests_per_second` is not more than 0.
    """
    validate_identifier(session_id, "session_id")
    if not callable(change):
        raise TypeError(f"change must be a function, not a {type(change).__name__}")
    pace = Pace(max_requests_per_second)
    report = RedactReport(dry_run=dry_run)
    redacting = _Redaction(
        with_pace(storage, pace),
        session_id=session_id,
        change=change,
        erase_versions=erase_versions,
        report=report,
        pace=pace,
    )
    return Operation(redacting.run(), report)


class _Redaction:
    def __init__(
        self,
        storage: ObjectSnapshotStorage,
        *,
        session_id: str,
        change: Change,
        erase_versions: bool,
        report: RedactReport,
        pace: Pace,
    ) -> None:
        self._storage = storage
        self._objects = storage.objects
        self._session = storage.layout.session_prefix(session_id)
        self._stash = storage.layout.stash_prefix(session_id)
        self._session_id = session_id
        self._change = change
        self._erase_versions = erase_versions
        self._report = report
        self._pace = pace
        self._versions = capability(self._objects, VersionedStore) if erase_versions else None
        self._conditional: bool | None = None
        # A pack takes its memory.
        self._slot = asyncio.Semaphore(1)
        self._cannot_list_versions = False
        self._named: set[str] = set()

    async def run(self) -> AsyncGenerator[RedactEvent, None]:
        await self._find_out_about_versions()
        is_clean = False
        while not is_clean and self._report.passes < _MAX_PASSES:
            self._report.passes += 1
            self._report.objects = self._report.retained = 0
            is_clean = True
            for events in (overlapped(self._keys(), self._of_object), self._old_versions()):
                async with aclosing(events):
                    async for event in events:
                        is_clean = is_clean and event.result == "retained"
                        self._report.requests = self._pace.turns
                        yield event
            if self._report.dry_run:
                break
        for key in sorted(self._named):
            yield RedactEvent(key=key, result="named")
        await self._sweep()
        self._report.requests = self._pace.turns
        if self._report.dry_run:
            return
        if self._report.retained or self._named or not is_clean:
            self._report.is_clean = False
        elif self._erase_versions and not self._cannot_list_versions:
            self._report.is_clean = True

    async def _sweep(self) -> None:
        """Let the store remove what interrupted writes have left, which has the text, too."""
        sweepable = capability(self._objects, SweepableStore)
        if sweepable is not None and not self._report.dry_run:
            for prefix in (self._stash, self._session):
                await sweepable.sweep(prefix)

    async def _find_out_about_versions(self) -> None:
        """List versions once, so that a missing permission is found before anything is changed."""
        if self._versions is None:
            return
        try:
            pages = self._versions.scan_versions(self._session, page_size=1)
            async with aclosing(pages):
                async for _ in pages:
                    break
        except UnsupportedOperationError:
            self._versions, self._cannot_list_versions = None, True

    def _includes(self, key: str) -> bool:
        if key.startswith(self._session):
            return not Layout.is_nested_store(key, self._session)
        return self._storage.layout.is_stash(key, self._session_id)

    async def _keys(self) -> AsyncGenerator[str, None]:
        for prefix in (self._stash, self._session):
            async with aclosing(self._objects.scan(prefix)) as pages:
                async for page in pages:
                    for key in page:
                        if self._includes(key):
                            yield key

    async def _of_object(self, key: str) -> AsyncGenerator[RedactEvent, None]:
        place = Layout.place_of(key, self._session) if key.startswith(self._session) else None
        if place is not None and place.kind == "archive":
            found = Layout.pack_in(key, self._storage.layout.archive_prefix(place.location))
            if found is not None:
                async with aclosing(self._of_archive(key, place.location, found)) as events:
                    async for event in events:
                        yield event
                return
        stored = await self._objects.get(key, max_bytes=_ANY_SIZE)
        if stored is None:
            return
        self._report.objects += 1
        work = partial(
            change_content,
            key,
            strip_padding(stored.data),
            self._change,
            kind=None if place is None else place.kind,
            max_bytes=self._storage.max_snapshot_bytes,
        )
        # A thread, so that the event loop goes on meanwhile.
        changed = await (asyncio.to_thread(work) if len(stored.data) > _LARGE else _now(work))
        if changed is None:
            if self._names(key):
                self._named.add(key)
            return
        data, places = changed
        if place is not None and place.kind == "latest":
            data = pad(data)
        result: Literal["planned", "redacted", "changed"] = "planned"
        if not self._report.dry_run:
            result = "redacted" if await self._rewrite(key, stored, data) else "changed"
        self._report.redacted += result != "changed"
        self._report.places += len(places) if result != "changed" else 0
        yield RedactEvent(key=key, result=result, places=tuple(places[:_SHOWN_PLACES]))

    def _names(self, key: str) -> bool:
        """Whether a key itself has what is to be replaced. It can't be renamed."""
        return isinstance(self._change, Redaction) and self._change.remains_in(key.encode())

    async def _of_archive(
        self, key: str, location: SnapshotLocation, name: PackName
    ) -> AsyncGenerator[RedactEvent, None]:
        self._report.objects += 1
        if self._conditional is None:
            self._conditional = not self._report.dry_run and await has_conditional_deletes(
                self._storage
            )
        packs = PackRedaction(
            self._storage,
            location,
            self._change,
            conditional=self._conditional,
            dry_run=self._report.dry_run,
        )
        if key == name.claim:
            if await packs.stop(name):
                yield RedactEvent(key=key, result="changed")
            return
        async with self._slot:
            done = await packs.redact(name)
        if done is not None:
            result, places = done
            self._report.redacted += result != "changed"
            self._report.places += len(places) if result != "changed" else 0
            yield RedactEvent(key=key, result=result, places=tuple(places[:_SHOWN_PLACES]))

    async def _rewrite(self, key: str, stored: StoredObject, data: bytes) -> bool:
        """Write over what was read; returns whether nobody else came first."""
        try:
            await _write(self._objects, key, data, stored.version, stored.metadata)
        except PreconditionFailedError:
            return False
        return True

    async def _old_versions(self) -> AsyncGenerator[RedactEvent, None]:
        """Erase versions that are not current."""
        if self._versions is None:
            return
        for prefix in (self._stash, self._session):
            async with aclosing(self._versions.scan_versions(prefix)) as pages:
                async for page in pages:
                    old = [
                        (one.key, one.version_id)
                        for one in page
                        if not (one.is_current or one.is_delete_marker) and self._includes(one.key)
                    ]
                    for start in range(0, len(old), PAGE_SIZE):
                        batch = old[start : start + PAGE_SIZE]
                        failed: Mapping[tuple[str, str], str] = {}
                        if not self._report.dry_run:
                            failed = await self._versions.delete_versions(batch)
                        for key, version_id in batch:
                            code = failed.get((key, version_id))
                            self._report.versions += code is None
                            self._report.retained += code is not None
                            done: Literal["planned", "erased"] = "erased"
                            done = "planned" if self._report.dry_run else done
                            yield RedactEvent(
                                key=key,
                                result=done if code is None else "retained",
                                version_id=version_id,
                                code=code,
                            )


async def _now(work: Callable[[], T]) -> T:
    return work()


async def _write(
    objects: ManagedStore, key: str, data: bytes, version: Version, metadata: Mapping[str, str]
) -> None:
    keeping = capability(objects, MetadataStore)
    if keeping is None or not metadata:
        await objects.put(key, data, if_match=version)
    else:
        await keeping.put_with_metadata(key, data, metadata, if_match=version)
