"""What an object store answers is told in a line; all else is left as it is."""

from __future__ import annotations

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from k2.offload.storage_errors import StorageError, told_in_a_line
from k2.settings import Lake, ObjectStore

LAKE = Lake("s3://trades/k2", store=ObjectStore("http://objects:7070", path_style=True))
AT = "the object store at http://objects:7070, asked by"
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def by_clickhouse(text: str) -> DatabaseError:
    return DatabaseError(f"Code: 499. DB::Exception: {text} (S3_ERROR)")


# As ClickHouse 26.9 and PyArrow 26 wrote them.
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            by_clickhouse(
                "Message: The specified bucket does not exist., bucket trades, key k2/x."
            ),
            "ClickHouse: there is no bucket 'trades'; create it, or correct K2_LAKE_WAREHOUSE",
        ),
        (
            by_clickhouse("message: 'The request signature we calculated does not match'."),
            f"ClickHouse: the key is refused; correct {KEYS} in ClickHouse's environment and "
            "restart it",
        ),
        (
            by_clickhouse(
                "Message: Poco::Exception. Code: 1000, e.code() = 111, Connection refused."
            ),
            "ClickHouse: it does not answer; start it, or correct K2_LAKE_ENDPOINT",
        ),
        (
            OSError(
                "When reading information for key 'k2' in bucket 'trades': AWS Error "
                "ACCESS_DENIED during HeadObject operation: No response body."
            ),
            f"PyIceberg: the key is refused; correct {KEYS} in the environment",
        ),
        (
            OSError(
                "When initiating multiple part upload: AWS Error NETWORK_CONNECTION during "
                "CreateMultipartUpload operation: curlCode: 7, Couldn't connect to server"
            ),
            "PyIceberg: it does not answer; start it, or correct K2_LAKE_ENDPOINT",
        ),
        (
            FileNotFoundError(2, "Path does not exist 'trades/k2/metadata.json'"),
            "PyIceberg: it has no such file, or there is no bucket 'trades'; bring it back, or "
            "correct K2_LAKE_WAREHOUSE",
        ),
    ],
)
def test_an_answer_says_who_asked_what_is_wrong_and_what_to_do(error: Exception, told: str) -> None:
    with pytest.raises(StorageError) as caught, told_in_a_line(LAKE):
        raise error
    assert str(caught.value) == f"{AT} {told}, and run it again"
    assert caught.value.__cause__ is error


def test_an_answer_that_nobody_foresaw_is_given_in_a_line() -> None:
    with pytest.raises(StorageError) as caught, told_in_a_line(LAKE):
        raise by_clickhouse("Slow down\nplease.")
    told = "Code: 499. DB::Exception: Slow down please. (S3_ERROR); run it again"
    assert str(caught.value) == f"{AT} ClickHouse: {told}"


@pytest.mark.parametrize(
    ("error", "lake"),
    [
        (DatabaseError("Code: 497. DB::Exception: not enough privileges (ACCESS_DENIED)"), LAKE),
        (FileNotFoundError(2, "No such file or directory", "/etc/k2"), LAKE),
        (OSError("AWS Error ACCESS_DENIED"), Lake("file:/lake")),
        (ValueError("AWS Error"), LAKE),
    ],
)
def test_what_is_not_of_the_object_store_passes_as_it_is(error: Exception, lake: Lake) -> None:
    with pytest.raises(type(error)) as caught, told_in_a_line(lake):
        raise error
    assert caught.value is error
