r"""Packs: many snapshots of one history in one compressed object.

A pack is a Zstandard frame and a skippable frame behind it (RFC 8878, sections 3.1.1 and 3.1.2)::

    frame:            for each document, in the order of their ids:
                          {"bytes":<length>}\n    only if it has line breaks of its own
                          <document>\n
    skippable frame:  magic number 0x184D2A53 and length, 4 bytes each, little-endian
                      the index, as JSON
                      the length of the index, 4 bytes, little-endian
                      snappack

So `zstd -d` gives the documents, mostly one a line. The index tells where each document begins, its
length and its SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NoReturn, TypeVar

import msgspec

from snapstore.encoding.frames import drop_frames
from snapstore.encoding.zstandard import Compressor, DamagedStreamError, decompressed
from snapstore.errors import SnapshotDecodeError
from snapstore.model.ids import UUID7
from snapstore.model.keys import PackName

__all__ = ["MAX_DOCUMENTS", "MAX_TOTAL_BYTES", "PackReader", "PackWriter", "PackedDocument"]

MAX_DOCUMENTS: Final = 10_000
"""How many documents a pack may have."""

MAX_TOTAL_BYTES: Final = 512 * 2**20
"""How many bytes the documents of a pack may have, unless it is a single one."""

T = TypeVar("T")

_VERSION: Final = 1
_MAGIC: Final = 0x184D2A53.to_bytes(4, "little")
_MARK: Final = b"snappack"
_LONGEST_INDEX: Final = MAX_DOCUMENTS * 256
_LONGEST_FRAMING: Final = 64
"""Bytes that stand before and behind a document."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ID: Final = re.compile(UUID7, re.ASCII)


@drop_frames
def _next(documents: Iterator[bytes]) -> bytes:
    """The next document. Its errors are without the frames that hold documents."""
    return next(documents)


class PackedDocument(msgspec.Struct, frozen=True, array_like=True):
    """A document in a pack.

    Attributes:
        snapshot_id: Its id.
        offset: Where it begins in what is decompressed.
        length: Its bytes.
        sha256: Its SHA-256, in hexadecimal digits.
    """

    snapshot_id: str
    offset: int
    length: int
    sha256: str


class _AnyIndex(msgspec.Struct):
    version: int


