{# low <= open, close <= high; no negative volume, none bought beyond the total; first before last. #}
{% test consistent_candles(model) %}
select *
from {{ model }} final
where settled_at >= now64(3) - toIntervalHour({{ var('test_hours') }})
    and not (
        low_price <= least(open_price, close_price)
        and greatest(open_price, close_price) <= high_price
        and low_price > 0
        and buy_volume >= 0
        and buy_volume <= volume
        and quote_volume >= 0
        and (first_trade_at, first_trade_id) <= (last_trade_at, last_trade_id)
        and first_trade_at >= window_start
    )
{% endtest %}
