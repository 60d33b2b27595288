"""The connection by which offloads find Spark, where a variable gives it."""

from __future__ import annotations

from typing import Any

import pytest

from k2.doctor import airflow
from k2.doctor.result import Outcome
from k2.errors import SettingsError

NO_DATABASE: Any = None


@pytest.mark.parametrize(
    ("variable", "master"),
    [
        ('{"conn_type": "spark", "host": "local[2]", "extra": {}}', "local[2]"),
        ('{"conn_type": "spark", "host": "spark://master", "port": 7077}', "spark://master:7077"),
        ('{"conn_type": "spark", "host": "master", "port": "7077"}', "spark://master:7077"),
        ("spark://master:7077", "spark://master:7077"),
        ('{"conn_type": "spark", "host": "yarn"}', "yarn"),
    ],
)
def test_a_connection_that_names_a_master_is_well(variable: str, master: str) -> None:
    result = airflow.spark_connection(NO_DATABASE, {"AIRFLOW_CONN_SPARK_DEFAULT": variable})
    assert (result.outcome, result.found) == (
        Outcome.OK,
        f"{master}, of AIRFLOW_CONN_SPARK_DEFAULT",
    )


@pytest.mark.parametrize(
    "variable",
    ['{"conn_type": "spark"}', '{"host": "local[2]"}', "local[2]", "{", '{"conn_type": "http"}'],
)
def test_a_connection_that_names_none_has_failed(variable: str) -> None:
    result = airflow.spark_connection(NO_DATABASE, {"AIRFLOW_CONN_SPARK_DEFAULT": variable})
    assert result.outcome is Outcome.FAILED
    assert "AIRFLOW_CONN_SPARK_DEFAULT=" in result.fix


@pytest.mark.parametrize("address", ["", "sqlite:////tmp/airflow.db"])
def test_without_airflows_database_nothing_of_it_is_checked(address: str) -> None:
    environment = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address}
    with pytest.raises(SettingsError, match="names Airflow's database"):
        airflow.open_metadata(environment)


def test_an_airflow_that_is_down_has_failed() -> None:
    address = "http://127.0.0.1:1/execution/"
    result = airflow.services({"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": address})
    assert result.outcome is Outcome.FAILED
    assert result.found.startswith("Airflow at http://127.0.0.1:1 does not answer")
    assert airflow.services({}).outcome is Outcome.NOT_CHECKED
