{# The candles settled of late equal those computed from Silver anew, whatever their timeframe.
   Windows that got trades after the run that settled them wait for the next one. A candle that has
   more trades than Silver outlived them (retention) and is left out. #}
{% test settled_as_recomputed(model, timeframe) %}
{%- set window = window_of('timestamp', timeframe) %}
with candles as (
    select
        exchange,
        canonical_symbol,
        window_start,
        {{ candle_columns() }}
    from {{ model }} final
    where settled_at >= now64(3) - toIntervalHour({{ var('test_hours') }})
),

trades as (
    select
        exchange,
        canonical_symbol,
        timestamp,
        trade_id,
        side,
        price,
        quantity,
        quote_volume
    from {{ ref('silver_trades') }}
    where (exchange, canonical_symbol, {{ window }}) in (
        select
            exchange,
            canonical_symbol,
            window_start
        from candles
    )
    {{ first_arrivals() }}
),

recomputed as (
    select exchange, canonical_symbol, {{ window }} as window_start, {{ candle_of_trades('trades') }}
    from trades
    group by exchange, canonical_symbol, window_start
),

unsettled as (
    select distinct
        exchange,
        canonical_symbol,
        {{ window }} as window_start
    from {{ ref('silver_trades') }}
    where ingestion_timestamp >= {{ surely_settled_through('ohlcv_1m') }}
)

select
    candles.exchange as exchange,
    candles.canonical_symbol as canonical_symbol,
    candles.window_start as window_start
from candles
left join recomputed
    on candles.exchange = recomputed.exchange
        and candles.canonical_symbol = recomputed.canonical_symbol
        and candles.window_start = recomputed.window_start
where candles.trade_count <= recomputed.trade_count
    and ({{ candle_columns('candles') }}) != ({{ candle_columns('recomputed') }})
    and (candles.exchange, candles.canonical_symbol, candles.window_start) not in (
        select
            exchange,
            canonical_symbol,
            window_start
        from unsettled
    )
{% endtest %}
