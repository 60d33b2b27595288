{# A run writes a candle once, with no value missing: low <= open, close <= high; something was traded,
   and not more of it bought than in all; first before last. Null is no answer. #}
{% test consistent_candles(model) %}
with candles as (
    select
        *,
        count() over (
            partition by exchange, canonical_symbol, window_start, settled_at
        ) as times_written
    from {{ model }}
    where settled_at >= {{ untested_since(model.identifier) }}
    order by exchange, canonical_symbol, window_start, settled_at desc
    limit 1 by exchange, canonical_symbol, window_start
)

select *
from candles
where not ifNull(
    times_written = 1
    and notEmpty(exchange)
    and notEmpty(canonical_symbol)
    and low_price > 0
    and low_price <= least(open_price, close_price)
    and greatest(open_price, close_price) <= high_price
    and volume > 0
    and buy_volume between 0 and volume
    and quote_volume >= 0
    and trade_count > 0
    and (first_trade_at, first_trade_id) <= (last_trade_at, last_trade_id)
    and first_trade_at >= window_start,
    false
)
{% endtest %}
