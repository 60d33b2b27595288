"""The dbt project against the registry, and against what dbt would trip over. No server needed."""

from __future__ import annotations

import re

import yaml

from k2.registry import registry

from .conftest import GOLD_TABLES, PROJECT

DBT = PROJECT / "dbt_project"


def test_every_exchange_has_its_view_into_silver_with_the_symbol_rule_of_the_registry() -> None:
    for exchange in registry().exchanges:
        model = DBT / "models" / "silver" / f"bronze_{exchange.name}_to_silver_mv.sql"
        arguments = f"silver_columns('{exchange.name}', symbol_rule='{exchange.symbol_rule}')"
        assert arguments in model.read_text()


def test_candles_wait_for_the_views_of_all_exchanges() -> None:
    variables = yaml.safe_load((DBT / "dbt_project.yml").read_text())["vars"]
    assert variables["exchanges"] == [exchange.name for exchange in registry().exchanges]


def test_every_gold_table_of_the_registry_has_a_model_a_view_and_their_descriptions() -> None:
    for table in GOLD_TABLES:
        for path in (f"settled/{table}", f"views/{table}_view"):
            assert (DBT / "models" / "gold" / f"{path}.sql").exists()
            assert (DBT / "models" / "gold" / f"{path}.yml").exists()


def test_no_python_package_is_where_dbt_would_import_it() -> None:
    """dbt imports every top-level module named dbt_* that it finds on the path."""
    ours = [*(PROJECT / "dags").rglob("*.py"), *(PROJECT / "plugins").rglob("*.py")]
    assert not [path for path in ours if re.match(r"dbt_", path.name)]
    assert not list(DBT.rglob("__init__.py"))
