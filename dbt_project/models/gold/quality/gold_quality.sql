{{ config(
    ttl='toDateTime(checked_at) + toIntervalDay(' ~ var('quality_days') ~ ')',
    settings={'ttl_only_drop_parts': 1},
    post_hook="{{ report_findings() }}",
) }}
{%- set run_start = utc(settling_time()) %}

with exchanges as (
    {{ all_exchanges() }}
),

new_candles as (
    select
        exchange,
        canonical_symbol,
        window_start
    from {{ ref('ohlcv_1m') }}
    where settled_at > {{ unchecked_since() }}
),

looked_at as (
    select
        exchange,
        count() as new_rows
    from new_candles
    group by exchange
),

-- The candles of the days that got new ones, and of the days before them: all that 24 hours need.
candles as (
    select
        exchange,
        canonical_symbol,
        window_start,
        toFloat64(argMax(ohlcv_1m.close_price, settled_at)) as close_price
    from {{ ref('ohlcv_1m') }} as ohlcv_1m
    where (exchange, canonical_symbol, toDate(window_start)) in (
        select distinct
            exchange,
            canonical_symbol,
            arrayJoin([toDate(window_start), toDate(window_start) - 1])
        from new_candles
    )
    group by exchange, canonical_symbol, window_start
),

pairs as (
    select
        exchange,
        canonical_symbol,
        window_start,
        close_price,
        lagInFrame(close_price) over previous as previous_close,
        lagInFrame(window_start) over previous as previous_start
    from candles
    window previous as (
        partition by exchange, canonical_symbol
        order by window_start
        rows between 1 preceding and current row
    )
),

-- A return over n minutes is divided by the square root of n: that of a minute, on a random walk.
returns as (
    select
        exchange,
        canonical_symbol,
        window_start,
        previous_close,
        close_price,
        log(close_price / previous_close)
        / sqrt(dateDiff('minute', previous_start, window_start)) as minute_return
    from pairs
    where previous_close > 0 and close_price > 0
),

trailing as (
    select
        exchange,
        canonical_symbol,
        window_start,
        previous_close,
        close_price,
        minute_return,
        count() over day_before as returns_before,
        stddevSamp(minute_return) over day_before as deviation
    from returns
    window day_before as (
        partition by exchange, canonical_symbol
        order by toUnixTimestamp(window_start)
        range between 86400 preceding and 60 preceding
    )
),

jumps as (
    select
        exchange,
        canonical_symbol,
        max(abs(minute_return) / greatest(deviation, {{ var('price_jump_least_deviation') }}))
            as most_deviations,
        argMax(
            concat(
                'from ', toString(previous_close), ' to ', toString(close_price), ' at ',
                toString(window_start)
            ),
            abs(minute_return) / greatest(deviation, {{ var('price_jump_least_deviation') }})
        ) as jump
    from trailing
    where returns_before >= {{ var('price_jump_least_returns') }}
        and (exchange, canonical_symbol, window_start) in (
            select
                exchange,
                canonical_symbol,
                window_start
            from new_candles
        )
    group by exchange, canonical_symbol
),

-- Candles that were settled as their trades happened: of a replayed archive there are none, and
-- so it is never silent.
live_minutes as (
    select
        exchange,
        canonical_symbol,
        min(window_start) as first_minute,
        max(window_start) as last_minute,
        uniqExact(window_start) as minutes
    from {{ ref('ohlcv_1m') }}
    where window_start >= {{ run_start }} - toIntervalDay(1)
        and settled_at <= window_start + toIntervalMinute(1 + {{ var('live_within_minutes') }})
    group by exchange, canonical_symbol
    having minutes >= 2
),

newest as (
    select
        exchange,
        max(last_minute) as newest_minute
    from live_minutes
    group by exchange
),

silences as (
    select
        exchange,
        canonical_symbol,
        last_minute,
        dateDiff('minute', last_minute, newest_minute) as silent_minutes,
        dateDiff('minute', first_minute, last_minute) / (minutes - 1) as usual_minutes
    from live_minutes
    inner join newest using (exchange)
),

results as (
    {{ rows_looked_at('looked_at') }}
    union all
    select
        {{ result_of(
            'price_jumps', value='most_deviations', symbol='canonical_symbol',
            detail="concat(toString(round(most_deviations, 1)), ' standard deviations: ', jump)",
        ) }}
    from jumps
    union all
    select
        {{ result_of(
            'silent_symbols', value='silent_minutes', symbol='canonical_symbol',
            threshold='greatest(' ~ quality_threshold('silent_symbols') ~ ', '
            ~ var('silent_usual_gaps') ~ ' * usual_minutes)',
            detail="concat('no trade since ', toString(last_minute), ', ', toString(silent_minutes), "
            ~ "' minutes before the newest of its exchange')",
        ) }}
    from silences
)

{{ quality_results('gold', checked_through=run_start) }}
