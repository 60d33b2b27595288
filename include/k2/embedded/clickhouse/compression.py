"""Content-Encoding of requests and responses: gzip, deflate, lz4, zstd and, if installed, br."""

from __future__ import annotations

import importlib
import zlib
from typing import TYPE_CHECKING, Any, Final, Protocol

import lz4.frame
from backports import zstd

from k2.embedded.clickhouse.exceptions import BAD_ARGUMENTS, NOT_IMPLEMENTED, query_error

if TYPE_CHECKING:
    from collections.abc import Callable


class Compressor(Protocol):
    """What every encoder offers: bytes in pieces, then the rest."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Decompressor(Protocol):
    """What every decoder offers; each piece of input gives all of its output."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes | None: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _Lz4Compressor:
    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameCompressor()
        self._begun = False

    def compress(self, data: bytes, /) -> bytes:
        header = b"" if self._begun else bytes(self._frame.begin())
        self._begun = True
        return header + bytes(self._frame.compress(data))

    def flush(self) -> bytes:
        header = b"" if self._begun else bytes(self._frame.begin())
        return header + bytes(self._frame.flush())


class _Brotli:
    unused_data = b""

    def __init__(self) -> None:
        try:
            self._decoder: Any = importlib.import_module("brotli").Decompressor()
        except ImportError:
            raise query_error(
                NOT_IMPLEMENTED, "Content-Encoding br needs the Python package brotli."
            ) from None

    @property
    def eof(self) -> bool:
        return bool(self._decoder.is_finished())

    def decompress(self, data: bytes, /) -> bytes:
        return bytes(self._decoder.process(data))


_GZIP: Final = 16 + zlib.MAX_WBITS
# In the order in which they are preferred: on loopback the cheapest wins.
_COMPRESSORS: Final[dict[str, Callable[[], Compressor]]] = {
    "lz4": _Lz4Compressor,
    "zstd": lambda: zstd.ZstdCompressor(level=1),
    "gzip": lambda: zlib.compressobj(1, zlib.DEFLATED, _GZIP),
    "deflate": lambda: zlib.compressobj(1),
}
_DECOMPRESSORS: Final[dict[str, Callable[[], Decompressor]]] = {
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
    "gzip": lambda: zlib.decompressobj(_GZIP),
    "x-gzip": lambda: zlib.decompressobj(_GZIP),
    "deflate": zlib.decompressobj,
    "br": _Brotli,
}
ERRORS: Final = (zlib.error, zstd.ZstdError, RuntimeError, EOFError)


def choose(accept_encoding: str) -> str | None:
    """The encoding of a response, out of an Accept-Encoding header; None is none."""
    offered = {
        name.strip().lower()
        for name, _, weight in (item.partition(";") for item in accept_encoding.split(","))
        if weight.replace(" ", "") not in {"q=0", "q=0.0"}
    }
    return next((name for name in _COMPRESSORS if name in offered), None)


def compressor(encoding: str) -> Compressor:
    """A new encoder of one of the encodings that `choose` returns."""
    return _COMPRESSORS[encoding]()


def decompressor(encoding: str) -> Decompressor:
    """A new decoder for a Content-Encoding header. Raises QueryError for an unknown one."""
    make = _DECOMPRESSORS.get(encoding.strip().lower())
    if make is None:
        known = ", ".join(_DECOMPRESSORS)
        raise query_error(
            BAD_ARGUMENTS, f"Unknown Content-Encoding {encoding!r}; known are {known}."
        )
    return make()
