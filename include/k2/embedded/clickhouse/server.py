"""The ClickHouse HTTP interface in front of the embedded engine, on loopback.

https://clickhouse.com/docs/interfaces/http
"""

from __future__ import annotations

import argparse
import hmac
import os
import signal
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, Final, cast
from urllib.parse import urlsplit

from k2.embedded.clickhouse import bodies, compression
from k2.embedded.clickhouse.answers import answer
from k2.embedded.clickhouse.engine import Engine
from k2.embedded.clickhouse.exceptions import (
    AUTHENTICATION_FAILED,
    REQUIRED_PASSWORD,
    QueryError,
    from_engine,
    query_error,
)
from k2.embedded.clickhouse.requests import (
    Credentials,
    credentials,
    open_body,
    read_request,
    url_parameters,
)
from k2.embedded.clickhouse.response import Response
from k2.embedded.clickhouse.sessions import Sessions
from k2.embedded.clickhouse.settings import HOST, PASSWORD_VARIABLE
from k2.errors import K2Error, StackError

_GRACE_SECONDS: Final = 10.0
_STOPS: Final = {signal.SIGTERM, signal.SIGINT}


class Server(ThreadingHTTPServer):
    """One thread per connection. Raises StackError where the port is taken."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, owner: Credentials, engine: Engine) -> None:
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise StackError(
                f"ClickHouse cannot listen on {HOST}:{port}: {error.strerror}. "
                "Stop what uses the port, or choose another."
            ) from None
        self.owner = owner
        self.engine = engine
        self.sessions = Sessions(engine, time.monotonic)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news; anything else is."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "ClickHouse"
    sys_version = ""
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are not logged."""

    def _serve(self) -> None:
        path = urlsplit(self.path).path
        parameters = url_parameters(self.path)
        if path == "/ping" or (path == "/" and not parameters and self.command != "POST"):
            self._plain(200, "Ok.\n")
        elif path != "/":
            self._plain(404, f"There is no handler for {path}: use / or /ping.\n")
        else:
            self._query(parameters)

    def _plain(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _query(self, parameters: dict[str, str]) -> None:
        response = Response(self, str(uuid.uuid4()))
        try:
            body = open_body(self.headers, cast("BinaryIO", self.rfile))
            try:
                self._authenticate(parameters)
                request = read_request(
                    self.command, self.headers, parameters, body, response.query_id
                )
                response.query_id = request.query_id
                response.encoding = compression.choose(request.accept_encoding)
                with self.server.engine:
                    answer(request, self.server.sessions, response)
                response.end()
            finally:
                self.close_connection |= not bodies.drain(body)
        except QueryError as error:
            response.fail(error)
        except ConnectionError:
            self.close_connection = True
        except (RuntimeError, OSError, ValueError) as error:
            response.fail(from_engine(error))

    def _authenticate(self, parameters: dict[str, str]) -> None:
        given, owner = credentials(self.headers, parameters), self.server.owner
        if not given.user:
            raise query_error(REQUIRED_PASSWORD, "A user and a password are required.")
        same_user = hmac.compare_digest(given.user.encode(), owner.user.encode())
        same_password = hmac.compare_digest(given.password.encode(), owner.password.encode())
        if not (same_user and same_password):
            raise query_error(
                AUTHENTICATION_FAILED,
                f"{given.user}: Authentication failed: password is incorrect, "
                "or there is no user with such name.",
            )


def serve(data: Path, port: int, owner: Credentials, configuration: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then let the running queries end and close the engine.

    Raises StackError where the directory or the port is taken.
    """
    # Blocked before the engine starts its threads, which inherit it: a signal that one of them took
    # would not wake this one.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    engine = Engine(data, configuration)
    server = Server(port, owner, engine)
    listener = threading.Thread(target=server.serve_forever, daemon=True)
    listener.start()
    signal.sigwait(_STOPS)
    server.shutdown()
    server.server_close()
    engine.close(_GRACE_SECONDS)
    server.sessions.close()


def main(arguments: list[str] | None = None) -> int:
    """The command line; the password comes from K2_CLICKHOUSE_PASSWORD."""
    parser = argparse.ArgumentParser(prog="python -m k2.embedded.clickhouse", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--port", type=int, required=True, help="the port on 127.0.0.1")
    parser.add_argument("--user", default="default", help="the only user's name")
    parser.add_argument("--configuration", type=Path, help="a configuration file of ClickHouse")
    options = parser.parse_args(arguments)
    try:
        password = os.environ.get(PASSWORD_VARIABLE)
        if password is None:
            raise StackError(f"Set {PASSWORD_VARIABLE} to the password of {options.user}.")
        owner = Credentials(options.user, password)
        serve(options.data.resolve(), options.port, owner, options.configuration)
    except K2Error as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
