{# Settling is incremental by a record of how far each ohlcv table got (settlement_progress). The
   record is written after the candles, so a run that dies in between is repeated, not skipped. #}

{# Start of this dbt command, UTC: the version of every candle that it writes. #}
{% macro settling_time() %}
    {{ return(run_started_at.strftime('%Y-%m-%d %H:%M:%S.%f')[:-3]) }}
{% endmacro %}


{# Up to where a table is settled, UTC. Nothing settled yet is the year 2000: older than any trade. #}
{% macro settled_through(table_name) %}
    {{ return(progress_of(table_name, 'argMax(settled_through, recorded_at)')) }}
{% endmacro %}


{# Windows that end by this time, UTC, are settled now. Minutes: all that have passed. Longer
   windows: those whose minutes are settled. #}
{% macro settle_until(timeframe) %}
    {%- if timeframe == '1m' %}{{ return(settling_time()) }}{% endif %}
    {{ return(progress_of('ohlcv_1m', 'max(settled_through)')) }}
{% endmacro %}


{# The same, less the time that a trade may be on its way: what data tests can rely on. #}
{% macro surely_settled_through(table_name) -%}
    {{ utc(settled_through(table_name)) }} - toIntervalSecond({{ var('arrival_seconds') }})
{%- endmacro %}


{% macro progress_of(table_name, value) %}
    {%- set nothing_settled = '2000-01-01 00:00:00.000' %}
    {%- set progress = ref('settlement_progress') %}
    {%- if not execute or load_relation(progress) is none %}{{ return(nothing_settled) }}{% endif %}
    {{ return(run_query(
        "select toString(greatest(" ~ value ~ ", " ~ utc(nothing_settled) ~ ")) from " ~ progress
        ~ " where table_name = '" ~ table_name ~ "'").columns[0].values()[0]) }}
{% endmacro %}


{# Hook of a settled table. #}
{% macro record_settlement() %}
    {%- if not execute %}{{ return('') }}{% endif %}
    insert into {{ ref('settlement_progress') }} (table_name, settled_through, recorded_at)
    select
        '{{ this.identifier }}',
        {{ utc(settle_until(this.identifier | replace('ohlcv_', ''))) }},
        {{ utc(settling_time()) }}
{% endmacro %}


{# Let the next run look at all trades that Silver got since a time (default: all it has). It counts as
   newer than what a run going on at the same time records, so that one does not undo it. By hand:
   dbt run-operation rewind_settlement #}
{% macro rewind_settlement(since='2000-01-01 00:00:00.000') %}
    {%- set progress = load_relation(
        api.Relation.create(schema=target.schema, identifier='settlement_progress')) %}
    {%- if progress is not none %}
        {% do run_query(
            "insert into " ~ progress ~ " (table_name, settled_through, recorded_at) select 'ohlcv_1m', "
            ~ utc(since) ~ ", " ~ utc(settling_time()) ~ " + toIntervalMillisecond(1)") %}
    {%- endif %}
{% endmacro %}


{% macro utc(text) -%}
    toDateTime64('{{ text }}', 3, 'UTC')
{%- endmacro %}
