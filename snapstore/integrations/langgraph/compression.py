"""Zstandard frames, alone or with earlier bytes as their dictionary."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    zstd: Any
elif sys.version_info >= (3, 14):
    from compression import zstd
else:
    try:
        from backports import zstd
    except ImportError as error:
        raise ImportError(
            'snapstore.integrations.langgraph needs Zstandard: pip install "snapstore[langgraph]"'
        ) from error

__all__ = ["compress", "decompress"]

_LEVEL: Final = 3
_LEAST_WINDOW: Final = 17
_LARGEST_WINDOW: Final = 27
"""What decompressors take without being asked for more: 128 MiB (RFC 8878 asks for 8 MiB)."""


def compress(data: bytes, dictionary: bytes | None = None) -> bytes:
    """Make a frame, with a checksum.

    Args:
        data: What it holds.
        dictionary: Earlier bytes that the data has much in common with.
    """
    parameters = zstd.CompressionParameter
    options: dict[Any, int] = {parameters.compression_level: _LEVEL, parameters.checksum_flag: 1}
    prefix: Any = None
    if dictionary is not None:
        # As `zstd --patch-from` does: the window reaches back to the beginning of the dictionary.
        window = (len(data) + len(dictionary)).bit_length()
        options[parameters.window_log] = min(max(window, _LEAST_WINDOW), _LARGEST_WINDOW)
        options[parameters.enable_long_distance_matching] = 1
        prefix = zstd.ZstdDict(dictionary, is_raw=True).as_prefix
    compressor = zstd.ZstdCompressor(options=options, zstd_dict=prefix)
    frame: bytes = compressor.compress(data, compressor.FLUSH_FRAME)
    return frame


def decompress(frame: bytes, dictionary: bytes | None = None, *, max_bytes: int) -> bytes:
    """Read a frame.

    Args:
        frame: The frame, and nothing else.
        dictionary: As when it was made.
        max_bytes: How many bytes it may hold.

    Raises:
        ValueError: It is no such frame, is damaged, or holds more.
    """
    prefix = None if dictionary is None else zstd.ZstdDict(dictionary, is_raw=True).as_prefix
    decompressor = zstd.ZstdDecompressor(zstd_dict=prefix)
    try:
        data: bytes = decompressor.decompress(frame, max_bytes + 1)
    except zstd.ZstdError:
        raise ValueError("it is no Zstandard frame, or is damaged") from None
    if len(data) > max_bytes:
        raise ValueError(f"it holds more than {max_bytes:,} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("it is cut, or has something behind it")
    return data
