{# Every market could be split into base and quote, and the quote is a known asset. #}
{% test known_quote_assets(model) %}
select
    exchange,
    canonical_symbol,
    count() as trades
from {{ model }}
where ingestion_timestamp >= now64(3) - toIntervalHour({{ var('test_hours') }})
    and splitByChar('/', canonical_symbol)[2] not in {{ string_array(var('quote_assets')) }}
group by exchange, canonical_symbol
{% endtest %}