class _Index(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    run: str
    documents: list[PackedDocument]


class PackWriter:
    """Makes a pack. Its methods take their time: call them in a thread.

    Args:
        run: What makes this pack another one than that of any other run, of the same documents.

    Attributes:
        documents: The documents that it has, as the index has them.
        total: Their bytes, with what stands between them.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._compressor = Compressor(long_distance=True)
        self._out = io.BytesIO()
        self.documents: list[PackedDocument] = []
        self.total: int = 0

    @property
    def size(self) -> int:
        """Bytes of the pack, as far as they are made."""
        return self._out.tell()

    def add(self, snapshot_id: str, document: bytes) -> PackedDocument:
        """Add a document; its id is higher than those before."""
        if b"\n" in document or b"\r" in document:
            self._write(b'{"bytes":%d}\n' % len(document))
        packed = PackedDocument(
            snapshot_id, self.total, len(document), hashlib.sha256(document).hexdigest()
        )
        self.documents.append(packed)
        self._write(document)
        self._write(b"\n")
        return packed

    def _write(self, data: bytes) -> None:
        self._out.write(self._compressor.compress(data))
        self.total += len(data)

    def finish(self) -> bytes:
        """The whole pack."""
        self._out.write(self._compressor.flush())
        index = msgspec.json.encode(_Index(_VERSION, self._run, self.documents))
        end = len(index).to_bytes(4, "little") + _MARK
        size = len(index) + len(end)
        self._out.write(b"".join((_MAGIC, size.to_bytes(4, "little"), index, end)))
        return self._out.getvalue()


class PackReader:
    """Reads a pack, and believes nothing of it. Its methods take their time: call them in a thread.

    Args:
        name: What its key tells.
        data: The pack.
        max_bytes: How large a document may be.

    Attributes:
        name: As the argument.
        documents: The documents that it has, in the order of their ids.

    Raises:
        SnapshotDecodeError: It is no pack, it is damaged, or not the one that its key says.
    """

    def __init__(self, name: PackName, data: bytes, *, max_bytes: int) -> None:
        self.name: PackName = name
        self._data = memoryview(data)
        self._max_bytes = max_bytes
        if hashlib.sha256(data).hexdigest()[:16] != name.digest:
            self._fail("it is not what was written under this key")
        self.documents: list[PackedDocument] = self._read_index()
        self._by_id = {packed.snapshot_id: packed for packed in self.documents}

    def get(self, snapshot_id: str) -> PackedDocument | None:
        """What the index tells of a document; `None` if it is not here."""
        return self._by_id.get(snapshot_id)

    def newest(self, until: str) -> str | None:
        """The highest id up to and including one; `None` if there is none."""
        ids = (packed.snapshot_id for packed in reversed(self.documents))
        return next((found for found in ids if found <= until), None)

    def read(self, snapshot_id: str) -> bytes | None:
        """A document; `None` if it is not here.

        Raises:
            SnapshotDecodeError: The pack is damaged, or the document is too large.
        """
        packed = self._by_id.get(snapshot_id)
        return None if packed is None else _next(self._documents([packed]))

    def read_all(self) -> Iterator[tuple[PackedDocument, bytes]]:
        """All documents.

        Raises:
            SnapshotDecodeError: The pack is damaged, or a document is too large.
        """
        documents = self._documents(self.documents)
        for packed in self.documents:
            yield packed, _next(documents)

    def _documents(self, wanted: list[PackedDocument]) -> Iterator[bytes]:
        """The documents that are wanted, cut out of the stream."""
        for packed in wanted:
            if packed.length > self._max_bytes:
                self._fail(
                    f"{packed.snapshot_id} has {packed.length:,} bytes, where "
                    f"{self._max_bytes:,} are allowed"
                )
        stream = self._stream()
        piece, start = b"", 0  # the piece begins there
        for packed in wanted:
            while start + len(piece) <= packed.offset and packed.length:
                start += len(piece)
                piece = next(stream)
            parts = [piece[packed.offset - start :][: packed.length]]
            missing = packed.length - len(parts[0])
            while missing:
                start += len(piece)
                piece = next(stream)
                parts.append(piece[:missing])
                missing -= len(parts[-1])
            document = b"".join(parts)
            del parts
            if hashlib.sha256(document).hexdigest() != packed.sha256:
                document = piece = b""  # they would be in the error's frame
                self._fail(f"{packed.snapshot_id} is not what was packed")
            yield document
            del document

    def _stream(self) -> Iterator[bytes]:
        """What is decompressed, piece by piece; it never ends early without an error."""
        left = self._total
        pieces = decompressed(self._data[: self._end])
        while True:
            try:
                piece = next(pieces, None)
            except DamagedStreamError:
                piece = None
            if piece is None or len(piece) > left:
                del piece
                self._fail("it is cut or damaged")
            left -= len(piece)
            yield piece

    def _read_index(self) -> list[PackedDocument]:
        data = self._data
        length = int.from_bytes(data[-12:-8], "little")
        size = length + 4 + len(_MARK)
        self._end = len(data) - size - 8
        if (
            bytes(data[-8:]) != _MARK
            or self._end < 0
            or length > _LONGEST_INDEX
            or bytes(data[self._end : self._end + 8]) != _MAGIC + size.to_bytes(4, "little")
        ):
            self._fail("it has no index")
        version = _decode(data[self._end + 8 : -12], _AnyIndex)
        if version is not None and version.version != _VERSION:
            self._fail(f"it has version {version.version}, and this is for version {_VERSION}")
        index = _decode(data[self._end + 8 : -12], _Index)
        if index is None:
            self._fail("its index is damaged")
        found = index.documents
        if not (
            0 < len(found) <= MAX_DOCUMENTS
            and all(map(_is_good, found))
            and all(one.snapshot_id < other.snapshot_id for one, other in pairwise(found))
            and all(one.offset + one.length < other.offset for one, other in pairwise(found))
            and (found[0].snapshot_id, found[-1].snapshot_id) == (self.name.first, self.name.last)
        ):
            self._fail("its index is not as it should be")
        self._total = found[-1].offset + found[-1].length + 1
        if self._total > max(MAX_TOTAL_BYTES, self._max_bytes + _LONGEST_FRAMING):
            self._fail(f"its documents have {self._total:,} bytes")
        return found

    def _fail(self, why: str) -> NoReturn:
        raise SnapshotDecodeError(
            f"{self.name.key} is not a good pack of snapshots: {why}", key=self.name.key
        )


def _decode(data: memoryview, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _is_good(packed: PackedDocument) -> bool:
    return (
        packed.offset >= 0
        and packed.length >= 0
        and _ID.fullmatch(packed.snapshot_id) is not None
        and _SHA256.fullmatch(packed.sha256) is not None
    )
