{{ config(
    materialized='materialized_view',
    catchup=false,
    post_hook="{{ catch_up(ref('silver_trades'), unsettles_candles=true) }}",
) }}
{{ materialization_target_table(ref('silver_trades')) }}

with trades as (
    select * from {{ source('bronze', 'bronze_trades_binance') }}
)

select
    {{ silver_columns('binance', symbol_rule='joined') }}
from trades
