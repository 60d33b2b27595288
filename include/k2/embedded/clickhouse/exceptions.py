"""Errors of the ClickHouse HTTP interface: their codes, and the HTTP status each of them gets."""

from __future__ import annotations

import re
from typing import Final

from k2.errors import K2Error

BAD_ARGUMENTS: Final = 36
NOT_IMPLEMENTED: Final = 48
SYNTAX_ERROR: Final = 62
READONLY: Final = 164
REQUIRED_PASSWORD: Final = 194
SESSION_NOT_FOUND: Final = 372
SESSION_IS_LOCKED: Final = 373
ABORTED: Final = 236
AUTHENTICATION_FAILED: Final = 516
UNKNOWN_EXCEPTION: Final = 1002

_NAMES: Final = {
    BAD_ARGUMENTS: "BAD_ARGUMENTS",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    SYNTAX_ERROR: "SYNTAX_ERROR",
    READONLY: "READONLY",
    REQUIRED_PASSWORD: "REQUIRED_PASSWORD",
    SESSION_NOT_FOUND: "SESSION_NOT_FOUND",
    SESSION_IS_LOCKED: "SESSION_IS_LOCKED",
    ABORTED: "ABORTED",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
    UNKNOWN_EXCEPTION: "UNKNOWN_EXCEPTION",
}

# The grouping follows the HTTP interface of ClickHouse: what the client got wrong is a 4xx,
# everything else a 500.
_UNREADABLE: Final = {6, 8, 15, 16, 20, 25, 26, 27, 36, 38, 41, 42, 43, 44, 53, 62, 70, 72}
_UNREADABLE_TOO: Final = {117, 130, 167, 168, 190, 206, 223, 374, 376, 427, 441, 457, 676, 677}
_UNKNOWN: Final = {46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 336, SESSION_NOT_FOUND, 511}
_STATUS: Final = {
    **dict.fromkeys(_UNREADABLE | _UNREADABLE_TOO, 400),
    **dict.fromkeys(_UNKNOWN, 404),
    REQUIRED_PASSWORD: 401,
    192: 403,
    193: 403,
    AUTHENTICATION_FAILED: 403,
    159: 408,
    162: 413,
    NOT_IMPLEMENTED: 501,
    ABORTED: 503,
}

_CODE = re.compile(r"Code: (\d+)\. DB::Exception: ")


class QueryError(K2Error):
    """A query that failed.

    `code` is ClickHouse's error code, `str()` the full body of the response:
    `Code: N. DB::Exception: what went wrong. (NAME)`.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> int:
        """The HTTP status ClickHouse gives to this code."""
        return _STATUS.get(self.code, 500)


def query_error(code: int, what: str) -> QueryError:
    """An error the server itself finds, in ClickHouse's wording."""
    return QueryError(code, f"Code: {code}. DB::Exception: {what} ({_NAMES[code]})")


def from_engine(error: Exception) -> QueryError:
    """The engine reports errors as text only: take the code out of it."""
    text = str(error)
    found = _CODE.search(text)
    if found is None:
        return query_error(UNKNOWN_EXCEPTION, text)
    return QueryError(int(found.group(1)), text[found.start() :])
