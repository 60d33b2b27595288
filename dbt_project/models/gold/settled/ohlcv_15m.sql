{{ settled_from_minutes('15m') }}
