"""Any sequence of arrivals, offloads, crashes and damage: no row is lost, none is there twice."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from k2.offload import engine

from .compaction import compact
from .rows import trade

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2.offload.faults import Point

    from .conftest import Bench

CRASH_POINTS: tuple[Point, ...] = (
    "claimed",
    "recovered",
    "planned",
    "intended",
    "unloaded",
    "verified",
    "committing",
    "committed",
    "advanced",
)
MANY = itertools.count(1)


class _Crash(BaseException):
    """The driver is gone: no handler of the offload may notice."""


class Offloads(RuleBasedStateMachine):
    """One Bronze table and its twin in Iceberg. `make_bench` is set by the test."""

    make_bench: Callable[..., Bench]

    def __init__(self) -> None:
        super().__init__()
        self.bench = type(self).make_bench("bronze", max_batch_rows=40)
        self.sent: dict[tuple[int, int], dict[str, Any]] = {}
        self.next_offset = Counter[int]()

    @rule(partition=st.integers(0, 2), count=st.integers(1, 60), day=st.integers(0, 2))
    def trades_arrive(self, partition: int, count: int, day: int) -> None:
        rows = []
        for _ in range(count):
            offset = self.next_offset[partition]
            self.next_offset[partition] += 1
            row = trade(offset, day=day, kafka_partition=partition, sequence_number=next(MANY))
            self.sent[partition, offset] = row
            rows.append(row)
        self.bench.insert(rows)

    @rule(data=st.data())
    def messages_are_delivered_again(self, data: st.DataObject) -> None:
        if self.sent:
            keys = data.draw(st.lists(st.sampled_from(sorted(self.sent)), min_size=1, max_size=9))
            self.bench.insert([self.sent[key] for key in keys])

    @rule()
    def the_offload_runs(self) -> None:
        self.bench.offload()
        assert self.bench.lake_rows() == self.bench.source_rows()

    @rule(point=st.sampled_from(CRASH_POINTS))
    def the_offload_dies(self, point: Point) -> None:
        def die(reached: Point) -> None:
            if reached == point:
                raise _Crash

        with mock.patch.object(engine, "fault", die):
            try:
                self.bench.offload()
            except _Crash:
                return

    @rule(token=st.sampled_from([None, "unreadable", '{"cursor":"kafka_offset","positions":[]}']))
    def the_watermark_is_damaged(self, token: str | None) -> None:
        self.bench.sql(
            "update offload_watermarks set token = %s where table_name = %s", token, self.bench.name
        )

    @rule()
    def the_watermark_is_lost(self) -> None:
        self.bench.sql("delete from offload_watermarks where table_name = %s", self.bench.name)

    @rule()
    def files_are_rewritten(self) -> None:
        """What compaction does: other files, the same rows, a snapshot without a token."""
        if _iceberg_table(self.bench).currentSnapshot() is not None:
            compact(self.bench)

    @rule()
    def snapshots_expire(self) -> None:
        table = _iceberg_table(self.bench)
        if table.currentSnapshot() is not None:
            newest = table.currentSnapshot().timestampMillis()
            table.expireSnapshots().expireOlderThan(newest + 1).retainLast(1).commit()

    @invariant()
    def no_row_is_in_iceberg_twice(self) -> None:
        rows = Counter(self.bench.lake_rows())
        assert not [row for row, count in rows.items() if count > 1]
        assert rows.keys() <= set(self.bench.source_rows())

    def teardown(self) -> None:
        self.bench.offload()
        assert self.bench.lake_rows() == self.bench.source_rows()
        assert len(self.bench.lake_rows()) == len(self.sent)
        assert self.bench.offload().rows == 0


def _iceberg_table(bench: Bench) -> Any:
    return bench.lake_table()._table  # type: ignore[attr-defined]


@pytest.mark.timeout(600)
def test_no_sequence_of_arrivals_crashes_and_damage_loses_or_doubles_a_row(
    make_bench: Callable[..., Bench],
) -> None:
    Offloads.make_bench = staticmethod(make_bench)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Offloads,
        settings=settings(
            max_examples=12,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
