{{ config(
    ttl='toDateTime(checked_at) + toIntervalDay(' ~ var('quality_days') ~ ')',
    settings={'ttl_only_drop_parts': 1},
    post_hook="{{ report_findings() }}",
) }}
{%- set since = unchecked_since() %}
{%- set until = run_start_less(var('late_id_seconds')) %}
{% for exchange in var('exchanges') -%}
-- depends_on: {{ ref('bronze_' ~ exchange ~ '_to_silver_mv') }}
{% endfor -%}

with exchanges as (
    {{ all_exchanges() }}
),

trades as (
    select
        exchange,
        canonical_symbol,
        trade_id,
        ingestion_timestamp
    from {{ ref('silver_trades') }}
    where ingestion_timestamp >= {{ since }}
),

looked_at as (
    select
        exchange,
        count() as new_rows
    from trades
    group by exchange
),

-- Ids that an archive was given instead of the exchange's own are not consecutive.
new_ids as (
    select
        exchange,
        canonical_symbol,
        min(trade_id) as lowest_id,
        maxIf(trade_id, ingestion_timestamp < {{ until }}) as highest_id
    from trades
    where trade_id < {{ var('derived_ids_from') }}
    group by exchange, canonical_symbol
),

{% if is_incremental() -%}
earlier_ids as (
    select
        exchange,
        symbol as canonical_symbol,
        argMax(last_trade_id, checked_at) as last_trade_id,
        true as is_known
    from {{ this }}
    where check_name = 'trade_id_gaps' and checked_through <= {{ since }}
    group by exchange, symbol
),

ranges as (
    select
        exchange,
        canonical_symbol,
        if(is_known, last_trade_id + 1, lowest_id) as from_id,
        highest_id as through_id
    from new_ids
    left join earlier_ids using (exchange, canonical_symbol)
    where through_id >= from_id
),
{%- else -%}
ranges as (
    select
        exchange,
        canonical_symbol,
        lowest_id as from_id,
        highest_id as through_id
    from new_ids
    where through_id >= from_id
),
{%- endif %}

-- A bitmap of consecutive ids takes about a bit for each.
markets as (
    select
        exchange,
        canonical_symbol,
        from_id,
        through_id,
        toInt64(through_id) - toInt64(from_id) + 1 as expected,
        toInt64(groupBitmapIf(trade_id, trade_id >= from_id and trade_id <= through_id)) as found
    from trades
    inner join ranges using (exchange, canonical_symbol)
    group by exchange, canonical_symbol, from_id, through_id
),

results as (
    select
        *,
        toUInt64(0) as last_trade_id
    from (
        {{ rows_looked_at('looked_at') }}
    )
    union all
    select
        {{ result_of(
            'trade_id_gaps', value='expected - found', symbol='canonical_symbol',
            detail="concat(toString(expected - found), ' of the ', toString(expected), ' ids from ', "
            ~ "toString(from_id), ' to ', toString(through_id), ' are missing')",
        ) }},
        through_id as last_trade_id
    from markets
)

{{ quality_results('silver', checked_through=until, more_columns=['last_trade_id']) }}
