"""Another way: a Python process reads ClickHouse as Arrow and appends with PyIceberg.

`python -m k2.bench.offload.pyiceberg_job TABLE QUERY`. Prints what it did as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

from k2.clickhouse import connect
from k2.offload.catalog import load_table, open_catalog
from k2.settings import load_settings


def main(table: str, query: str) -> None:
    """Append the rows of a query in ClickHouse to a table of the lake, all at once."""
    settings = load_settings(os.environ)
    lake = load_table(open_catalog(settings), settings, table)
    began = time.monotonic()
    with connect(settings.clickhouse) as client:
        rows = client.query_arrow(query, use_strings=True)
    lake.append(rows.cast(lake.schema().as_arrow()))
    sys.stdout.write(json.dumps({"seconds": time.monotonic() - began}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
