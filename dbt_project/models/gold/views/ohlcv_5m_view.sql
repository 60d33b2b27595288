{{ candles_from_minutes('5m') }}
