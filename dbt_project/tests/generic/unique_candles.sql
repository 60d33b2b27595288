{# A run writes a candle once, and reading gives each window once. #}
{% test unique_candles(model) %}
select
    exchange,
    canonical_symbol,
    window_start,
    settled_at,
    count() as candles
from {{ model }}
where settled_at >= now64(3) - toIntervalHour({{ var('test_hours') }})
group by exchange, canonical_symbol, window_start, settled_at
having candles > 1
{% endtest %}
