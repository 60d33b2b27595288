"""A query passed on to ClickHouse as it is, its answer passed back as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import httpx

from k2.errors import K2Error, StackError

if TYPE_CHECKING:
    from k2.settings import ClickHouse

# The format of an answer whose query does not name one: a table for people.
DEFAULT_FORMAT = "PrettyCompactMonoBlock"


class QueryError(K2Error):
    """ClickHouse refused the query."""


def stream_query(clickhouse: ClickHouse, query: str, output: BinaryIO) -> None:
    """Write the answer of a query to `output`, piece by piece.

    Raises:
        QueryError: ClickHouse refused it; the message is ClickHouse's.
        StackError: ClickHouse does not answer.
    """
    try:
        with httpx.stream(
            "POST",
            f"http://{clickhouse.host}:{clickhouse.port}/",
            params={"database": clickhouse.database, "default_format": DEFAULT_FORMAT},
            content=query.encode(),
            auth=(clickhouse.user, clickhouse.password),
            timeout=httpx.Timeout(10, read=None),
        ) as response:
            if response.is_error:
                raise QueryError(response.read().decode(errors="replace").strip())
            for piece in response.iter_bytes():
                output.write(piece)
            output.flush()
    except httpx.HTTPError as error:
        raise StackError(
            f"ClickHouse at {clickhouse.host}:{clickhouse.port} cannot be used: {error}"
        ) from error
