{# Hook of a materialized view: read once what its source held before the view was there.
   The comment on the view is set when that is done, so a run that dies before is made up for by the
   next. Rows that come twice, by the view and by the catch-up, are one row of the target. #}
{% macro catch_up(target, unsettles_candles=false) %}
    {%- if not execute %}{{ return('') }}{% endif %}
    {%- set done = 'Holds what its source held when it was created.' %}
    {%- set comment = run_query(
        "select comment from system.tables where database = '" ~ this.schema
        ~ "' and name = '" ~ this.identifier ~ "'").columns[0].values()[0] %}
    {%- if comment != done %}
        {%- set columns = adapter.get_columns_in_relation(target) | map(attribute='name') | join(', ') %}
        {% do run_query("insert into " ~ target ~ " (" ~ columns ~ ") select " ~ columns
            ~ " from (" ~ model.compiled_code ~ ")") %}
        {%- if unsettles_candles %}{% do rewind_settlement() %}{% endif %}
        {% do run_query("alter table " ~ this ~ " modify comment '" ~ done ~ "'") %}
    {%- endif %}
{% endmacro %}
