"""The way from the driver into the JVM that spark-submit started.

What `pyspark.java_gateway.launch_gateway` does inside spark-submit, without importing PySpark: that
takes as long as all the rest of a job with nothing new. A Spark session can still be opened beside
it; PySpark then makes a connection of its own to the same JVM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from py4j.clientserver import ClientServer, JavaParameters, PythonParameters

from k2.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping


def open_gateway(environment: Mapping[str, str]) -> ClientServer:
    """Connect to the JVM, by the port and the secret that Spark's PythonRunner left.

    When the JVM calls back (Iceberg asks the driver whether a commit may be), it does so on the
    connection of the call that it is in: no server is needed for it.

    Raises:
        SettingsError: this process was not started by spark-submit.
    """
    try:
        port = int(environment["PYSPARK_GATEWAY_PORT"])
        secret = environment["PYSPARK_GATEWAY_SECRET"]
    except KeyError:
        raise SettingsError(
            "a job runs inside Spark: start it with spark-submit, or with 'k2 offload' or "
            "'k2 maintain'"
        ) from None
    return ClientServer(
        JavaParameters(port=port, auth_token=secret, auto_convert=True),
        PythonParameters(port=0, eager_load=False),
    )
