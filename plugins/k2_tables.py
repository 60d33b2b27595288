"""The page *K2 tables* in Airflow's UI: how far every table is offloaded, and what waits.

Every Airflow process loads the plugins, so the page itself is imported at its first request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """The page as an ASGI application."""
    from k2.tables_page import application

    await application()(scope, receive, send)


class TablesPlugin(AirflowPlugin):
    """Puts the page behind the menu item *K2 tables*, for users who are logged in."""

    name = "k2_tables"
    fastapi_apps: ClassVar[list[Any]] = [
        {"app": page, "url_prefix": "/k2", "name": "K2 tables"},
    ]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "K2 tables",
            "href": "/k2/tables",
            "destination": "nav",
            "category": "browse",
            "url_route": "k2_tables",
        },
    ]
