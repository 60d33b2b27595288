"""Reading the exchanges' archive files."""

from __future__ import annotations

import zipfile
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2.ingest import archive_kraken
from k2.ingest.archives import ArchiveError, BadRow, read_archive
from k2.ingest.trade import Trade

if TYPE_CHECKING:
    from pathlib import Path

TRADES_HEADER = "id,price,qty,quote_qty,time,is_buyer_maker,is_best_match"
AGG_HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
EXPECTED = Trade(
    "binance", "XRPETH", 7, Decimal("0.00141342"), Decimal("23.00"), "sell", 1570752011620000
)
TRADES_ROW = "7,0.00141342,23.00,0.03250866,1570752011620,True,True"
AGG_ROW = "7,0.00141342,23.00,15,15,1570752011620,true,true"


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(
    "rows",
    [
        [TRADES_ROW],
        [TRADES_HEADER, TRADES_ROW],
        [TRADES_ROW.replace("1570752011620", "1570752011620000")],
        [AGG_ROW],
        [AGG_HEADER + ",is_best_match", AGG_ROW],
        [AGG_HEADER, AGG_ROW.removesuffix(",true")],
        [AGG_ROW.removesuffix(",true").replace("1570752011620", "1570752011620000"), "", ""],
        ["\ufeff" + AGG_HEADER, AGG_ROW.removesuffix(",true") + "\r"],
    ],
    ids=[
        "trades",
        "trades with header",
        "trades in microseconds",
        "aggTrades",
        "aggTrades with header",
        "aggTrades of seven columns with header",
        "aggTrades of seven columns in microseconds, empty lines at the end",
        "byte order mark and carriage return",
    ],
)
def test_every_format_of_binance_gives_the_same_trade(tmp_path: Path, rows: list[str]) -> None:
    assert list(read_archive("binance", "XRPETH", write(tmp_path / "a.csv", *rows))) == [EXPECTED]


def test_a_zip_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", AGG_ROW + "\n")
    assert list(read_archive("binance", "XRPETH", path)) == [EXPECTED]


def test_of_a_zip_file_with_many_markets_the_right_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("q/BCHEUR.csv", "1672620536,90.07,1.1\n")
        archive.writestr("q/ETHEUR.csv", "1672620536,1100,2\n")
    (trade,) = read_archive("kraken", "ETH/EUR", path)
    assert trade.price == 1100


def test_a_broken_zip_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", "no zip file")
    with pytest.raises(ArchiveError, match=r"a\.zip: the zip file is broken"):
        list(read_archive("binance", "XRPETH", path))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("7,zero,23,15,15,1570752011620,true,true", "price is not a positive number: 'zero'"),
        ("7,1e5,23,15,15,1570752011620,true,true", "price is not a positive number: '1e5'"),
        ("7,-1,23,15,15,1570752011620,true,true", "price is not a positive number: '-1'"),
        ("7,1,0.0,15,15,1570752011620,true,true", "quantity is not positive: '0.0'"),
        ("7.5,1,1,15,15,1570752011620,true,true", "trade id is not a whole number: '7.5'"),
        ("7,1,1,15,15,yesterday,true,true", "time is not a whole number: 'yesterday'"),
        ("7,1,1,15,15,1570752011620,maybe,true", "is_buyer_maker is not true or false: 'maybe'"),
        ("7,1,1,15", "4 columns instead of 8"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line_or_handed_over(
    tmp_path: Path, row: str, reason: str
) -> None:
    path = write(tmp_path / "a.csv", AGG_ROW, row, AGG_ROW)
    with pytest.raises(ArchiveError, match=r"a\.csv:2: .*--skip-bad") as caught:
        list(read_archive("binance", "XRPETH", path))
    assert reason in str(caught.value)
    bad: list[BadRow] = []
    assert list(read_archive("binance", "XRPETH", path, bad.append)) == [EXPECTED, EXPECTED]
    assert bad == [BadRow("XRPETH", row, f"{path}:2: {reason}")]


def test_a_broken_first_row_is_not_taken_for_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,90.07,1.1", "1672620536,90.07,1.1")
    with pytest.raises(ArchiveError, match=r"a\.csv:1: timestamp is not in seconds"):
        list(read_archive("kraken", "BCH/EUR", path))


@pytest.mark.parametrize(
    ("exchange", "broken", "right", "reason"),
    [
        ("binance", "7,1,1,15", AGG_ROW, "4 columns instead of 8"),
        ("binance", AGG_ROW.replace("true,true", "maybe,so"), AGG_ROW, "is_buyer_maker is not"),
        ("binance", "\x00\x00", TRADES_ROW, "1 columns instead of 7"),
        ("kraken", "1672620536,90", "1672620536,90.07,1.1", "2 columns instead of 3"),
    ],
)
@pytest.mark.parametrize("header", [[], [AGG_HEADER]], ids=["without header", "with header"])
def test_rows_that_are_right_tell_the_format_even_after_a_broken_first_one(
    tmp_path: Path, header: list[str], exchange: str, broken: str, right: str, reason: str
) -> None:
    path = write(tmp_path / "a.csv", *header, broken, right, right)
    place = f"{path}:{len(header) + 1}: "
    with pytest.raises(ArchiveError, match=rf"a\.csv:{len(header) + 1}: {reason}.*--skip-bad"):
        list(read_archive(exchange, "XRPETH", path))
    bad: list[BadRow] = []
    assert len(list(read_archive(exchange, "XRPETH", path, bad.append))) == 2
    assert [(row.text, row.reason.startswith(place + reason)) for row in bad] == [(broken, True)]


@pytest.mark.parametrize("exchange", ["binance", "kraken", "bitstamp"])
def test_an_unknown_format_is_one_error_that_names_the_known_ones(
    tmp_path: Path, exchange: str
) -> None:
    path = write(tmp_path / "a.csv", "2023-01-02;90.07;1.1;buy")
    with pytest.raises(ArchiveError, match=r"formats known: Binance .* Kraken time and sale"):
        list(read_archive(exchange, "BCHEUR", path))


@pytest.mark.parametrize("name", ["missing.csv", "missing.zip"])
def test_a_missing_file_is_one_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="cannot be read: No such file"):
        list(read_archive("binance", "XRPETH", tmp_path / name))


