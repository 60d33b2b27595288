{{ config(materialized='view') }}

{% for layer in ['bronze', 'silver', 'gold'] -%}
select
    checked_at,
    layer,
    check_name,
    exchange,
    symbol,
    severity,
    status,
    value,
    threshold,
    detail,
    checked_from,
    checked_through
from {{ ref(layer ~ '_quality') }}
{{ 'union all' if not loop.last }}
{% endfor -%}
