"""What an object store answers is told in a line; all else is left as it is."""

from __future__ import annotations

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from k2.offload.storage_errors import StorageError, told_in_a_line
from k2.settings import Lake, ObjectStore

LAKE = Lake("s3://trades/k2", store=ObjectStore("http://objects:7070", path_style=True))
AT = "the object store at http://objects:7070, asked by"
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


# As ClickHouse 26.9 and PyArrow 26 wrote them.
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            DatabaseError("Code: 499. DB::Exception: Message: The specified bucket does not exist., "
                          "bucket trades, key k2/x.parquet. (S3_ERROR)"),
            "ClickHouse: there is no bucket 'trades'; create it, or correct K2_LAKE_WAREHOUSE, "
            "and run it again",
        ),
        (
            DatabaseError("Code: 499. DB::Exception: S3 exception: `SignatureDoesNotMatch`, message: "
                          "'The request signature we calculated does not match'. (S3_ERROR)"),
            f"ClickHouse: the key is refused; correct {KEYS} in ClickHouse's environment and "
            "restart it, and run it again",
        ),
        (
            DatabaseError("Code: 499. DB::Exception: Message: Poco::Exception. Code: 1000, e.code() "
                          "= 111, Connection refused (version 26.9.2.1), bucket trades. (S3_ERROR)"),
            "ClickHouse: it does not answer; start it, or correct K2_LAKE_ENDPOINT, and run it again",
        ),
        (
            OSError("When reading information for key 'k2' in bucket 'trades': AWS Error "
                    "ACCESS_DENIED during HeadObject operation: No response body."),
            f"PyIceberg: the key is refused; correct {KEYS} in the environment, and run it again",
        ),
        (
            OSError("When initiating multiple part upload: AWS Error NETWORK_CONNECTION during "
                    "CreateMultipartUpload operation: curlCode: 7, Couldn't connect to server"),
            "PyIceberg: it does not answer; start it, or correct K2_LAKE_ENDPOINT, and run it again",
        ),
        (
            DatabaseError("Code: 499. DB::Exception: Slow down\nplease. (S3_ERROR)"),
            "ClickHouse: code: 499. db::exception: slow down please. (s3_error); run it again",
        ),
    ],
)  # fmt: skip
def test_an_answer_says_who_asked_what_is_wrong_and_what_to_do(error: Exception, told: str) -> None:
    with pytest.raises(StorageError) as caught, told_in_a_line(LAKE):
        raise error
    assert str(caught.value) == f"{AT} {told}"
    assert caught.value.__cause__ is error


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
