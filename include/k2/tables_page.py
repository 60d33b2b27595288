"""The page *K2 tables*: each table's watermark, lag, last batch and retention, for Airflow's UI."""

from __future__ import annotations

import datetime as dt
import functools
import os
from typing import Annotated

import jinja2
from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from k2.errors import K2Error
from k2.registry import registry
from k2.settings import load_settings
from k2.status import TableStatus, table_statuses

_PAGE = jinja2.Environment(autoescape=True).from_string("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<title>K2 tables</title>
<style>
  body { font: 14px system-ui, sans-serif; margin: 2rem; }
  table { border-collapse: collapse; }
  th, td { padding: .4rem 1rem .4rem 0; text-align: left; border-bottom: 1px solid #8884; }
  .number { text-align: right; font-variant-numeric: tabular-nums; }
</style>
<h1>K2 tables</h1>
{% if problem %}<p role="alert">{{ problem }}</p>{% else %}
<table>
  <tr>
    <th>Layer<th>Table<th>Watermark<th class="number">Lag, rows<th class="number">Lag, s
    <th>Last batch<th class="number">Rows<th>Committed (UTC)<th>Claimed by
    <th>Retention
  </tr>
  {% for table in tables %}
  <tr>
    <td>{{ table.layer }}<td>{{ table.table }}<td>{{ table.watermark_text or "-" }}
    <td class="number">{{ "{:,}".format(table.lag_rows) }}
    <td class="number">{{ "{:,.0f}".format(table.lag_seconds) }}
    <td>{{ table.last_batch or "-" }}
    <td class="number">{{ "{:,}".format(table.last_rows or 0) }}
    <td>{% set at = table.last_committed_at %}{{ "{:%Y-%m-%d %H:%M:%S}".format(at) if at }}
    <td>{{ table.holder or "-" }}
    <td>{{ table.retention or "-" }}
  </tr>
  {% endfor %}
</table>
{% endif %}
</html>
""")


@functools.cache
def application() -> FastAPI:
    """The page's application; it answers only users who are logged in to Airflow."""
    app = FastAPI(title="K2 tables", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/tables", response_class=HTMLResponse)
    def tables(_user: Annotated[object, Depends(get_user)]) -> str:
        try:
            today = dt.datetime.now(dt.UTC).date()
            return render(table_statuses(load_settings(os.environ), registry(), today=today))
        except K2Error as error:
            return render([], problem=str(error))

    return app


def render(tables: list[TableStatus], problem: str | None = None) -> str:
    """The page's HTML; values are escaped."""
    return _PAGE.render(tables=tables, problem=problem)
