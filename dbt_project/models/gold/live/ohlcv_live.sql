{{ config(
    engine='AggregatingMergeTree()',
    order_by=['exchange', 'canonical_symbol', 'window_start'],
    partition_by='toDate(ingestion_timestamp)',
    ttl='toDateTime(ingestion_timestamp) + toIntervalDay(' ~ var('live_days') ~ ')',
    settings={'ttl_only_drop_parts': 1, 'index_granularity': 1, 'merge_selector_base': 10},
) }}

-- Columns only: ohlcv_live_mv fills the table.
-- A row is all trades of a market's minute. Granules of one row let a reader of one market take apart its
-- sets only, not those of the markets stored beside it.
select
    exchange,
    canonical_symbol,
    {{ window_of('timestamp', '1m') }} as window_start,
    {{ live_trades_state() }} as trades,
    cast(max(ingestion_timestamp) as SimpleAggregateFunction(max, DateTime64(3, 'UTC')))
        as ingestion_timestamp
from {{ ref('silver_trades') }}
where false
group by exchange, canonical_symbol, window_start