def test_an_empty_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="the file is empty"):
        list(read_archive("kraken", "BCH/EUR", write(tmp_path / "a.csv")))


seconds = st.integers(min_value=1_400_000_000, max_value=1_400_000_005)
rows_of_kraken = st.lists(
    st.tuples(seconds, st.sampled_from(["90.07", "90.08"])), min_size=1, max_size=60
).map(sorted)


@given(rows=rows_of_kraken)
def test_derived_ids_are_unique_stable_and_grow(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]]
) -> None:
    directory = tmp_path_factory.mktemp("kraken")
    lines = [f"{second},{price},1.1" for second, price in rows]
    trades = list(read_archive("kraken", "BCH/EUR", write(directory / "year.csv", *lines)))
    ids = [trade.trade_id for trade in trades]
    assert len(set(ids)) == len(rows)
    assert ids == sorted(ids)
    assert max(ids) < 2**63
    # Another file that begins with any of the seconds gives its rows the same ids.
    cut = rows[len(rows) // 2][0]
    later = [line for line, (second, _) in zip(lines, rows, strict=True) if second >= cut]
    again = read_archive("kraken", "BCH/EUR", write(directory / "month.csv", *later))
    assert [trade.trade_id for trade in again] == ids[-len(later) :]


def test_ids_stay_when_a_broken_row_is_put_right(tmp_path: Path) -> None:
    good = ["1672620536,90,1", "1672620536,91,1", "1672620536,92,1"]
    right = list(read_archive("kraken", "BCH/EUR", write(tmp_path / "a.csv", *good)))
    good[1] = "1672620536,oops,1"
    path = write(tmp_path / "b.csv", *good)
    skipped = list(read_archive("kraken", "BCH/EUR", path, lambda _: None))
    assert [t.trade_id for t in skipped] == [right[0].trade_id, right[2].trade_id]


def test_a_kraken_row_whose_time_goes_back_is_broken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1672620536,90,1", "1672620535,90,1")
    with pytest.raises(ArchiveError, match=r"a\.csv:2: time goes back"):
        list(read_archive("kraken", "BCH/EUR", path))


def test_a_second_holds_only_as_many_rows_as_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_kraken, "TRADES_PER_SECOND", 3)
    path = write(tmp_path / "a.csv", *["1672620536,90,1"] * 3)
    with pytest.raises(ArchiveError, match="more than 2 rows in one second"):
        list(read_archive("kraken", "BCH/EUR", path))


def test_kraken_seconds_may_have_fractions_and_sides_follow_the_tick_rule(tmp_path: Path) -> None:
    prices = ["90.0", "90.1", "90.10", "90.0", "90.0"]
    lines = [f"1672620536.{i}25,{price},1" for i, price in enumerate(prices)]
    trades = list(read_archive("kraken", "BCH/EUR", write(tmp_path / "a.csv", *lines)))
    assert [trade.side for trade in trades] == ["buy", "buy", "buy", "sell", "sell"]
    assert trades[1].timestamp_us == 1672620536_125000
