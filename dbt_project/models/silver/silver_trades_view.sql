{{ config(materialized='view') }}

-- For readers: the trades as they are, without a thought for FINAL or for what orders the versions.
select
    exchange,
    canonical_symbol,
    timestamp,
    trade_id,
    symbol,
    side,
    price,
    quantity,
    quote_volume,
    event_time,
    ingestion_timestamp,
    kafka_partition,
    kafka_offset
from {{ ref('silver_trades') }} final
