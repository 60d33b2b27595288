"""How long a trade takes from the producer into the candles."""
