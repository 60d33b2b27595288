"""Commands that ask the services, on real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from k2.settings import environment_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2.settings import Settings


@pytest.fixture
def k2(services: Settings) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "k2.cli", *arguments],
            env={**os.environ, **environment_of(services)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_a_query_without_a_format_is_answered_as_a_table(
    k2: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = k2("sql", "select 1 as one, 'it''s é' as two")
    assert (done.returncode, done.stderr) == (0, "")
    assert "│   1 │ it's é │" in done.stdout


def test_a_format_clause_decides_what_is_printed(
    k2: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = k2("sql", "select number, currentDatabase() as db from numbers(2) format JSONEachRow")
    assert done.stdout == '{"number":0,"db":"k2"}\n{"number":1,"db":"k2"}\n'


def test_a_query_can_be_asked_where_the_database_is_missing(
    k2: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = k2("sql", "--database", "default", "select currentDatabase() format TSV")
    assert (done.returncode, done.stdout) == (0, "default\n")


def test_a_query_that_clickhouse_refuses_is_one_line_with_its_reason(
    k2: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = k2("sql", "select nothing\nfrom nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: Code: 60. DB::Exception: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "audit"])
def test_before_tables_are_created_the_error_is_one_line(
    k2: Callable[..., subprocess.CompletedProcess[str]], command: str
) -> None:
    done = k2(command)
    assert (done.returncode, done.stdout) == (1, "")
    assert "bronze_trades_binance" in done.stderr
    assert done.stderr.count("\n") == 1
