{{ settled_from_minutes('1h') }}
