{# A trade id is one trade of its market: it has one time, and the table gives it once. #}
{% test unique_trades(model) %}
select
    exchange,
    canonical_symbol,
    trade_id,
    count() as trades
from {{ model }} final
where ingestion_timestamp >= now64(3) - toIntervalHour({{ var('test_hours') }})
group by exchange, canonical_symbol, trade_id
having trades > 1
{% endtest %}
