"""What a check found, and the groups in which checks are run."""

from __future__ import annotations

import re
import threading
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import psycopg
from clickhouse_connect.driver.exceptions import ClickHouseError

from k2.errors import K2Error, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

BROKEN = (K2Error, ClickHouseError, psycopg.Error, OSError)
_WRAPPED = re.compile(r"Received ClickHouse exception.*?DB::Exception: |\(for url [^)]*\)")


class Outcome(StrEnum):
    """How a check ended. A warning is no harm yet; what could not be looked at is neither."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Result:
    """One check: what was found, and what to do about it. Whoever runs the check names it."""

    outcome: Outcome
    found: str
    fix: str = ""
    name: str = ""


def ok(found: str) -> Result:
    """All is well."""
    return Result(Outcome.OK, found)


def warning(found: str, fix: str) -> Result:
    """Work goes on, for now."""
    return Result(Outcome.WARNING, found, fix)


def failed(found: str, fix: str) -> Result:
    """Something does not work, or will not."""
    return Result(Outcome.FAILED, found, fix)


def not_checked(reason: str) -> Result:
    """What the check needs is not there."""
    return Result(Outcome.NOT_CHECKED, reason)


@dataclass(frozen=True)
class Group:
    """Checks that are run one after the other, on the same thing.

    `name` is that thing's, `open` gets it, and `describe` says what it is: they raise SettingsError
    where nobody said where it is, and another of the `BROKEN` errors where it does not work. `fix`
    is for the latter. After `seconds` the group is not waited for.
    """

    checks: Mapping[str, Callable[[Any], Result]]
    name: str = ""
    open: Callable[[], AbstractContextManager[Any]] = nullcontext
    describe: Callable[[Any], str] = str
    fix: str = ""
    seconds: float = 20.0


def run_groups(groups: Sequence[Group]) -> list[Result]:
    """Run groups beside each other; the results in the order of the groups and of their checks."""
    runs = [_Run(group) for group in groups]
    for run in runs:
        # Not of a pool: a pool's threads would hold up the end of the program.
        threading.Thread(target=run.fill, daemon=True).start()
    began = time.monotonic()
    return [result for run in runs for result in run.results(began)]


@dataclass
class _Run:
    """A group at work in a thread of its own."""

    group: Group
    found: list[Result] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def fill(self) -> None:
        try:
            self.found.extend(_results(self.group))
        finally:
            self.done.set()

    def results(self, began: float) -> list[Result]:
        """What was found; where the group is still at work, the rest as not checked."""
        seconds = self.group.seconds
        if self.done.wait(max(began + seconds - time.monotonic(), 0)):
            return self.found
        found = list(self.found)
        names = [*([self.group.name] if self.group.name else []), *self.group.checks]
        hanging = failed(f"no answer within {seconds:g} s", self.group.fix or "see its log")
        late = [hanging, *[not_checked("the check before it hangs")] * len(names)]
        rest = zip(names[len(found) :], late, strict=False)
        return found + [replace(result, name=name) for name, result in rest]


def _results(group: Group) -> Iterator[Result]:
    with ExitStack() as stack:
        try:
            subject = stack.enter_context(group.open())
            about = group.describe(subject) if group.name else ""
        except BROKEN as error:
            yield from _unopened(group, error)
            return
        if group.name:
            yield replace(ok(about), name=group.name)
        for name, check in group.checks.items():
            yield replace(_result(check, subject), name=name)


def _unopened(group: Group, error: Exception) -> Iterator[Result]:
    if isinstance(error, SettingsError):
        own, others = not_checked(_line(error)), not_checked(_line(error))
    else:
        own, others = failed(_line(error), group.fix), not_checked(f"{group.name} does not answer")
    yield replace(own, name=group.name)
    for name in group.checks:
        yield replace(others, name=name)


def _result(check: Callable[[Any], Result], subject: Any) -> Result:
    try:
        return check(subject)
    except SettingsError as error:
        return not_checked(_line(error))
    except BROKEN as error:
        return failed(_line(error), "see 'Where the logs are' in docs/runbook.md")


def _line(error: Exception) -> str:
    """What an error says, without what the HTTP client of ClickHouse wraps around it."""
    said = _WRAPPED.sub("", " ".join(str(error).split())).strip()
    return said or type(error).__name__
