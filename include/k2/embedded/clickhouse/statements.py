"""Reading just enough of a statement: what it is, its FORMAT, and where an INSERT's data begins.

The engine parses SQL; the server only needs to know where the result of a query goes and which
bytes of a request are data. A lexer is enough for that: strings, quoted names, comments and
heredocs are skipped as ClickHouse's own lexer skips them.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from k2.embedded.clickhouse.exceptions import SYNTAX_ERROR, query_error

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKEN: Final = re.compile(
    rb"""
      (?P<skip> \s+ | --[^\n]* | \#[\x20!][^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<word> [A-Za-z_]\w* )
    | (?P<quoted> '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | `(?:[^`\\]|\\.)*` )
    | (?P<heredoc> \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<number> \d\w* )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)

# Statements that have a result set, so that INTO OUTFILE and FORMAT may follow them.
_WITH_RESULT: Final = frozenset(
    {"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK", "KILL"}
)
_READ_ONLY: Final = (_WITH_RESULT - {"KILL"}) | {"SET", "USE", "CHECK GRANT"}
_INSERT_SOURCES: Final = frozenset({"FORMAT", "VALUES", "SELECT", "WITH", "FROM", "WATCH"})
_NAME_FOLLOWS: Final = frozenset({"INTO", "TABLE", "FUNCTION", "."})


@dataclass(frozen=True)
class Token:
    """One significant token: its text in upper case for words, and its byte range."""

    text: str
    start: int
    end: int
    depth: int


@dataclass(frozen=True)
class Statement:
    """One statement of a request.

    `keyword` is its first word in upper case, or CHECK GRANT. `text` is the SQL without the FORMAT
    clause, without a final semicolon; `tail` what followed the FORMAT clause (a SETTINGS clause).
    """

    keyword: str
    text: str
    format: str | None = None
    tail: str = ""
    writes_file: bool = False

    @property
    def has_result(self) -> bool:
        """Whether the statement answers with rows that the server may redirect."""
        return self.keyword in _WITH_RESULT and not self.writes_file

    @property
    def is_query(self) -> bool:
        """Whether it is a SELECT, which can be a part of another statement."""
        return self.keyword in {"SELECT", "WITH", "FROM"}

    @property
    def is_read_only(self) -> bool:
        """Whether it may come by GET."""
        return self.keyword in _READ_ONLY

    def into(self, path: str, format_name: str) -> str:
        """The statement, with its result going to the file at `path`."""
        return f"{self.text}\nINTO OUTFILE '{path}' APPEND FORMAT {format_name} {self.tail}"


@dataclass(frozen=True)
class InsertHead:
    """The part of an INSERT in front of its data: `text` (up to SETTINGS, FORMAT or VALUES), the
    SETTINGS clause, the format named there, and the offset of the first byte of data."""

    text: str
    format: str | None
    data_offset: int
    settings: str = ""

    def from_file(self, path: str, format_name: str) -> str:
        """The statement, with its rows coming from the file at `path`."""
        return f"{self.text}\nFROM INFILE '{path}'\n{self.settings}\nFORMAT {format_name}"


def tokens(sql: bytes) -> Iterator[Token]:
    """The significant tokens of `sql`, lazily: data behind an INSERT is never looked at."""
    depth = 0
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup
        if kind == "skip":
            continue
        text = match.group()
        if text == b")":
            depth -= 1
        word = text.decode().upper() if kind == "word" else text[:1].decode("latin-1")
        yield Token(word, match.start(), match.end(), depth)
        if text == b"(":
            depth += 1


def first_word(sql: bytes) -> str:
    """The first word in upper case; parentheses around a SELECT do not count."""
    for token in tokens(sql):
        if token.text != "(":
            return token.text
    return ""


def insert_head(sql: bytes) -> InsertHead | None:
    """Where the data of an INSERT begins; None where its rows come from a query or a file.

    `sql` may be only the beginning of the request, as long as it holds the whole head.
    """
    previous = Token("", 0, 0, 0)
    settings: Token | None = None
    walk = tokens(sql)
    for token in walk:
        if token.text in {"SELECT", "WITH"} and previous.text == "(":
            return None
        begins_clause = token.depth == 0 and previous.text not in _NAME_FOLLOWS
        if begins_clause and token.text == "SETTINGS":
            settings = token
        if begins_clause and token.text in _INSERT_SOURCES:
            name = next(walk, None) if token.text == "FORMAT" else None
            return _data_source(sql, settings, token, name)
        previous = token
    text, clause = _divided(sql, settings, len(sql))
    if settings is None:
        text = text.rstrip().rstrip(";")
    return InsertHead(text, None, len(sql), clause.rstrip().rstrip(";"))


def _data_source(
    sql: bytes, settings: Token | None, source: Token, name: Token | None
) -> InsertHead | None:
    text, clause = _divided(sql, settings, source.start)
    if source.text == "VALUES":
        return InsertHead(text, "Values", source.end, clause)
    if name is None:
        return None
    spaces = re.compile(rb"[ \t\f]*\r?\n?").match(sql, name.end)
    offset = spaces.end() if spaces else name.end
    return InsertHead(text, sql[name.start : name.end].decode(), offset, clause)


def _divided(sql: bytes, settings: Token | None, end: int) -> tuple[str, str]:
    """What comes before the SETTINGS clause, and the clause itself."""
    start = end if settings is None else settings.start
    return (
        sql[:start].decode(errors="surrogateescape"),
        sql[start:end].decode(errors="surrogateescape"),
    )


def parse(sql: bytes) -> Statement:
    """Read a statement that carries no data. Raises QueryError for two statements at once."""
    found = list(tokens(sql))
    end = len(sql)
    for position, token in enumerate(found):
        if token.text == ";" and sql[token.start : token.end] == b";":
            if any(later.text != ";" for later in found[position:]):
                raise query_error(SYNTAX_ERROR, "Multi-statements are not allowed.")
            found, end = found[:position], token.start
            break
    keyword = next((token.text for token in found if token.text != "("), "")
    text = sql[:end].decode(errors="surrogateescape")
    if [token.text for token in found[:2]] == ["CHECK", "GRANT"]:
        # It answers, but takes no FORMAT.
        keyword = "CHECK GRANT"
    if not found or keyword not in _WITH_RESULT:
        return Statement(keyword, text)
    writes_file = any(
        (a.text, b.text, a.depth) == ("INTO", "OUTFILE", 0) for a, b in itertools.pairwise(found)
    )
    clause = None if writes_file else _format_clause(found)
    if clause is None:
        return Statement(keyword, text, writes_file=writes_file)
    name_start, name_end = found[clause + 1].start, found[clause + 1].end
    return Statement(
        keyword,
        sql[: found[clause].start].decode(errors="surrogateescape"),
        sql[name_start:name_end].decode(),
        sql[name_end:end].decode(errors="surrogateescape"),
    )


def _format_clause(found: list[Token]) -> int | None:
    """The position of a closing `FORMAT name`, which only a SETTINGS clause may follow."""
    for position in range(len(found) - 2, 0, -1):
        token = found[position]
        if token.text != "FORMAT" or token.depth != 0:
            continue
        is_last = position + 2 == len(found)
        if is_last or found[position + 2].text == "SETTINGS":
            return position
    return None
