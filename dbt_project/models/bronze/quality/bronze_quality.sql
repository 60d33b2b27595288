{{ config(
    ttl='toDateTime(checked_at) + toIntervalDay(' ~ var('quality_days') ~ ')',
    settings={'ttl_only_drop_parts': 1},
    post_hook="{{ report_findings() }}",
) }}
{%- set since = unchecked_since() %}

with exchanges as (
    {{ all_exchanges() }}
),

trades as (
    {% for exchange in var('exchanges') -%}
    select
        '{{ exchange }}' as exchange,
        symbol,
        price <= 0 or quantity <= 0 as is_not_positive,
        dateDiff('millisecond', ingestion_timestamp, exchange_timestamp) / 1000 as seconds_ahead,
        concat(
            'trade ', toString(sequence_number), ' at partition ', toString(kafka_partition), ', offset ',
            toString(kafka_offset)
        ) as place
    from {{ source('bronze', 'bronze_trades_' ~ exchange) }}
    where ingestion_timestamp >= {{ since }}
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

markets as (
    select
        exchange,
        symbol,
        count() as new_rows,
        countIf(is_not_positive) as not_positive,
        anyIf(place, is_not_positive) as not_positive_place,
        greatest(max(seconds_ahead), 0) as most_seconds_ahead,
        argMax(place, seconds_ahead) as most_ahead_place
    from trades
    group by exchange, symbol
),

looked_at as (
    select
        exchange,
        sum(new_rows) as new_rows
    from markets
    group by exchange
),

settled_letters as (
    select
        exchange,
        topic,
        kafka_partition,
        kafka_offset,
        reason
    from {{ source('bronze', 'dead_letter_replays') }} final
    where state = 'done'
),

dead_letters as (
    select
        exchange,
        uniqExact(topic, kafka_partition, kafka_offset) as dead,
        argMax(reason, ingestion_timestamp) as newest_reason
    from {{ source('bronze', 'dead_letters') }}
    left anti join settled_letters using (exchange, topic, kafka_partition, kafka_offset, reason)
    where ingestion_timestamp >= {{ since }}
    group by exchange
),

arrivals as (
    select
        exchange,
        dead,
        dead + new_rows as messages,
        newest_reason
    from exchanges
    left join looked_at using (exchange)
    left join dead_letters using (exchange)
),

newest as (
    {% for exchange in var('exchanges') -%}
    select
        '{{ exchange }}' as exchange,
        max(ingestion_timestamp) as newest_at
    from {{ source('bronze', 'bronze_trades_' ~ exchange) }}
    having newest_at > toDateTime64(0, 3, 'UTC')
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

results as (
    {{ rows_looked_at('looked_at') }}
    union all
    select
        {{ result_of(
            'not_positive', value='not_positive',
            detail="concat(toString(not_positive), ' trades with a price or quantity that is not above "
            ~ "zero, such as ', not_positive_place)",
        ) }}
    from markets
    union all
    {% for check_name in ['ahead_of_clock', 'far_ahead_of_clock'] -%}
    select
        {{ result_of(
            check_name, value='most_seconds_ahead',
            detail="concat(toString(most_seconds_ahead), ' seconds ahead of its arrival: ', most_ahead_place)",
        ) }}
    from markets
    union all
    {% endfor -%}
    select
        {{ result_of(
            'dead_letters', value='dead / greatest(messages, 1)', symbol="''",
            detail="concat(toString(dead), ' of ', toString(messages), ' messages, the newest: ', newest_reason)",
        ) }}
    from arrivals
    union all
    select
        {{ result_of(
            'silent_exchange', value="dateDiff('second', newest_at, " ~ utc(settling_time()) ~ ") / 60",
            symbol="''", detail="concat('no trade since ', toString(newest_at))",
        ) }}
    from newest
)

{{ quality_results('bronze', checked_through=run_start_less(var('arrival_seconds'))) }}
