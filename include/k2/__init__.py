"""K2: crypto trades through ClickHouse, kept for good in Apache Iceberg."""
