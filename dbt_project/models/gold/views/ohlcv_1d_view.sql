{{ candles_from_minutes('1d') }}
