{# Every longer window that is settled, and was settled, ended or had minutes settled since the tests
   passed, has the candle of its minutes, which are tested against Silver themselves. It is put together
   in another way than the model does it: minutes follow each other, so the first of them opens. Windows
   whose minutes were settled after them wait for the next run. #}
{% test candles_equal_minutes(model, timeframe) %}
{%- set since = untested_since(model.identifier) %}
{%- set until = utc(settled_through(model.identifier)) %}
{%- set ended = window_of(until, timeframe) %}
with minutes as (
    select
        *,
        {{ window_of('window_start', timeframe) }} as longer_window_start
    from {{ ref('ohlcv_1m') }}
),

untested as (
    select exchange, canonical_symbol, window_start
    from {{ model }}
    where settled_at >= {{ since }}
    union distinct
    select exchange, canonical_symbol, longer_window_start as window_start
    from minutes
    where settled_at >= {{ since }} and minutes.window_start < {{ ended }}
    union distinct
    select exchange, canonical_symbol, longer_window_start as window_start
    from minutes
    where minutes.window_start >= {{ window_of(since, timeframe) }}
        and minutes.window_start < {{ ended }}
),

unsettled as (
    select distinct exchange, canonical_symbol, longer_window_start as window_start
    from minutes
    where settled_at > {{ until }}
),

own_minutes as (
    select *
    from minutes
    where (exchange, canonical_symbol, longer_window_start) in ({{ keys_of('untested') }})
    order by exchange, canonical_symbol, window_start, settled_at desc
    limit 1 by exchange, canonical_symbol, window_start
),

recomputed as (
    select
        exchange,
        canonical_symbol,
        longer_window_start,
        argMin((open_price, first_trade_id, first_trade_at), window_start) as opening,
        argMax((close_price, last_trade_id, last_trade_at), window_start) as closing,
        (
            max(high_price), min(low_price), sum(volume), sum(quote_volume), sum(buy_volume),
            sum(trade_count)
        ) as totals
    from own_minutes
    group by exchange, canonical_symbol, longer_window_start
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
    recomputed.longer_window_start as window_start
from recomputed
left join settled
    on recomputed.exchange = settled.exchange
        and recomputed.canonical_symbol = settled.canonical_symbol
        and recomputed.longer_window_start = settled.window_start
where (recomputed.exchange, recomputed.canonical_symbol, recomputed.longer_window_start) not in (
        {{ keys_of('unsettled') }}
    )
    and not (
        opening = (settled.open_price, settled.first_trade_id, settled.first_trade_at)
        and closing = (settled.close_price, settled.last_trade_id, settled.last_trade_at)
        and totals = (
            settled.high_price, settled.low_price, settled.volume, settled.quote_volume,
            settled.buy_volume, settled.trade_count
        )
    )
{% endtest %}
