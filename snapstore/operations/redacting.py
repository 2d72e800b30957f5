"""Redact a session: remove texts from everything that was ever saved of it.

It is the only thing that replaces history. Each object is read, changed, and written over the
version that was read, and over no other. Passes over the whole session are repeated until one finds
nothing to change: what is saved meanwhile is kept, and redacted by the next pass. In a versioned
bucket the versions that are not current still have the texts, so they are erased at the end of each
pass.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

import msgspec

from snapstore.encoding.documents import NotJSONError, decode_value, encode_json
from snapstore.encoding.envelope import decode_manifest, decode_raw_snapshot
from snapstore.encoding.padding import pad, strip_padding
from snapstore.errors import SnapshotDecodeError, SnapshotEncodeError, UnsupportedOperationError
from snapstore.model.ids import validate_identifier
from snapstore.model.keys import Layout
from snapstore.operations.changes import Change, Redaction
from snapstore.operations.operation import Operation, with_pace
from snapstore.operations.parallel import overlapped
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
_BOM: Final = b"\xef\xbb\xbf"
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
"""Names that are shown in places. Any other may tell something itself, and is `*`."""


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
        versions: Versions that were erased.
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
        erase_versions=erase_versions and not dry_run,
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
        looks = erase_versions or report.dry_run
        self._versions = capability(self._objects, VersionedStore) if looks else None
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
        stored = await self._objects.get(key, max_bytes=_ANY_SIZE)
        if stored is None:
            return
        self._report.objects += 1
        work = partial(self._changed, key, strip_padding(stored.data))
        # A thread, so that the event loop goes on meanwhile.
        places, data = await (asyncio.to_thread(work) if len(stored.data) > _LARGE else _now(work))
        if not places:
            if self._names(key):
                self._named.add(key)
            return
        result: Literal["planned", "redacted", "changed"] = "planned"
        if not self._report.dry_run:
            result = "redacted" if await self._rewrite(key, stored, data) else "changed"
        self._report.redacted += result != "changed"
        self._report.places += len(places) if result != "changed" else 0
        yield RedactEvent(key=key, result=result, places=tuple(places[:_SHOWN_PLACES]))

    def _changed(self, key: str, data: bytes) -> tuple[list[str], bytes]:
        """Change the content of an object; returns the places, none if nothing is to be written."""
        content = _Content.of(data)
        # Read once more, since a change may work on what it is given.
        changed = self._change(_Content.of(data).value)
        places = _places(content.value, changed)
        if not places and content.kind == "json":
            # What a name had that comes twice is not in the value: written anew, it is gone.
            remains = isinstance(self._change, Redaction) and self._change.remains_in(data)
            is_new = remains and content.encode(changed) != data
            places = [""] if is_new or content.has_duplicates else []
        return (places, self._encoded(key, content, changed)) if places else ([], b"")

    def _names(self, key: str) -> bool:
        """Whether a key itself has what is to be replaced. It can't be renamed."""
        return isinstance(self._change, Redaction) and self._change.remains_in(key.encode())

    def _encoded(self, key: str, content: _Content, changed: Any) -> bytes:
        """The new content as bytes.

        Raises:
            SnapshotEncodeError: A good snapshot or manifest would be none any more.
        """
        if type(changed) is not type(content.value):
            raise SnapshotEncodeError(
                f"{key}: change made a {type(changed).__name__} of a {type(content.value).__name__}"
            )
        data = content.encode(changed)
        place = Layout.place_of(key, self._session) if key.startswith(self._session) else None
        if place is None or place.kind not in ("latest", "history", "manifest"):
            return data
        if len(data) > self._storage.max_snapshot_bytes:
            raise SnapshotEncodeError(f"{key} would be too large: {len(data):,} bytes")
        decode = decode_manifest if place.kind == "manifest" else decode_raw_snapshot
        try:
            decode(content.data, key=key)
        except SnapshotDecodeError:
            pass  # it was damaged before, and is as text
        else:
            try:
                decode(data, key=key)
            except SnapshotDecodeError as error:
                failure = SnapshotEncodeError(f"change made something else of it: {error}")
            else:
                return pad(data) if place.kind == "latest" else data
            raise failure
        return data

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


class _Content(NamedTuple):
    """The content of an object, as a change gets it.

    Attributes:
        data: The bytes.
        value: What they are: JSON, else text, else bytes.
        kind: Which of them.
    """

    data: bytes
    value: Any
    kind: Literal["json", "text", "bytes"]

    @classmethod
    def of(cls, data: bytes) -> _Content:
        """Read bytes."""
        text = data.removeprefix(_BOM)
        try:
            return cls(data, decode_value(text), "json")
        except NotJSONError:
            pass
        try:
            return cls(data, bytes(data).decode(), "text")
        except UnicodeDecodeError:
            return cls(data, bytes(data), "bytes")

    @property
    def has_duplicates(self) -> bool:
        """Whether an object of the JSON has a name twice, of which only the last one is read."""
        is_double = False

        def look(pairs: list[tuple[str, Any]]) -> None:
            nonlocal is_double
            is_double = is_double or len({name for name, _ in pairs}) < len(pairs)

        with suppress(ValueError, RecursionError):
            json.loads(self.data.removeprefix(_BOM), object_pairs_hook=look)
        return is_double

    def encode(self, value: Any) -> bytes:
        """Write another content of the same kind."""
        if self.kind == "json":
            return encode_json(value)
        return value.encode() if self.kind == "text" else bytes(value)


def _places(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two contents differ, by their paths in the new one."""
    if type(old) is not type(new):
        return [path]
    if isinstance(old, dict):
        before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        found: list[str] = []
        for (key, value), (name, other) in zip(before.items(), after.items(), strict=False):
            shown = name if _PLAIN.fullmatch(name) else "*"
            inner = f"{path}.{shown}" if path else shown
            found += [inner] if key != name else []
            found += _places(value, other, inner)
        return found + ([path] if len(before) != len(after) else [])
    if isinstance(old, list):
        items, others = old, cast("list[Any]", new)
        found = []
        for number, (value, other) in enumerate(zip(items, others, strict=False)):
            found += _places(value, other, f"{path}[{number}]")
        return found + ([path] if len(items) != len(others) else [])
    return [] if old == new else [path]
