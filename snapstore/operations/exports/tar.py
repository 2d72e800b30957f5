"""The file of an export: a tar in PAX format, written and read member by member.

Members are named as the Strands SDKs place objects in a store of their own, sessions in `session/`
and the stash in `context/`. All headers are written with a PAX header for the name, with no time,
and with no owner, so that equal sessions make equal files. The last member is a seal: JSON with the
number of members before it and the SHA-256 of everything before it. A file without it was cut.

Only what is written here is read: a reader of files from elsewhere must not be lenient.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, Final, NamedTuple

import msgspec

from snapstore.errors import InvalidExportError
from snapstore.model.keys import Layout
from snapstore.stores.base import Body

__all__ = ["LAYOUT", "Member", "TarReader", "TarWriter", "is_portable_name"]

LAYOUT: Final = Layout("session")
"""Where members lie: the prefix that the SDKs use, so that the stash lies beside the sessions."""

_BLOCK: Final = tarfile.BLOCKSIZE
_END: Final = bytes(2 * _BLOCK)
_SEAL: Final = "snapstore-export.json"
_VERSION: Final = 1
_ORIGIN: Final = "SNAPSTORE.origin"
_LONGEST_HEADER: Final = 16 * 1024
"""Bytes of a PAX header. A key has at most 1,024."""
_LONGEST_END: Final = 64 * 1024
"""Bytes after the end of the archive: tools fill the last record with zeros."""


class Member(NamedTuple):
    """An object in the file.

    Attributes:
        name: Its name.
        data: Its body.
        origin: Of a latest snapshot, the id of the entry in history that it was saved from.
    """

    name: str
    data: Body
    origin: str | None = None


class _Seal(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    session_id: str
    members: int
    sha256: str


class TarWriter:
    """Makes the bytes of the file.

    Args:
        session_id: The session.
    """

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._hash = hashlib.sha256()
        self.members: int = 0

    def add(self, member: Member) -> bytes:
        """The bytes of a member."""
        extra = {} if member.origin is None else {_ORIGIN: member.origin}
        data = _encode(member.name, member.data, extra)
        self._hash.update(data)
        self.members += 1
        return data

    def end(self) -> bytes:
        """The bytes of the seal and the end of the archive."""
        seal = _Seal(_VERSION, self._session_id, self.members, self._hash.hexdigest())
        return _encode(_SEAL, msgspec.json.encode(seal), {}) + _END


def is_portable_name(name: str) -> bool:
    """Whether a member may have a name: each segment a name, and every character printable."""
    segments = name.split("/")
    return name.isprintable() and not any(segment in ("", ".", "..") for segment in segments)


def _encode(name: str, data: bytes, extra: Mapping[str, str]) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o600
    info.pax_headers = {"path": name, **extra}
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    return Body(b"".join((header, data, bytes(-len(data) % _BLOCK))))


class TarReader:
    """Reads a file, and checks all that can be checked of it without knowing snapshots.

    Args:
        file: It is read from where it stands to its end.
        max_bytes: How large an object may be.

    Attributes:
        session_id: After all members were read, the session that the file says it is of.
    """

    def __init__(self, file: IO[bytes], *, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._members = 0
        self.session_id: str = ""

    def members(self) -> Iterator[Member]:
        """All members, in their order.

        Raises:
            InvalidExportError: The file is not whole, or not such a file.
        """
        while True:
            digest = self._hash.hexdigest()
            name, size, origin = self._read_header()
            if name == _SEAL:
                self._read_seal(size, digest)
                return
            if size > self._max_bytes:
                raise InvalidExportError(
                    f"{name} has {size:,} bytes, where {self._max_bytes:,} are allowed"
                )
            data = self._read_body(size)
            self._members += 1
            yield Member(name, data, origin)

    def _read_header(self) -> tuple[str, int, str | None]:
        info = self._read_info()
        if info.type != tarfile.XHDTYPE or info.size > _LONGEST_HEADER:
            raise InvalidExportError(
                f"the member after {self._members} others is not as an export has it"
            )
        records = _decode_records(self._read_body(info.size))
        info = self._read_info()
        name = records.get("path")
        if info.type != tarfile.REGTYPE or name is None or records.keys() - {"path", _ORIGIN}:
            raise InvalidExportError(
                f"the member after {self._members} others is not a file as an export has it"
            )
        return name, info.size, records.get(_ORIGIN)

    def _read_info(self) -> tarfile.TarInfo:
        try:
            info = tarfile.TarInfo.frombuf(self._read(_BLOCK), "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError):
            info = None
        if info is None or info.size < 0:
            raise InvalidExportError(
                f"after {self._members} members comes no other one, and not the end of an export: "
                "the file is damaged, was cut, or is none"
            )
        return info

    def _read_seal(self, size: int, digest: str) -> None:
        seal: _Seal | None = None
        if size <= _LONGEST_HEADER:
            try:
                seal = msgspec.json.decode(self._read_body(size), type=_Seal)
            except msgspec.MsgspecError:
                seal = None
        if seal is None:
            raise InvalidExportError("the end of the export is damaged")
        if seal.version != _VERSION:
            raise InvalidExportError(
                f"the export has version {seal.version}, this is for version {_VERSION}"
            )
        if (seal.members, seal.sha256) != (self._members, digest):
            raise InvalidExportError("the export is damaged: it is not what was written")
        rest = self._file.read(_LONGEST_END + 1)
        if len(rest) < len(_END) or len(rest) > _LONGEST_END or rest.strip(b"\0"):
            raise InvalidExportError("the export does not end where it should")
        self.session_id = seal.session_id

    def _read_body(self, size: int) -> Body:
        data = self._read(size)
        if self._read(-size % _BLOCK).strip(b"\0"):
            raise InvalidExportError("the export is damaged: there is something between members")
        return data

    def _read(self, size: int) -> Body:
        pieces: list[bytes] = []
        missing = size
        while missing and (piece := self._file.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        if missing:
            raise InvalidExportError(
                f"the export ends after {self._members} members, before it should: it was cut"
            )
        data = Body(b"".join(pieces))
        self._hash.update(data)
        return data


def _decode_records(data: bytes) -> dict[str, str]:
    """The records of a PAX header (POSIX.1-2017, "pax Header Block").

    Raises:
        InvalidExportError: They are not as an export has them.
    """
    records: dict[str, str] = {}
    rest = data
    while rest:
        digits, _, _ = rest.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 6 else 0
        record, rest = rest[len(digits) + 1 : length], rest[length:]
        keyword, equals, value = record.partition(b"=")
        try:
            name, text = keyword.decode(), value.removesuffix(b"\n").decode()
        except UnicodeDecodeError:
            name = text = ""
        if not length or not equals or not value.endswith(b"\n") or not name or name in records:
            raise InvalidExportError("a header of the export is damaged")
        records[name] = text
    return records
