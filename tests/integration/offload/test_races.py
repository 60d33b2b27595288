"""An offload while the table is maintained: Spark's own compaction and snapshot expiry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from k2.offload import engine, lake
from k2.offload.audit import audit_table, require_equal

from .compaction import prepare_compaction
from .rows import candle, trade

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from k2.offload.faults import Point

    from .conftest import Bench

Rows = Callable[[int], list[Mapping[str, Any]]]
ROWS: dict[str, Rows] = {
    "bronze": lambda batch: [trade(n, day=n % 2) for n in range(10 * batch, 10 * batch + 10)],
    # Every batch corrects two candles of the batch before it, and adds others.
    "gold": lambda batch: [
        candle(n, day=n % 2, settled=batch, close=str(batch))
        for n in range(8 * batch, 8 * batch + 10)
    ],
}

layers = pytest.mark.parametrize("layer", sorted(ROWS))


@pytest.fixture
def fed(layer: str, make_bench: Callable[..., Bench]) -> Bench:
    """A table with three batches in Iceberg, each with files of its own, and a fourth to come."""
    bench = make_bench(layer)
    for batch in range(4):
        bench.insert(ROWS[layer](batch))
        if batch < 3:
            bench.offload()
    return bench


def compact(spark: SparkSession, bench: Bench) -> int:
    """Rewrite all data files; how many were rewritten."""
    (done,) = spark.sql(
        f"call lake.system.rewrite_data_files(table => 'cold.{bench.name}',"
        " options => map('rewrite-all', 'true'))"
    ).collect()
    return int(done["rewritten_data_files_count"])


def expire(spark: SparkSession, bench: Bench) -> int:
    """Expire every snapshot but the current one, and remove what only they held."""
    before = len(bench.snapshots())
    spark.sql(
        f"call lake.system.expire_snapshots(table => 'cold.{bench.name}',"
        " older_than => timestamp '2999-01-01 00:00:00', retain_last => 1)"
    ).collect()
    return before - len(bench.snapshots())


def require_every_row_once(bench: Bench) -> None:
    assert bench.lake_rows() == bench.source_rows()
    require_equal([audit_table(bench.settings, bench.table)])
    assert bench.offload().rows == 0


@layers
@pytest.mark.parametrize("point", ["intended", "validating", "swapping"])
@pytest.mark.parametrize("maintain", [compact, expire])
def test_a_table_is_maintained_while_a_batch_is_on_its_way(
    fed: Bench,
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    point: Point,
    maintain: Callable[[SparkSession, Bench], int],
) -> None:
    done: list[int] = []

    def meanwhile(reached: Point) -> None:
        if reached == point and not done:
            done.append(maintain(spark, fed))

    for module in (engine, lake):
        monkeypatch.setattr(module, "fault", meanwhile)
    assert fed.offload().rows > 0
    assert done[0] > 0
    require_every_row_once(fed)


@layers
def test_a_compaction_that_an_offload_overtakes_neither_loses_nor_doubles_a_row(
    fed: Bench, layer: str
) -> None:
    """Appended rows stay beside compacted files; a replaced partition makes compaction give up."""
    rewrite = prepare_compaction(fed)
    fed.offload()
    if layer == "bronze":
        rewrite.commit()
    else:
        with pytest.raises(Exception, match="Missing required files to delete"):
            rewrite.commit()
    require_every_row_once(fed)


@layers
def test_offloads_go_on_while_compaction_and_expiry_run_again_and_again(
    make_bench: Callable[..., Bench], layer: str, spark: SparkSession
) -> None:
    bench = make_bench(layer)
    bench.insert(ROWS[layer](0))
    bench.offload()
    over = threading.Event()
    compacted: list[int] = []
    expired: list[int] = []

    def maintain() -> None:
        while not over.is_set():
            try:
                compacted.append(compact(spark, bench))
            except Exception as error:
                # Spark gives up when an offload replaced the files that it was compacting.
                if "ValidationException" not in str(error) and "Failed" not in str(error):
                    raise
            expired.append(expire(spark, bench))

    keeper = threading.Thread(target=maintain)
    keeper.start()
    try:
        for batch in range(1, 100):
            bench.insert(ROWS[layer](batch))
            bench.offload()
            if batch >= 8 and len(expired) >= 3:
                break
    finally:
        over.set()
        keeper.join()
    assert sum(expired) > 0
    if layer == "bronze":
        assert sum(compacted) > 0
    require_every_row_once(bench)
