{{ config(
    materialized='materialized_view',
    catchup=false,
    post_hook="{{ catch_up(ref('ohlcv_live')) }}",
) }}
{{ materialization_target_table(ref('ohlcv_live')) }}

with trades as (
    select * from {{ ref('silver_trades') }}
)

select
    exchange,
    canonical_symbol,
    {{ window_of('timestamp', '1m') }} as window_start,
    {{ live_trades_state() }} as trades,
    max(trades.ingestion_timestamp) as ingestion_timestamp
from trades
where trades.ingestion_timestamp >= now64(3) - toIntervalDay({{ var('live_days') }})
group by exchange, canonical_symbol, window_start, toDate(trades.ingestion_timestamp)
