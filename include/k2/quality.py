"""What the newest data quality checks of each layer found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.clickhouse import connect
from k2.registry import Layer

if TYPE_CHECKING:
    import datetime as dt

    from clickhouse_connect.driver.client import Client

    from k2.settings import ClickHouse

# The newest time is in the metadata of a table's parts, and only the parts of its week are read:
# the results of three months cost no more than those of a day.
_NEWEST = " union all ".join(
    f"""
    select checked_at, layer, status, check_name, exchange, symbol, value, threshold, detail
    from {layer}_quality
    where checked_at = (select max(checked_at) from {layer}_quality)
    """
    for layer in Layer
)
_FINDINGS = f"""
select checked_at, layer, status, check_name, exchange, symbol, value, threshold, detail
from ({_NEWEST})
where status in ('warn', 'error')
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
        return read_findings(client)


def read_findings(client: Client) -> list[Finding]:
    """The same, through a connection that is there."""
    return [Finding(*row) for row in client.query(_FINDINGS).result_rows]


def read_checked_at(client: Client) -> dict[str, float]:
    """When each layer was last checked, in seconds since 1970; without those that never were."""
    times = ", ".join(
        f"(select toUnixTimestamp64Milli(max(checked_at)) from {layer}_quality)" for layer in Layer
    )
    (row,) = client.query(f"select {times}").result_rows
    return {layer.value: at / 1000 for layer, at in zip(Layer, row, strict=True) if at}
