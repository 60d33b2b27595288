"""An embedded ClickHouse server: chdb behind the ClickHouse HTTP interface, on loopback."""

from k2.embedded.clickhouse.process import start, wait_until_ready

__all__ = ["start", "wait_until_ready"]
