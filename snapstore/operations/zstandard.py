"""Zstandard: the standard library's of Python 3.14, or its backport."""

from __future__ import annotations

import sys
from typing import IO, Any, Final

__all__ = ["MAGIC", "Compressor", "open_to_read"]

MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""What a frame begins with (RFC 8878, section 3.1.1)."""

_LEVEL: Final = 3


class Compressor:
    """Compresses a stream, with a checksum.

    Raises:
        ModuleNotFoundError: The extra `archive` is not installed.
    """

    def __init__(self) -> None:
        zstd = _load()
        parameters = zstd.CompressionParameter
        options = {parameters.compression_level: _LEVEL, parameters.checksum_flag: 1}
        self._compressor = zstd.ZstdCompressor(options=options)

    def compress(self, data: bytes) -> bytes:
        """Compress the next piece; returns what is ready, which may be nothing."""
        ready: bytes = self._compressor.compress(data)
        return ready

    def flush(self) -> bytes:
        """End the stream; returns the rest of it."""
        rest: bytes = self._compressor.flush()
        return rest


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
            'a compressed export needs Zstandard: pip install "snapstore[archive]"',
            name=error.name,
        ) from error
    return zstd
