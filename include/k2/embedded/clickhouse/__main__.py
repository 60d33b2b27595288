"""`python -m k2.embedded.clickhouse --data DIR --port N --user U`."""

import sys

from k2.embedded.clickhouse.server import main

sys.exit(main())
