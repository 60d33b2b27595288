with {{ live_windows('1m') }},

live_trades as (
    select
        exchange,
        canonical_symbol,
        window_start,
        arrayJoin(groupUniqArrayMerge(trades)) as trade
    from {{ ref('ohlcv_live') }}
    where (exchange, canonical_symbol, window_start) in ({{ keys_of('live_windows') }})
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

{{ settled_and_live(ref('ohlcv_1m')) }}
