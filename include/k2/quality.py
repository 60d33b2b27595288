"""What the newest data quality checks of each layer found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.clickhouse import connect

if TYPE_CHECKING:
    import datetime as dt

    from k2.settings import ClickHouse

_NEWEST = """
select checked_at, layer, status, check_name, exchange, symbol, value, threshold, detail
from quality_results
where (layer, checked_at) in (select layer, max(checked_at) from quality_results group by layer)
    and status in ('warn', 'error')
order by indexOf(['bronze', 'silver', 'gold'], layer), status, check_name, exchange, symbol
"""


@dataclass(frozen=True)
class Finding:
    """A value above its threshold. `checked_at` is UTC; `symbol` is empty for a whole exchange."""

    checked_at: dt.datetime
    layer: str
    status: str
    check_name: str
    exchange: str
    symbol: str
    value: float
    threshold: float
    detail: str


def newest_findings(clickhouse: ClickHouse) -> list[Finding]:
    """The warnings and errors of each layer's newest run, Bronze first."""
    with connect(clickhouse) as client:
        return [Finding(*row) for row in client.query(_NEWEST).result_rows]
