"""A folder that no user's Airflow reads: the baseline of `k2 bench dag`."""
