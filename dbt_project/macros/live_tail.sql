{# Keys of the windows that got trades lately and have no settled candle. Cost: that of ohlcv_live,
   and of the settled candles of just those windows. #}
{% macro unsettled_windows(timeframe, settled_table) -%}
live_windows as (
    select distinct
        exchange,
        canonical_symbol,
        {{ window_of('live.window_start', timeframe) }} as window_start
    from {{ ref('ohlcv_live') }} as live
),

unsettled_windows as (
    select
        exchange,
        canonical_symbol,
        window_start
    from live_windows
    where (exchange, canonical_symbol, window_start) not in (
        select
            exchange,
            canonical_symbol,
            window_start
        from {{ settled_table }}
        where (exchange, canonical_symbol, window_start) in (
            select
                exchange,
                canonical_symbol,
                window_start
            from live_windows
        )
    )
)
{%- endmacro %}


{# The last steps of every candle view: the settled candles and the CTE `live` as one relation. #}
{% macro settled_and_live(settled_table) -%}
candles as (
    select
        exchange, canonical_symbol, window_start, {{ candle_columns() }},
        toNullable(settled_at) as settled_at, 1 as is_settled
    from {{ settled_table }} final
    union all
    select
        exchange, canonical_symbol, window_start, {{ candle_columns() }},
        null as settled_at, 0 as is_settled
    from live
)

select
    exchange,
    canonical_symbol,
    window_start,
    {{ candle_columns() }},
    toDecimal64(divideDecimal(quote_volume, volume, 8), 8) as vwap,
    settled_at,
    is_settled
from candles
{%- endmacro %}


{# The view of a longer timeframe. #}
{% macro candles_from_minutes(timeframe) -%}
{%- set settled_table = ref('ohlcv_' ~ timeframe) -%}
with minutes as (
    select * from {{ ref('ohlcv_1m_view') }}
),

{{ unsettled_windows(timeframe, settled_table) }},

live as (
    select
        exchange,
        canonical_symbol,
        {{ window_of('minutes.window_start', timeframe) }} as window_start,
        {{ candle_of_candles('minutes') }}
    from minutes
    where (exchange, canonical_symbol, {{ window_of('minutes.window_start', timeframe) }}) in (
        select
            exchange,
            canonical_symbol,
            window_start
        from unsettled_windows
    )
    group by exchange, canonical_symbol, window_start
),

{{ settled_and_live(settled_table) }}
{%- endmacro %}


{# The trades of a minute as an aggregate state: a set, so a trade that comes twice is one trade. #}
{% macro live_trades_state() -%}
    groupUniqArrayState(
        cast(
            (timestamp, trade_id, side, price, quantity, quote_volume)
            as Tuple(
                timestamp DateTime64(3, 'UTC'), trade_id UInt64, side String,
                price Decimal(18, 8), quantity Decimal(18, 8), quote_volume Decimal(18, 8)
            )
        )
    )
{%- endmacro %}
