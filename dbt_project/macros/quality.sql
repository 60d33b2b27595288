{# Data quality: every layer has a table of results, {layer}_quality. A run looks at what is new since
   the last one that found no error, and adds a row for each check and market; the tests on the table
   judge the rows of the newest run. One computation serves the history and the tests. #}

{# The columns of one result. It is not ok where the value is above the threshold. #}
{% macro result_of(check_name, value, detail, symbol='symbol', threshold=none) -%}
    '{{ check_name }}' as check_name,
    exchange,
    {{ symbol }} as symbol,
    toFloat64({{ value }}) as value,
    toFloat64({{ quality_threshold(check_name) if threshold is none else threshold }}) as threshold,
    '{{ quality_severity(check_name) }}' as severity,
    {{ detail }} as detail
{%- endmacro %}


{% macro quality_threshold(check_name) %}
    {{- return(var('quality_checks')[check_name]['threshold']) }}
{% endmacro %}


{# What a value above the threshold is: warn or error. #}
{% macro quality_severity(check_name) %}
    {{- return(var('quality_checks')[check_name]['severity']) }}
{% endmacro %}


{# How many new rows a run looked at, of each exchange: every run adds these, so that the newest run
   can be told also where it found nothing to check. `looked_at` has them by exchange. #}
{% macro rows_looked_at(looked_at) -%}
    select
        'rows_looked_at' as check_name,
        exchange,
        '' as symbol,
        toFloat64(new_rows) as value,
        null as threshold,
        'none' as severity,
        '' as detail
    from exchanges
    left join {{ looked_at }} using (exchange)
{%- endmacro %}


{% macro all_exchanges() -%}
    select arrayJoin({{ string_array(var('exchanges')) }}) as exchange
{%- endmacro %}


{# The last step of a quality model: the rows of the CTE `results`, as they are kept. #}
{% macro quality_results(layer, checked_through, more_columns=[]) -%}
select
    {{ utc(settling_time()) }} as checked_at,
    '{{ layer }}' as layer,
    check_name,
    exchange,
    symbol,
    severity,
    if(ifNull(value > threshold, false), severity, 'ok') as status,
    value,
    threshold,
    if(status = 'ok', '', detail) as detail,
    {{ unchecked_since() }} as checked_from,
    {{ checked_through }} as checked_through
    {%- for column in more_columns %},
    {{ column }}
    {%- endfor %}
from results
{%- endmacro %}


{# Where the last run ended that found no error, or whose errors were accepted: what is newer is
   looked at. An error therefore stands until its rows are corrected or it is accepted. #}
{% macro unchecked_since() -%}
    {%- if is_incremental() -%}
    (
        select max(checked_through)
        from {{ this }}
        where checked_at not in (select checked_at from {{ this }} where status = 'error')
    )
    {%- else -%}
    {{ utc('2000-01-01 00:00:00.000') }}
    {%- endif -%}
{%- endmacro %}


{# Start of this run, less the time that a row may be on its way to its table. #}
{% macro run_start_less(seconds) -%}
    {{ utc(settling_time()) }} - toIntervalSecond({{ seconds }})
{%- endmacro %}


{# Hook of a quality model: a line in the log for each thing found. #}
{% macro report_findings() %}
    {%- if not execute %}{{ return('') }}{% endif %}
    {%- set shown = 20 %}
    {%- set findings = run_query(
        "select status, check_name, exchange, symbol, detail, count() over () from " ~ this
        ~ " where checked_at = " ~ utc(settling_time()) ~ " and status in ('warn', 'error')"
        ~ " order by status, check_name, exchange, symbol limit " ~ shown) %}
    {%- for row in findings.rows %}
        {% do log("quality " ~ row[0] ~ ": " ~ row[1] ~ " " ~ row[2] ~ " " ~ row[3] ~ ": " ~ row[4], info=true) %}
    {%- endfor %}
    {%- if findings.rows and findings.rows[0][5] > shown %}
        {% do log("quality: " ~ (findings.rows[0][5] - shown) ~ " more in " ~ this, info=true) %}
    {%- endif %}
{% endmacro %}


{# Let the errors of a layer's newest run stand: the next run looks at what came after it. By hand:
   dbt run-operation accept_findings --args '{layer: bronze}' #}
{% macro accept_findings(layer) %}
    {%- set table = load_relation(
        api.Relation.create(schema=target.schema, identifier=layer ~ '_quality')) %}
    {%- if table is none %}
        {{ exceptions.raise_compiler_error(
            "there is no table " ~ layer ~ "_quality: the layers are bronze, silver and gold") }}
    {%- endif %}
    {%- set newest = "(select max(checked_at) from " ~ table ~ ")" %}
    {%- set errors = run_query(
        "select count() from " ~ table ~ " where checked_at = " ~ newest
        ~ " and status = 'error'").columns[0].values()[0] %}
    {%- if errors == 0 %}
        {{ exceptions.raise_compiler_error(
            "the newest run of " ~ table ~ " has no errors: there is nothing to accept") }}
    {%- endif %}
    {% do run_query(
        "insert into " ~ table ~ " select * replace ("
        ~ utc(settling_time()) ~ " as checked_at, 'accepted' as status) from (select * from " ~ table
        ~ " where checked_at = " ~ newest ~ " and status = 'error')") %}
    {% do log("accepted " ~ errors ~ " errors of " ~ table, info=true) %}
{% endmacro %}
