"""What the cases of the matrix are made of: layers, points, parameters, rows of some weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from k2.offload.faults import POINTS

from .case import Case

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MakeCase = Callable[..., Case]

# Drivers start slowly on a busy machine; only a case that hangs takes so many seconds.
CRASH = [pytest.mark.crash, pytest.mark.timeout(1800)]

LAYERS = ("bronze", "silver", "gold")
# One layer of each commit mode: bronze appends, gold overwrites.
MODES = ("bronze", "gold")
# Points that every offload passes; the others only a recovery.
STEPS = tuple(point for point in POINTS if point not in ("fenced", "cleared"))

# What identifies a row's version: the seed of the bytes that give it weight.
_IDENTITY = {
    "bronze": "kafka_offset",
    "silver": "kafka_offset",
    "gold": "window_start, settled_at",
}


def cases(
    *,
    unload: Iterable[Any] = (),
    scan: Iterable[Any] = (),
    short: Collection[tuple[Any, ...]] = (),
) -> list[Any]:
    """Parameters of both transfers, which comes first; `make test` runs those in `short`, too.

    What both share is shown with an unload. A scan costs a Spark session: it has the cases in
    which the rows' way makes a difference.
    """
    values = [("unload", *_tuple(value)) for value in unload]
    values += [("scan", *_tuple(value)) for value in scan]
    assert set(short) <= set(values)
    return [
        pytest.param(*value, marks=[pytest.mark.short] if value in short else [])
        for value in values
    ]


def heavy(make_case: MakeCase, layer: str, transfer: str, where: str) -> Case:
    """A case with rows of some weight, in one batch: enough to strike in the middle of them.

    ClickHouse writes many in a second; a scan waits half-way in any case.
    """
    return make_case(
        layer,
        transfer,
        where,
        count=15_000 if transfer == "unload" else 5_000,
        columns=payload(layer),
        offloaded=False,
        max_batch_rows=100_000,
    )


def payload(layer: str) -> str:
    """A column of 2880 bytes that do not compress well, the same when a row comes again."""
    return (
        ", payload String default arrayStringConcat("
        f"arrayMap(n -> hex(sipHash128({_IDENTITY[layer]}, n)), range(90)))"
    )


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
