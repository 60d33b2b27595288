{# Nothing that the newest run looked at has this status, warn or error. #}
{% test no_findings(model, status) %}
select
    check_name,
    exchange,
    symbol,
    value,
    threshold,
    detail
from {{ model }}
where status = '{{ status }}' and checked_at = (select max(checked_at) from {{ model }})
{% endtest %}
