{%- set settled_table = ref('ohlcv_1m') -%}
with {{ unsettled_windows('1m', settled_table) }},

live_trades as (
    select
        exchange,
        canonical_symbol,
        window_start,
        arrayJoin(groupUniqArrayMerge(trades)) as trade
    from {{ ref('ohlcv_live') }}
    where (exchange, canonical_symbol, window_start) in (
        select
            exchange,
            canonical_symbol,
            window_start
        from unsettled_windows
    )
    group by exchange, canonical_symbol, window_start
),

live as (
    select
        exchange,
        canonical_symbol,
        window_start,
        {{ candle_of_trades('trade') }}
    from live_trades
    group by exchange, canonical_symbol, window_start
),

{{ settled_and_live(settled_table) }}
