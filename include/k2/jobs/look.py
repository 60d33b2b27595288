"""The Spark job that looks whether a driver can reach the lake: `spark-submit look.py`.

Opens the catalog and every table of the registry, as an offload does, and changes nothing.
"""

from __future__ import annotations

import os
import sys

from k2.jobs.driver import TOLD, end_with_spark, reason
from k2.offload.gateway import open_gateway
from k2.offload.lake import JvmLake
from k2.registry import registry
from k2.settings import load_settings


def main() -> int:
    """Look at the tables; the exit status."""
    try:
        lake = JvmLake(open_gateway(os.environ), load_settings(os.environ))
        for table in registry().tables:
            lake.load(table.name).state()
    except TOLD as error:
        sys.stderr.write(f"{reason(error)}\n")
        return 1
    sys.stdout.write(f"Spark opens {len(registry().tables)} tables\n")
    return 0


if __name__ == "__main__":
    end_with_spark()
    sys.exit(main())
