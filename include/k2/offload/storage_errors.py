"""What an object store answered, in one line, whichever of its three clients it was asked by.

ClickHouse and PyArrow give a text, Java a chain of causes; none says what to do.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from clickhouse_connect.driver.exceptions import ClickHouseError
from py4j.protocol import Py4JJavaError

from k2.errors import OffloadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2.settings import Lake

# By which text each client's errors are known to be of the object store.
_OF_STORE: Final = {
    "ClickHouse": r"\(S3_ERROR\)|NETWORK_CONNECTION",
    "Spark": r"software[./]amazon[./]awssdk|org\.apache\.iceberg\.aws",
    "PyIceberg": r"AWS Error|curlCode|does not exist",
}
# What is wrong and what to do, the first that fits; the patterns are of lower case. The names are
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html's, as the clients spell them.
# An answer to a HEAD request has none: only the status 403, and no bucket is no file.
_ANSWERS: Final = (
    (
        r"noclassdeffounderror|classnotfoundexception|cannot find constructor",
        "Spark has no iceberg-aws-bundle; set K2_LAKE_WAREHOUSE before the stack is started, or "
        "the image built, and it is fetched",
    ),
    (
        r"no_?such_?bucket|bucket does not exist",
        "there is no bucket '{bucket}'; create it, or correct K2_LAKE_WAREHOUSE, and run it again",
    ),
    (
        r"does not exist",
        "it has no such file, or there is no bucket '{bucket}'; bring it back, or correct "
        "K2_LAKE_WAREHOUSE, and run it again",
    ),
    (
        r"unable to load credentials",
        "there is no key; set {keys} in {environment}, and run it again",
    ),
    (
        r"access.?key.?id|signature_?does_?not_?match|request signature|access.?denied|forbidden"
        r"|status code: 403|response code: 403",
        "the key is refused; correct {keys} in {environment}, and run it again",
    ),
    (
        r"connection refused|connection reset|network_connection|couldn't connect|unknownhost"
        r"|not resolve|timed? ?out|unable to execute http request",
        "it does not answer; start it, or correct K2_LAKE_ENDPOINT, and run it again",
    ),
)
_KEYS: Final = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class StorageError(OffloadError):
    """The object store does not answer, has no such bucket, or refuses the key."""


@contextmanager
def told_in_a_line(lake: Lake) -> Iterator[None]:
    """Raise StorageError for what an object store has refused; all other errors pass as they are.

    A run that it ends has committed whole batches only.
    """
    try:
        yield
    except (ClickHouseError, Py4JJavaError, OSError) as error:
        client, text = _described(error)
        if lake.store is None or not re.search(_OF_STORE[client], text):
            raise
        address = lake.store.endpoint or "AWS"
        raise StorageError(
            f"the object store at {address}, asked by {client}: "
            f"{_advice(client, text, lake.warehouse.split('/')[2])}"
        ) from error


def _described(error: Exception) -> tuple[str, str]:
    """Which client it was, and what it says with all its causes."""
    if isinstance(error, ClickHouseError):
        return "ClickHouse", str(error)
    if not isinstance(error, Py4JJavaError):
        return "PyIceberg", str(error)
    causes, cause = [], error.java_exception
    while cause is not None:
        causes.append(str(cause.toString()))
        cause = cause.getCause()
    return "Spark", "\n".join(causes)


def _advice(client: str, text: str, bucket: str) -> str:
    of_server = "ClickHouse's environment and restart it"
    environment = of_server if client == "ClickHouse" else "the environment"
    for pattern, answer in _ANSWERS:
        if re.search(pattern, text.lower()):
            return answer.format(bucket=bucket, keys=_KEYS, environment=environment)
    return f"{' '.join(text.split())[:300]}; run it again"
