{{ config(
    engine='ReplacingMergeTree(arrival_rank)',
    order_by=['exchange', 'canonical_symbol', 'timestamp', 'trade_id'],
    partition_by='toDate(ingestion_timestamp)',
    indexes=[
        {'name': 'timestamp_range', 'definition': 'timestamp type minmax granularity 1'},
        {'name': 'ingestion_range', 'definition': 'ingestion_timestamp type minmax granularity 1'},
        {'name': 'log_range', 'definition': '(exchange, kafka_partition, kafka_offset) type minmax granularity 1'},
    ],
    settings={'index_granularity': 2048},
) }}

-- Columns only: materialized views fill the table. An incremental model of no rows is never rebuilt.
select
    '' as exchange,
    '' as canonical_symbol,
    toDateTime64(0, 3, 'UTC') as timestamp,
    toUInt64(0) as trade_id,
    '' as symbol,
    '' as side,
    toDecimal64(0, 8) as price,
    toDecimal64(0, 8) as quantity,
    toDecimal64(0, 8) as quote_volume,
    toDateTime64(0, 3, 'UTC') as event_time,
    toDateTime64(0, 3, 'UTC') as ingestion_timestamp,
    toUInt16(0) as kafka_partition,
    toUInt64(0) as kafka_offset,
    toUInt128(0) as arrival_rank
where false
