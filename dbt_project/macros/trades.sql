{# The columns of Silver from a bronze relation. Bronze tables differ in their symbols only. #}
{% macro silver_columns(exchange, symbol_rule) -%}
    '{{ exchange }}' as exchange,
    {{ canonical_symbol('symbol', symbol_rule, asset_aliases(exchange)) }} as canonical_symbol,
    exchange_timestamp as timestamp,
    sequence_number as trade_id,
    symbol,
    side,
    price,
    quantity,
    quote_volume,
    event_time,
    ingestion_timestamp,
    kafka_partition,
    kafka_offset,
    {{ arrival_rank() }} as arrival_rank
{%- endmacro %}


{# The highest of all versions of a trade is the one that arrived first: by ingestion time, then by
   offset, then by partition, packed into 128 bits and turned around. #}
{% macro arrival_rank() -%}
    bitNot(
        bitShiftLeft(toUInt128(toUnixTimestamp64Milli(ingestion_timestamp)), 80)
        + bitShiftLeft(toUInt128(kafka_offset), 16)
        + toUInt128(kafka_partition)
    )
{%- endmacro %}


{# Trades, each of them once: what `final` reads, in a form that also takes the rows of a unit test.
   It follows the primary key, so it streams, and filters are pushed through it. #}
{% macro first_arrivals() -%}
    order by exchange, canonical_symbol, timestamp, trade_id, arrival_rank desc
    limit 1 by exchange, canonical_symbol, timestamp, trade_id
{%- endmacro %}
