{# Every minute that is settled, and was settled, ended or got trades since the tests passed, has the
   candle of its trades in Silver. Minutes that got trades after the run that settled them wait for the
   next one. A candle that has more trades than Silver outlived them (retention) and is left out. #}
{% test candles_equal_trades(model) %}
{%- set since = untested_since(model.identifier) %}
{%- set until = utc(settled_through(model.identifier)) %}
{%- set ended = bound_of(until, '1m') %}
with trades as (
    select * from {{ ref('silver_trades') }}
),

untested as (
    select exchange, canonical_symbol, window_start
    from {{ model }}
    where settled_at >= {{ since }}
    union distinct
    select exchange, canonical_symbol, {{ window_of('timestamp', '1m') }} as window_start
    from trades
    where ingestion_timestamp >= {{ since }} and timestamp < {{ ended }}
    union distinct
    select exchange, canonical_symbol, {{ window_of('timestamp', '1m') }} as window_start
    from trades
    where timestamp >= {{ bound_of(since, '1m') }} and timestamp < {{ ended }}
),

unsettled as (
    select distinct exchange, canonical_symbol, {{ window_of('timestamp', '1m') }} as window_start
    from trades
    where ingestion_timestamp >= {{ until }} - toIntervalSecond({{ var('arrival_seconds') }})
),

own_trades as (
    select
        exchange,
        canonical_symbol,
        timestamp,
        trade_id,
        side,
        price,
        quantity,
        quote_volume
    from trades
    where (exchange, canonical_symbol, {{ window_of('timestamp', '1m') }}) in (
        {{ keys_of('untested') }}
    )
    {{ first_arrivals() }}
),

recomputed as (
    select
        exchange,
        canonical_symbol,
        {{ window_of('timestamp', '1m') }} as window_start,
        {{ candle_of_trades('own_trades') }}
    from own_trades
    group by exchange, canonical_symbol, window_start
),

settled as (
    select exchange, canonical_symbol, window_start, {{ candle_columns() }}
    from {{ model }}
    where (exchange, canonical_symbol, window_start) in ({{ keys_of('untested') }})
    order by exchange, canonical_symbol, window_start, settled_at desc
    limit 1 by exchange, canonical_symbol, window_start
)

select
    recomputed.exchange as exchange,
    recomputed.canonical_symbol as canonical_symbol,
    recomputed.window_start as window_start,
    recomputed.trade_count as trades,
    settled.trade_count as settled_trades
from recomputed
left join settled
    on recomputed.exchange = settled.exchange
        and recomputed.canonical_symbol = settled.canonical_symbol
        and recomputed.window_start = settled.window_start
where recomputed.trade_count >= settled.trade_count
    and ({{ candle_columns('recomputed') }}) != ({{ candle_columns('settled') }})
    and (recomputed.exchange, recomputed.canonical_symbol, recomputed.window_start) not in (
        {{ keys_of('unsettled') }}
    )
{% endtest %}
