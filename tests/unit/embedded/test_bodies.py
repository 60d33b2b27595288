"""Bodies: sized or chunked, compressed or not, whole or cut off."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2.embedded.clickhouse import compression
from k2.embedded.clickhouse.bodies import Body, ChunkedBody, DecodedBody, SizedBody
from k2.embedded.clickhouse.exceptions import QueryError

ENCODINGS = ["lz4", "zstd", "gzip", "deflate"]


def read_all(body: Body) -> bytes:
    return b"".join(iter(body.read, b""))


def encode(encoding: str, pieces: list[bytes]) -> bytes:
    encoder = compression.compressor(encoding)
    return b"".join(map(encoder.compress, pieces)) + encoder.flush()


@given(st.lists(st.binary(min_size=1)))
def test_chunks_are_joined(pieces: list[bytes]) -> None:
    encoded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    source = io.BytesIO(encoded + b"the next request")
    assert read_all(ChunkedBody(source)) == b"".join(pieces)
    assert source.read() == b"the next request"


@pytest.mark.parametrize("body", [b"5\r\nab", b"x\r\nab\r\n0\r\n\r\n", b""])
def test_broken_chunks_are_refused(body: bytes) -> None:
    with pytest.raises(QueryError, match="chunk"):
        read_all(ChunkedBody(io.BytesIO(body)))


def test_a_body_that_ends_early_is_refused() -> None:
    with pytest.raises(QueryError, match="Content-Length"):
        read_all(SizedBody(io.BytesIO(b"abc"), 4))


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(pieces=st.lists(st.binary()))
def test_every_encoding_comes_back(encoding: str, pieces: list[bytes]) -> None:
    encoded = encode(encoding, pieces)
    body = DecodedBody(SizedBody(io.BytesIO(encoded), len(encoded)), encoding)
    assert read_all(body) == b"".join(pieces)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_frames_one_after_the_other_are_one_body(encoding: str) -> None:
    encoded = encode(encoding, [b"one, "]) + encode(encoding, [b"two"])
    body = DecodedBody(SizedBody(io.BytesIO(encoded), len(encoded)), encoding)
    assert read_all(body) == b"one, two"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("damage", [lambda data: data[:-2], lambda data: b"nonsense" + data])
def test_a_damaged_body_is_refused(encoding: str, damage: object) -> None:
    assert callable(damage)
    encoded = damage(encode(encoding, [b"some rows"]))
    with pytest.raises(QueryError, match=encoding):
        read_all(DecodedBody(SizedBody(io.BytesIO(encoded), len(encoded)), encoding))


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(QueryError, match="'snappy'"):
        compression.decompressor("snappy")


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [("gzip, lz4", "lz4"), ("gzip;q=0.5", "gzip"), ("lz4;q=0, gzip", "gzip"), ("", None)],
)
def test_the_cheapest_accepted_encoding_is_chosen(accepted: str, chosen: str | None) -> None:
    assert compression.choose(accepted) == chosen
