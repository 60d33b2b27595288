{# No row has null, or what ClickHouse puts in its place: an empty string, zero, 1970. #}
{% test has_value(model, column_name) %}
select {{ column_name }} as value
from {{ model }}
where {{ column_name }} is null or empty(toString({{ column_name }})) or {{ column_name }} = defaultValueOfArgumentType({{ column_name }})
{% endtest %}
