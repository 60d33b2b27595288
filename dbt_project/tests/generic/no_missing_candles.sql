{# Every window that got trades of late and is settled has a candle. #}
{% test no_missing_candles(model, timeframe) %}
{%- set table_name = 'ohlcv_' ~ timeframe %}
with windows as (
    select distinct
        exchange,
        canonical_symbol,
        {{ window_of('timestamp', timeframe) }} as window_start
    from {{ ref('silver_trades') }}
    where ingestion_timestamp >= now64(3) - toIntervalHour({{ var('test_hours') }})
        and ingestion_timestamp < {{ surely_settled_through(table_name) }}
        and timestamp < {{ bound_of(utc(settled_through(table_name)), timeframe) }}
)

select
    exchange,
    canonical_symbol,
    window_start
from windows
where (exchange, canonical_symbol, window_start) not in (
    select
        exchange,
        canonical_symbol,
        window_start
    from {{ model }}
    where (exchange, canonical_symbol, window_start) in (
        select
            exchange,
            canonical_symbol,
            window_start
        from windows
    )
)
{% endtest %}
