"""The offload against the other ways from ClickHouse to Iceberg."""
