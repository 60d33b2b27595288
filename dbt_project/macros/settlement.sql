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


{# From when on data tests look at what was settled: since they passed, and at most for test_hours.
   The overlap is for what another run was writing meanwhile. #}
{% macro untested_since(table_name) -%}
    greatest(
        now64(3) - toIntervalHour({{ var('test_hours') }}),
        (
            select argMax(settled_through, recorded_at)
            from {{ ref('settlement_progress') }}
            where table_name = '{{ tests_of(table_name) }}'
        ) - toIntervalMinute({{ var('settle_overlap_minutes') }})
    )
{%- endmacro %}


{# Under which name the record says how far a table was settled when its data tests passed. #}
{% macro tests_of(table_name) -%}
    tests of {{ table_name }}
{%- endmacro %}


{# Hook at the end of a command: the settled tables that it built and whose data tests have all passed.
   While a test fails, what it looked at is looked at again. #}
{% macro record_passed_tests(results) %}
    {%- set progress = ref('settlement_progress') %}
    {%- if not execute %}{{ return('') }}{% endif %}
    {%- set passed = results | selectattr('status', 'in', ['success', 'pass'])
        | map(attribute='node.unique_id') | list %}
    {%- set nodes = graph.nodes.values() %}
    {%- set tested = [] %}
    {%- for table in nodes if table.resource_type == 'model' and 'settled' in table.fqn
        and table.unique_id in passed %}
        {%- set tests = nodes | selectattr('resource_type', 'equalto', 'test')
            | selectattr('attached_node', 'equalto', table.unique_id)
            | map(attribute='unique_id') %}
        {%- if tests | reject('in', passed) | list == [] %}{% do tested.append(table.name) %}{% endif %}
    {%- endfor %}
    {%- if not tested %}{{ return('') }}{% endif %}
    insert into {{ progress }} (table_name, settled_through, recorded_at)
    select
        concat('{{ tests_of("") }}', table_name),
        least(argMax(progress.settled_through, progress.recorded_at), {{ utc(settling_time()) }}),
        {{ utc(settling_time()) }}
    from {{ progress }} as progress
    where table_name in {{ string_array(tested) }}
    group by table_name
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
