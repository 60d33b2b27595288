"""An unload that nobody waits for any more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from k2.clickhouse import connect
from k2.offload.plan import plan_batch
from k2.offload.ranges import next_range
from k2.offload.storage import FileSystem, local_path
from k2.offload.unload import cancel_unload, unload

from .conftest import COLUMNS
from .rows import trade

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Bench

# 2880 bytes that do not compress well: the unload is long enough to be met in the middle.
PAYLOAD = (
    ", payload String default"
    " arrayStringConcat(arrayMap(n -> hex(sipHash128(kafka_offset, n)), range(90)))"
)


def test_clickhouse_stops_writing_when_an_unload_is_cancelled(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench("bronze", columns=COLUMNS["bronze"] + PAYLOAD)
    bench.insert([trade(offset) for offset in range(30_000)])
    new = next_range(bench.client, bench.table, None)
    assert new is not None
    directory = f"{bench.lake_table().location}/data"
    intent, other = (
        plan_batch(bench.client, bench.table, bench.columns, new, directory=directory, attempt=name)
        for name in ("1", "2")
    )
    with connect(bench.settings.clickhouse) as orphaned, ThreadPoolExecutor(1) as threads:
        statement = threads.submit(
            unload, orphaned, FileSystem(), bench.table, bench.columns, intent
        )
        while not any(Path(local_path(intent.path)).glob("*.parquet")):
            assert not statement.done()
        cancel_unload(bench.client, other)
        assert not statement.done()
        cancel_unload(bench.client, intent)
        with pytest.raises(DatabaseError, match="QUERY_WAS_CANCELLED"):
            statement.result()
