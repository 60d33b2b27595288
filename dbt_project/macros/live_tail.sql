{# Keys of the windows whose settled candle may lack trades, or be missing: those that got trades after
   the run before the last one, and those that ended after it. Everything older is in the settled
   tables for sure, also in those that a reader opened a moment before a run wrote its candles.
   Cost: that of ohlcv_live without its states. #}
{% macro live_windows(timeframe) -%}
{%- set before -%}
    (select settled_through from settled_before)
{%- endset -%}
settled_before as (
    select if(count() < {{ 1 if timeframe == '1m' else 2 }} * 2, {{ utc('2000-01-01 00:00:00.000') }}, min(settled_through)) as settled_through
    from (
        select settled_through
        from {{ ref('settlement_progress') }} final
        where table_name in ('ohlcv_1m', 'ohlcv_{{ timeframe }}')
        order by recorded_at desc
        limit 2 by table_name
    )
),

live_windows as (
    select distinct
        exchange,
        canonical_symbol,
        {{ window_of('live.window_start', timeframe) }} as window_start
    from {{ ref('ohlcv_live') }} as live
    where live.ingestion_timestamp >= {{ before }} - toIntervalMinute({{ var('settle_overlap_minutes') }})
        or live.window_start >= {{ window_of(before, timeframe) }}
)
{%- endmacro %}


{# The last steps of every candle view: the settled candles and the CTE `live`, and of a window that
   both have the one with more trades. A window is there once, whenever a run settles it meanwhile: a
   query sees one state of each table (enable_shared_storage_snapshot_in_query, the default).
   The settled candles are read in the order of their key, so nothing but the live ones is sorted. #}
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
order by exchange, canonical_symbol, window_start, trade_count desc, is_settled desc
limit 1 by exchange, canonical_symbol, window_start
{%- endmacro %}


{% macro keys_of(windows) -%}
    select exchange, canonical_symbol, window_start from {{ windows }}
{%- endmacro %}


{# The view of a longer timeframe. #}
{% macro candles_from_minutes(timeframe) -%}
with minutes as (
    select * from {{ ref('ohlcv_1m_view') }}
),

{{ live_windows(timeframe) }},

live as (
    select
        exchange,
        canonical_symbol,
        {{ window_of('minutes.window_start', timeframe) }} as window_start,
        {{ candle_of_candles('minutes') }}
    from minutes
    where (exchange, canonical_symbol, {{ window_of('minutes.window_start', timeframe) }}) in (
        {{ keys_of('live_windows') }}
    )
    group by exchange, canonical_symbol, window_start
),

{{ settled_and_live(ref('ohlcv_' ~ timeframe)) }}
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
