{{ config(engine='ReplacingMergeTree(recorded_at)', order_by=['table_name', 'settled_through']) }}

-- Columns only: the settled tables add a row at the end of their runs.
select
    '' as table_name,
    toDateTime64(0, 3, 'UTC') as settled_through,
    toDateTime64(0, 3, 'UTC') as recorded_at
where false
