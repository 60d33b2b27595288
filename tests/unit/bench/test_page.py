"""The page of benchmarks: each command owns a section."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from k2.bench.page import measurement, table, where, write_section

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_section_is_made_anew_and_the_others_stay(tmp_path: Path) -> None:
    output = tmp_path / "benchmarks"
    write_section(output, "k2 bench one", ["## One", "first"])
    write_section(output, "k2 bench two", ["## Two"])
    page = tmp_path / "benchmarks.md"
    page.write_text(page.read_text() + "\nWritten by hand.\n")
    write_section(output, "k2 bench one", ["## One", "second"])
    assert page.read_text() == (
        "# Benchmarks\n\n"
        "<!-- made by k2 bench one -->\n## One\nsecond\n<!-- end of k2 bench one -->\n\n"
        "<!-- made by k2 bench two -->\n## Two\n<!-- end of k2 bench two -->\n\n"
        "Written by hand.\n"
    )


def test_a_measurement_names_time_command_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/k2", "bench", "offload", "--rows", "3000"])
    text = where(measurement(dt.datetime(2026, 5, 4, 3, 2, tzinfo=dt.UTC)))
    assert text.startswith("Measured 2026-05-04 03:02 UTC by `k2 bench offload --rows 3000` on ")
    assert "cores of" in text


def test_a_section_that_is_made_anew_tells_what_the_one_before_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "benchmarks"
    write_section(output, "k2 bench one", ["## One", "Measured in May by `k2 bench one --long`."])
    assert capsys.readouterr().err == ""
    write_section(output, "k2 bench one", ["## One", "Measured in June by `k2 bench one`."])
    assert capsys.readouterr().err == (
        "benchmarks.md: the section of 'k2 bench one' is made anew; the one before was: "
        "Measured in May by `k2 bench one --long`.\n"
    )


def test_a_missing_figure_is_a_dash() -> None:
    assert list(table(("a", "b"), [(1, None)])) == ["| a | b |", "|---:|---:|", "| 1 | - |"]
