"""What breaks in practice, looked at without changing anything: what `k2 doctor` does."""
