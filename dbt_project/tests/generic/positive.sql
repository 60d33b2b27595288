{# The number is above zero in every row. #}
{% test positive(model, column_name) %}
select {{ column_name }} as value
from {{ model }}
where not {{ column_name }} > 0
{% endtest %}
