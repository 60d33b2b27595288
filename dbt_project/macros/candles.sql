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


{# The same start where trades' times are compared with it, of the same type as they are. Of
   `DateTime64 < DateTime` the index analysis of ClickHouse makes `<= the second before`, and leaves out
   granules that begin within that second (https://github.com/ClickHouse/ClickHouse/issues/113993). #}
{% macro bound_of(time, timeframe) -%}
    toDateTime64({{ window_of(time, timeframe) }}, 3, 'UTC')
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
    {%- set place = place_in_time(trades ~ '.timestamp', trades ~ '.trade_id') -%}
    argMin({{ trades }}.price, {{ place }}) as open_price,
    max({{ trades }}.price) as high_price,
    min({{ trades }}.price) as low_price,
    argMax({{ trades }}.price, {{ place }}) as close_price,
    sum({{ trades }}.quantity) as volume,
    sum({{ trades }}.quote_volume) as quote_volume,
    sumIf({{ trades }}.quantity, {{ trades }}.side = 'buy') as buy_volume,
    count() as trade_count,
    {{ trade_at('min(' ~ place ~ ')') }} as first_trade_id,
    {{ trade_at('max(' ~ place ~ ')') }} as last_trade_id,
    {{ time_at('min(' ~ place ~ ')') }} as first_trade_at,
    {{ time_at('max(' ~ place ~ ')') }} as last_trade_at
{%- endmacro %}


{# A candle from the shorter candles of its window: the same as from their trades. #}
{% macro candle_of_candles(candles) -%}
    {%- set first = place_in_time(candles ~ '.first_trade_at', candles ~ '.first_trade_id') -%}
    {%- set last = place_in_time(candles ~ '.last_trade_at', candles ~ '.last_trade_id') -%}
    argMin({{ candles }}.open_price, {{ first }}) as open_price,
    max({{ candles }}.high_price) as high_price,
    min({{ candles }}.low_price) as low_price,
    argMax({{ candles }}.close_price, {{ last }}) as close_price,
    sum({{ candles }}.volume) as volume,
    sum({{ candles }}.quote_volume) as quote_volume,
    sum({{ candles }}.buy_volume) as buy_volume,
    sum({{ candles }}.trade_count) as trade_count,
    {{ trade_at('min(' ~ first ~ ')') }} as first_trade_id,
    {{ trade_at('max(' ~ last ~ ')') }} as last_trade_id,
    {{ time_at('min(' ~ first ~ ')') }} as first_trade_at,
    {{ time_at('max(' ~ last ~ ')') }} as last_trade_at
{%- endmacro %}


{# (timestamp, trade_id) as one number of 128 bits: the same order, and compared four times as fast as
   a tuple. Times are milliseconds after 1970, as Bronze lets no others in. #}
{% macro place_in_time(time, trade_id) -%}
    bitShiftLeft(toUInt128(toUnixTimestamp64Milli({{ time }})), 64) + toUInt128({{ trade_id }})
{%- endmacro %}


{# The two parts of such a number. #}
{% macro trade_at(place) -%}
    toUInt64(bitAnd({{ place }}, toUInt128(18446744073709551615)))
{%- endmacro %}


{% macro time_at(place) -%}
    fromUnixTimestamp64Milli(toInt64(bitShiftRight({{ place }}, 64)), 'UTC')
{%- endmacro %}


{# The last steps of every settled table: of the candles in `recomputed`, those that differ from the
   settled ones. Silver only ever gains trades; where it shows fewer than the settled candle has, it
   has forgotten some (retention), and the candle stays.
   Windows from `recent` on are all recomputed; of those before, the ones in `late_windows`. #}
{% macro changed_candles(recent) -%}
{%- if is_incremental() %}
settled as (
    select
        exchange,
        canonical_symbol,
        window_start,
        {{ candle_columns() }}
    from {{ this }}
    where window_start >= {{ recent }} or (exchange, canonical_symbol, window_start) in (
        select
            exchange,
            canonical_symbol,
            window_start
        from late_windows
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


{# A settled table of a longer timeframe, rolled up from the minutes that were settled after its last
   run. Of runs at the same time each rolls up at least those that it has settled itself. #}
{% macro settled_from_minutes(timeframe) -%}
{%- set since = utc(settled_through(this.identifier)) -%}
{%- set recent = window_of(since, timeframe) -%}
{%- set until = window_of(utc(settle_until(timeframe)), timeframe) -%}
with minutes as (
    select * from {{ ref('ohlcv_1m') }}
),

late_windows as (
    select distinct
        exchange,
        canonical_symbol,
        {{ window_of('minutes.window_start', timeframe) }} as window_start
    from minutes
    where (minutes.settled_at > {{ since }} or minutes.settled_at = {{ utc(settling_time()) }})
        and minutes.window_start < least({{ recent }}, {{ until }})
),

recent_minutes as (
    select
        exchange,
        canonical_symbol,
        {{ window_of('minutes.window_start', timeframe) }} as longer_window_start,
        {{ candle_columns('minutes') }}
    from minutes
    where minutes.window_start >= {{ recent }} and minutes.window_start < {{ until }}
    order by exchange, canonical_symbol, minutes.window_start, settled_at desc
    limit 1 by exchange, canonical_symbol, minutes.window_start
),

late_minutes as (
    select
        exchange,
        canonical_symbol,
        {{ window_of('minutes.window_start', timeframe) }} as longer_window_start,
        {{ candle_columns('minutes') }}
    from minutes
    where minutes.window_start < {{ recent }}
        and (exchange, canonical_symbol, {{ window_of('minutes.window_start', timeframe) }}) in (
            select
                exchange,
                canonical_symbol,
                window_start
            from late_windows
        )
    order by exchange, canonical_symbol, minutes.window_start, settled_at desc
    limit 1 by exchange, canonical_symbol, minutes.window_start
),

current_minutes as (
    select * from recent_minutes
    union all
    select * from late_minutes
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

{{ changed_candles(recent) }}
{%- endmacro %}
