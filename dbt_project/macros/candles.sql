{# What a candle is, for every timeframe. Windows are left-closed, [start, start + length), in UTC.
   Open and close are the prices of the first and the last trade by (timestamp, trade_id). #}

{% macro timeframe_seconds(timeframe) -%}
    {{ {'1m': 60, '5m': 300, '15m': 900, '30m': 1800, '1h': 3600, '1d': 86400}[timeframe] }}
{%- endmacro %}


{# Start of the window that a time is in, in the time zone of the time's type (UTC everywhere here). A
   monotonic function of the key, so that primary keys are pruned by windows. #}
{% macro window_of(time, timeframe) -%}
    toStartOfInterval({{ time }}, toIntervalSecond({{ timeframe_seconds(timeframe) }}))
{%- endmacro %}


{% macro candle_columns(relation='') -%}
    {%- set prefix = relation ~ '.' if relation else '' -%}
    {%- for column in [
        'open_price', 'high_price', 'low_price', 'close_price', 'volume', 'quote_volume', 'buy_volume',
        'trade_count', 'first_trade_id', 'last_trade_id', 'first_trade_at', 'last_trade_at',
    ] -%}
    {{ prefix }}{{ column }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}


{# A candle from trades, each of them there once. #}
{% macro candle_of_trades(trades) -%}
    argMin({{ trades }}.price, ({{ trades }}.timestamp, {{ trades }}.trade_id)) as open_price,
    max({{ trades }}.price) as high_price,
    min({{ trades }}.price) as low_price,
    argMax({{ trades }}.price, ({{ trades }}.timestamp, {{ trades }}.trade_id)) as close_price,
    sum({{ trades }}.quantity) as volume,
    sum({{ trades }}.quote_volume) as quote_volume,
    sumIf({{ trades }}.quantity, {{ trades }}.side = 'buy') as buy_volume,
    count() as trade_count,
    argMin({{ trades }}.trade_id, ({{ trades }}.timestamp, {{ trades }}.trade_id)) as first_trade_id,
    argMax({{ trades }}.trade_id, ({{ trades }}.timestamp, {{ trades }}.trade_id)) as last_trade_id,
    min({{ trades }}.timestamp) as first_trade_at,
    max({{ trades }}.timestamp) as last_trade_at
{%- endmacro %}


{# A candle from the shorter candles of its window: the same as from their trades. #}
{% macro candle_of_candles(candles) -%}
    argMin({{ candles }}.open_price, ({{ candles }}.first_trade_at, {{ candles }}.first_trade_id))
        as open_price,
    max({{ candles }}.high_price) as high_price,
    min({{ candles }}.low_price) as low_price,
    argMax({{ candles }}.close_price, ({{ candles }}.last_trade_at, {{ candles }}.last_trade_id))
        as close_price,
    sum({{ candles }}.volume) as volume,
    sum({{ candles }}.quote_volume) as quote_volume,
    sum({{ candles }}.buy_volume) as buy_volume,
    sum({{ candles }}.trade_count) as trade_count,
    argMin({{ candles }}.first_trade_id, ({{ candles }}.first_trade_at, {{ candles }}.first_trade_id))
        as first_trade_id,
    argMax({{ candles }}.last_trade_id, ({{ candles }}.last_trade_at, {{ candles }}.last_trade_id))
        as last_trade_id,
    min({{ candles }}.first_trade_at) as first_trade_at,
    max({{ candles }}.last_trade_at) as last_trade_at
{%- endmacro %}


{# The last steps of every settled table: of the candles in `recomputed`, those that differ from the
   settled ones. Silver only ever gains trades; where it shows fewer than the settled candle has, it
   has forgotten some (retention), and the candle stays. #}
{% macro changed_candles() -%}
{%- if is_incremental() %}
settled as (
    select
        exchange,
        canonical_symbol,
        window_start,
        {{ candle_columns() }}
    from {{ this }}
    where (exchange, canonical_symbol, window_start) in (
        select
            exchange,
            canonical_symbol,
            window_start
        from touched
    )
    order by exchange, canonical_symbol, window_start, settled_at desc
    limit 1 by exchange, canonical_symbol, window_start
),

changed as (
    select
        recomputed.exchange as exchange,
        recomputed.canonical_symbol as canonical_symbol,
        recomputed.window_start as window_start,
        {{ candle_columns('recomputed') }}
    from recomputed
    left join settled
        on recomputed.exchange = settled.exchange
            and recomputed.canonical_symbol = settled.canonical_symbol
            and recomputed.window_start = settled.window_start
    where recomputed.trade_count >= settled.trade_count
        and ({{ candle_columns('recomputed') }}) != ({{ candle_columns('settled') }})
)
{%- else %}
changed as (
    select
        exchange,
        canonical_symbol,
        window_start,
        {{ candle_columns() }}
    from recomputed
)
{%- endif %}

select
    exchange,
    canonical_symbol,
    window_start,
    {{ candle_columns() }},
    {{ utc(settling_time()) }} as settled_at
from changed
{%- endmacro %}


{# A settled table of a longer timeframe, rolled up from the settled minutes. #}
{% macro settled_from_minutes(timeframe) -%}
{%- set since = utc(settled_through(this.identifier)) ~ ' - toIntervalMinute(' ~ var('settle_overlap_minutes') ~ ')' -%}
{%- set until = window_of(utc(settle_until(timeframe)), timeframe) -%}
with minutes as (
    select * from {{ ref('ohlcv_1m') }}
),

touched as (
    select
        exchange,
        canonical_symbol,
        {{ window_of('minutes.window_start', timeframe) }} as window_start
    from minutes
    where minutes.settled_at >= {{ since }} and minutes.window_start < {{ until }}
    union distinct
    select
        exchange,
        canonical_symbol,
        {{ window_of('minutes.window_start', timeframe) }} as window_start
    from minutes
    where minutes.window_start >= {{ window_of(since, timeframe) }} and minutes.window_start < {{ until }}
),

current_minutes as (
    select
        exchange,
        canonical_symbol,
        {{ window_of('minutes.window_start', timeframe) }} as longer_window_start,
        {{ candle_columns('minutes') }}
    from minutes
    where (exchange, canonical_symbol, {{ window_of('minutes.window_start', timeframe) }}) in (
        select
            exchange,
            canonical_symbol,
            window_start
        from touched
    )
    order by exchange, canonical_symbol, minutes.window_start, settled_at desc
    limit 1 by exchange, canonical_symbol, minutes.window_start
),

recomputed as (
    select
        exchange,
        canonical_symbol,
        longer_window_start as window_start,
        {{ candle_of_candles('current_minutes') }}
    from current_minutes
    group by exchange, canonical_symbol, longer_window_start
),

{{ changed_candles() }}
{%- endmacro %}
