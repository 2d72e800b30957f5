"""Zstandard: the standard library's of Python 3.14, or its backport."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO, Any, Final

__all__ = ["MAGIC", "Compressor", "DamagedStreamError", "decompressed", "open_to_read", "require"]

MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""What a frame begins with (RFC 8878, section 3.1.1)."""

_LEVEL: Final = 3
_LONG_WINDOW: Final = 26
"""64 MiB, which is memory of who writes and of who reads, and as large as a snapshot may be."""
_WIDEST_WINDOW: Final = 27
"""128 MiB: the widest window that `zstd -d` takes unless it is told otherwise."""
_PIECE: Final = 2**20


def require() -> None:
    """Raise an error if there is no Zstandard.

    Raises:
        ModuleNotFoundError: The extra `archive` is not installed.
    """
    _load()


class DamagedStreamError(Exception):
    """What was to be decompressed is no whole frame."""


class Compressor:
    """Compresses a stream, with a checksum.

    Args:
        long_distance: Whether repetitions are found over 64 MiB, which takes about 80 MB.

    Raises:
        ModuleNotFoundError: The extra `archive` is not installed.
    """

    def __init__(self, *, long_distance: bool = False) -> None:
        zstd = _load()
        parameters = zstd.CompressionParameter
        options = {parameters.compression_level: _LEVEL, parameters.checksum_flag: 1}
        if long_distance:
            options |= {
                parameters.window_log: _LONG_WINDOW,
                parameters.enable_long_distance_matching: 1,
            }
        self._compressor = zstd.ZstdCompressor(options=options)

    def compress(self, data: bytes) -> bytes:
        """Compress the next piece; returns what is ready, which may be nothing."""
        ready: bytes = self._compressor.compress(data)
        return ready

    def flush(self) -> bytes:
        """End the stream; returns the rest of it."""
        rest: bytes = self._compressor.flush()
        return rest


def decompressed(data: memoryview) -> Iterator[bytes]:
    """Decompress one frame, piece by piece: of at most 1 MiB, with a window of at most 128 MiB.

    Args:
        data: The frame, and nothing else.

    Raises:
        DamagedStreamError: It is not one whole frame.
        ModuleNotFoundError: The extra `archive` is not installed.
    """
    zstd = _load()
    options = {zstd.DecompressionParameter.window_log_max: _WIDEST_WINDOW}
    decompressor = zstd.ZstdDecompressor(options=options)
    place = 0
    while not decompressor.eof:
        given = data[:0]
        if decompressor.needs_input:
            given = data[place : place + _PIECE]
            place += len(given)
            if not given:
                raise DamagedStreamError
        try:
            piece = decompressor.decompress(given, _PIECE)
        except zstd.ZstdError:
            piece = None
        if piece is None:
            raise DamagedStreamError
        yield piece
    if place < len(data) or decompressor.unused_data:
        raise DamagedStreamError


def open_to_read(file: IO[bytes]) -> tuple[IO[bytes], type[Exception]]:
    """Read what a file holds, from where it stands.

    Args:
        file: A compressed file. It stays open.

    Returns:
        The decompressed stream, and the class of errors that damaged data raises.

    Raises:
        ModuleNotFoundError: The extra `archive` is not installed.
    """
    zstd = _load()
    stream: IO[bytes] = zstd.ZstdFile(file, "rb")
    return stream, zstd.ZstdError


def _load() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise ModuleNotFoundError(
            'compressed exports and archives need Zstandard: pip install "snapstore[archive]"',
            name=error.name,
        ) from error
    return zstd
