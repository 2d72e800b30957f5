"""The members of an export as objects of a session, each checked before it is handed on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Literal, NamedTuple

from snapstore.encoding.envelope import decode_manifest, decode_raw_snapshot
from snapstore.errors import InvalidExportError, InvalidIdentifierError
from snapstore.model.ids import validate_identifier, validate_snapshot_id
from snapstore.model.snapshot import SnapshotLocation
from snapstore.operations.exports.tar import LAYOUT, Member, TarReader, is_portable_name

__all__ = ["ImportedObject", "read_objects"]

Kind = Literal["other", "stash", "history", "archive", "latest"]

_ORDER: dict[Kind, int] = {"other": 0, "stash": 1, "history": 2, "archive": 3, "latest": 4}


class ImportedObject(NamedTuple):
    """An object of the session that was exported.

    Attributes:
        member: As it is in the file.
        session_id: The session that was exported.
        kind: What it is.
        rest: Its key without what the keys of the session, or of its stash, begin with.
        location: Where it belongs, if it is history or latest.
        snapshot_id: Its id, if it is history.
    """

    member: Member
    session_id: str
    kind: Kind
    rest: str
    location: SnapshotLocation | None = None
    snapshot_id: str | None = None


def read_objects(file: IO[bytes], *, max_bytes: int) -> Iterator[ImportedObject]:
    """Read an export. It may block.

    Args:
        file: It is read to its end.
        max_bytes: How large an object may be.

    Raises:
        InvalidExportError: The file is not whole; or a member is of another session, is twice
            there, is not in the order of an export, or is none.
        SnapshotDecodeError: A member should be a snapshot or a manifest, and is none.
    """
    reader = TarReader(file, max_bytes=max_bytes)
    checks: _Checks | None = None
    for member in reader.members():
        checks = checks or _Checks(_session_of(member.name))
        yield checks.object_of(member)
    if checks is None or not checks.is_session or reader.session_id != checks.session_id:
        raise InvalidExportError("the export has no session")


def _session_of(name: str) -> str:
    """The session that a member is of."""
    segments = name.split("/")
    if is_portable_name(name) and len(segments) > 2 and segments[0] in ("session", "context"):
        try:
            return validate_identifier(segments[1], "session_id")
        except InvalidIdentifierError:
            pass
    raise _invalid(name, "it is no object of a session")


class _Checks:
    """What must hold between the members.

    Args:
        session_id: The session that all must be of.

    Attributes:
        session_id: As the argument.
        is_session: Whether a member shows that there is a session.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id: str = session_id
        self.is_session: bool = False
        self._prefix = LAYOUT.session_prefix(session_id)
        self._stash_prefix = LAYOUT.stash_prefix(session_id)
        self._names: set[str] = set()
        self._histories: set[SnapshotLocation] = set()
        self._last: tuple[SnapshotLocation | None, str] = None, ""
        self._place = 0

    def object_of(self, member: Member) -> ImportedObject:
        """What a member is."""
        found = self._classified(member)
        place = _ORDER[found.kind]
        if place < self._place:
            raise _invalid(member.name, "it comes too late for the order of an export")
        self._place = place
        if found.kind == "history":
            self._check_history(found)
        elif member.name in self._names:
            raise _invalid(member.name, "it is there twice")
        else:
            self._names.add(member.name)
        self.is_session = self.is_session or LAYOUT.is_own(member.name, self._prefix)
        if found.location is not None:
            snapshot = decode_raw_snapshot(member.data, key=member.name)
            if snapshot.scope != found.location.scope:
                raise _invalid(member.name, f"it holds a snapshot of scope {snapshot.scope!r}")
        return found

    def _classified(self, member: Member) -> ImportedObject:
        name, session_id = member.name, self.session_id
        if _session_of(name) != session_id:
            raise _invalid(name, f"it is not of the session {session_id}")
        if name.startswith(self._stash_prefix):
            rest = name.removeprefix(self._stash_prefix)
            return ImportedObject(member, session_id, "stash", rest)
        if LAYOUT.is_nested_store(name, self._prefix):
            raise _invalid(name, f"it is not of the session {session_id}")
        rest = name.removeprefix(self._prefix)
        place = LAYOUT.place_of(name, self._prefix)
        if place is None or place.kind == "damaged":
            return ImportedObject(member, session_id, "other", rest)
        if place.kind == "archive":
            return ImportedObject(member, session_id, "archive", rest)
        if place.kind == "manifest":
            decode_manifest(member.data, key=name)
            return ImportedObject(member, session_id, "other", rest)
        is_latest = place.kind == "latest"
        if is_latest:
            self._check_origin(member)
        kind: Literal["latest", "history"] = "latest" if is_latest else "history"
        return ImportedObject(member, session_id, kind, rest, place.location, place.snapshot_id)

    def _check_origin(self, member: Member) -> None:
        if member.origin is not None:
            try:
                validate_snapshot_id(member.origin)
            except InvalidIdentifierError:
                raise _invalid(member.name, "it names no snapshot as its origin") from None

    def _check_history(self, found: ImportedObject) -> None:
        """History comes location by location, in ascending order: so none is there twice."""
        location, snapshot_id = found.location, found.snapshot_id or ""
        last_location, last_id = self._last
        is_new = location != last_location
        if (is_new and location in self._histories) or (not is_new and snapshot_id <= last_id):
            raise _invalid(found.member.name, "it is there twice, or out of order")
        if location is not None:
            self._histories.add(location)
        self._last = location, snapshot_id


def _invalid(name: str, why: str) -> InvalidExportError:
    shown = ascii(name) if len(name) <= 300 else f"{name[:300]!a}..."
    return InvalidExportError(f"the member {shown} can't be imported: {why}")
