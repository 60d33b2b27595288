"""The body of an HTTP request as one readable stream: sized or chunked, compressed or not."""

from __future__ import annotations

import io
from typing import BinaryIO, Final, Protocol

from k2.embedded.clickhouse import compression
from k2.embedded.clickhouse.exceptions import BAD_ARGUMENTS, QueryError, query_error

PIECE: Final = 1 << 20
_MAX_LINE: Final = 1 << 16
# Small pieces, because each may grow a thousandfold.
_ENCODED_PIECE: Final = 1 << 16


class Body(Protocol):
    """Where a request's bytes come from; an empty piece is the end."""

    def read(self, size: int = PIECE, /) -> bytes: ...


class SizedBody:
    """A body whose Content-Length is known."""

    def __init__(self, source: BinaryIO, length: int) -> None:
        self._source = source
        self._left = length

    def read(self, size: int = PIECE, /) -> bytes:
        """At most `size` bytes. Raises QueryError where the client went away."""
        if self._left == 0:
            return b""
        piece = self._source.read(min(size, self._left))
        if not piece:
            raise query_error(BAD_ARGUMENTS, "The request ended before its Content-Length.")
        self._left -= len(piece)
        return piece


class ChunkedBody:
    """A body in HTTP/1.1 chunks (RFC 9112, 7.1)."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._left = 0
        self._ended = False

    def read(self, size: int = PIECE, /) -> bytes:
        """At most `size` bytes. Raises QueryError for chunks that are none."""
        if self._left == 0 and not self._ended:
            self._next_chunk()
        if self._ended:
            return b""
        piece = self._source.read(min(size, self._left))
        if not piece:
            raise query_error(BAD_ARGUMENTS, "The request ended in the middle of a chunk.")
        self._left -= len(piece)
        if self._left == 0:
            self._source.readline(_MAX_LINE)
        return piece

    def _next_chunk(self) -> None:
        line = self._source.readline(_MAX_LINE)
        try:
            self._left = int(line.split(b";")[0], 16)
        except ValueError:
            raise query_error(
                BAD_ARGUMENTS, "The request is chunked, but a chunk has no size."
            ) from None
        if self._left == 0:
            self._ended = True
            while self._source.readline(_MAX_LINE).strip():
                pass


class DecodedBody:
    """A body with its Content-Encoding taken off; frames that follow each other are one body."""

    def __init__(self, source: Body, encoding: str) -> None:
        self._source = source
        self._encoding = encoding
        self._decoder = compression.decompressor(encoding)
        self._begun = False

    def read(self, size: int = _ENCODED_PIECE, /) -> bytes:
        """The next decoded bytes, possibly more than `size`. Raises QueryError for broken ones."""
        while piece := self._source.read(min(size, _ENCODED_PIECE)):
            try:
                decoded = self._decode(piece)
            except compression.ERRORS as error:
                raise self._broken(str(error)) from None
            if decoded:
                return decoded
        if self._begun and not self._decoder.eof:
            raise self._broken("it ends too early")
        return b""

    def _decode(self, piece: bytes) -> bytes:
        decoded = b""
        while piece:
            if self._decoder.eof:
                self._decoder = compression.decompressor(self._encoding)
            self._begun = True
            decoded += self._decoder.decompress(piece)
            piece = (self._decoder.unused_data or b"") if self._decoder.eof else b""
        return decoded

    def _broken(self, why: str) -> QueryError:
        return query_error(BAD_ARGUMENTS, f"The body is not valid {self._encoding}: {why}.")


class BodyFile(io.RawIOBase):
    """A body as a file object, for parsers that want one."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self._body = body
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray, /) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = self._body.read()
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def drain(body: Body, limit: int = 64 * PIECE) -> bool:
    """Read what is left, so that the connection can be used again; False if it is too much."""
    while limit > 0:
        piece = body.read()
        if not piece:
            return True
        limit -= len(piece)
    return False
