{{ settled_from_minutes('30m') }}
