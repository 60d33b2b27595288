{{ config(partition_by='toYear(window_start)') }}

{{ settled_from_minutes('1d') }}
