"""What all jobs that spark-submit starts have in common: how they end."""

from __future__ import annotations

import os
import signal
import threading
from typing import Final

import psycopg
from clickhouse_connect.driver.exceptions import ClickHouseError
from py4j.protocol import Py4JJavaError

from k2.errors import K2Error

# What a job tells in one line.
TOLD: Final = (K2Error, ClickHouseError, psycopg.Error, Py4JJavaError)


def reason(error: Exception) -> str:
    """Why a job stopped, in one line.

    Of a failure in the JVM: the catalog's or the lake's causes, without the stack.
    """
    if not isinstance(error, Py4JJavaError):
        return " ".join(str(error).split())
    causes, cause = [], error.java_exception
    while cause is not None:
        causes.append(" ".join(str(cause.toString()).split()))
        cause = cause.getCause()
    return f"the Iceberg lake cannot be used: {', '.join(causes)}; run it again"


def end_with_spark() -> None:
    """From now on, end at once when spark-submit is gone: no driver holds what it cannot use.

    spark-submit holds the driver's standard input open for as long as it lives.
    """
    threading.Thread(target=_die_with_spark, daemon=True).start()


def _die_with_spark() -> None:
    # Not sys.stdin: a reader that waits in it would hold up the interpreter's end.
    while os.read(0, 1):
        continue
    os.kill(os.getpid(), signal.SIGKILL)
