"""Groups of checks: one that does not open, fails or hangs costs its own checks and no others."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from k2.doctor.result import Group, Outcome, failed, ok, run_groups, warning
from k2.errors import SettingsError, StackError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2.doctor.result import Result


def told(results: list[Result]) -> list[tuple[str, str, str]]:
    return [(result.name, result.outcome.value, result.found) for result in results]


def test_results_come_in_the_order_of_the_checks() -> None:
    first = Group({"a": lambda _: ok("1"), "b": lambda _: warning("2", "mend it")})
    second = Group({"c": lambda _: failed("3", "mend that")})
    results = run_groups([first, second])
    assert told(results) == [("a", "ok", "1"), ("b", "warning", "2"), ("c", "failed", "3")]
    assert [result.fix for result in results] == ["", "mend it", "mend that"]


@contextmanager
def down() -> Iterator[None]:
    raise StackError("nothing\nlistens")
    yield


def test_of_a_server_that_is_down_nothing_is_checked() -> None:
    group = Group({"tables": lambda _: ok("")}, name="server", open=down, fix="start it")
    results = run_groups([group])
    assert told(results) == [
        ("server", "failed", "nothing listens"),
        ("tables", "not checked", "server does not answer"),
    ]
    assert results[0].fix == "start it"


@contextmanager
def unknown() -> Iterator[None]:
    raise SettingsError("no stack is running")
    yield


def test_without_a_stack_nothing_has_failed() -> None:
    group = Group({"tables": lambda _: ok("")}, name="server", open=unknown)
    assert told(run_groups([group])) == [
        ("server", "not checked", "no stack is running"),
        ("tables", "not checked", "no stack is running"),
    ]


def test_a_check_that_breaks_has_failed_and_the_next_goes_on() -> None:
    def break_down(_: object) -> Result:
        raise OSError("gone")

    group = Group({"first": break_down, "second": lambda _: ok("2")})
    assert told(run_groups([group])) == [
        ("first", "failed", "gone"),
        ("second", "ok", "2"),
    ]


def test_a_server_that_hangs_is_not_waited_for() -> None:
    freed = threading.Event()

    def hang(_: object) -> Result:
        freed.wait()
        return ok("late")

    group = Group(
        {"first": lambda _: ok("1"), "second": hang, "third": lambda _: ok("3")},
        fix="see its log",
        seconds=0.5,
    )
    other = Group({"other": lambda _: ok("4")})
    results = run_groups([group, other])
    freed.set()
    assert told(results) == [
        ("first", "ok", "1"),
        ("second", "failed", "no answer within 0.5 s"),
        ("third", "not checked", "the check before it hangs"),
        ("other", "ok", "4"),
    ]
    assert results[1].outcome is Outcome.FAILED
