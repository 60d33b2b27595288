"""What the embedded stack keeps under one folder: ports, passwords, process ids and data.

The folder is `.k2/` beside the project's files, or the one that K2_STATE names.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet

from k2.errors import StackError
from k2.settings import ClickHouse, Postgres, Settings, lake_environment, load_lake

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROJECT = Path(__file__).resolve().parents[3]
HOST = "127.0.0.1"
USER = "k2"
DEFAULT_PORTS = {"clickhouse": 18123, "postgres": 15432, "airflow": 18080}
# An environment that asks for any: for a stack that only its own process has to find.
FREE_PORTS = {f"K2_{service.upper()}_PORT": "0" for service in DEFAULT_PORTS}


@dataclass(frozen=True)
class StackState:
    """Ports and generated passwords; they live as long as the data does."""

    clickhouse_port: int
    postgres_port: int
    airflow_port: int
    clickhouse_password: str = field(repr=False)
    postgres_password: str = field(repr=False)
    airflow_password: str = field(repr=False)
    airflow_secret: str = field(repr=False)
    airflow_fernet_key: str = field(repr=False)
    # The variables of a lake on object storage; without them it is a folder of the stack's own.
    lake: dict[str, str] = field(default_factory=dict)

    def settings(self, directory: Path) -> Settings:
        """The settings with which everything else reaches this stack."""
        return Settings(
            clickhouse=ClickHouse(HOST, self.clickhouse_port, USER, self.clickhouse_password),
            postgres=Postgres(HOST, self.postgres_port, USER, self.postgres_password),
            lake=load_lake(self.lake or {"K2_LAKE_WAREHOUSE": f"file:{directory / 'lake'}"}),
        )


def state_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of the stack's state."""
    return Path(environment.get("K2_STATE") or PROJECT / ".k2").resolve()


def read_state(directory: Path) -> StackState | None:
    """The state of an earlier start, or None."""
    path = directory / "stack.json"
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text())
        names = {item.name for item in fields(StackState)}
        return StackState(**{name: document[name] for name in document.keys() & names})
    except (ValueError, AttributeError, TypeError) as error:
        raise StackError(
            f"{path} is not readable as the stack's state; remove the folder with 'make clean'"
        ) from error


def prepare_state(directory: Path, environment: Mapping[str, str] = os.environ) -> StackState:
    """The state for a start: passwords of the earlier one, ports as asked for now.

    A port comes from K2_CLICKHOUSE_PORT, K2_POSTGRES_PORT or K2_AIRFLOW_PORT; 0 takes a free one.
    K2_LAKE_WAREHOUSE puts the lake into an object store, when it is one.

    Raises:
        StackError: a port is in use.
        SettingsError: a variable of the object store has a value that is none.
    """
    lake = {}
    if environment.get("K2_LAKE_WAREHOUSE", "").startswith("s3://"):
        lake = lake_environment(load_lake(environment))
    directory.mkdir(parents=True, exist_ok=True)
    earlier = read_state(directory)
    fernet_key = earlier.airflow_fernet_key if earlier else Fernet.generate_key().decode()
    state = StackState(
        clickhouse_port=choose_port("clickhouse", environment),
        postgres_port=choose_port("postgres", environment),
        airflow_port=choose_port("airflow", environment),
        clickhouse_password=earlier.clickhouse_password if earlier else _password(),
        postgres_password=earlier.postgres_password if earlier else _password(),
        airflow_password=earlier.airflow_password if earlier else _password(),
        airflow_secret=earlier.airflow_secret if earlier else _password(),
        airflow_fernet_key=fernet_key,
        lake=lake,
    )
    _write_private(directory / "stack.json", json.dumps(asdict(state), indent=2))
    return state


def choose_port(service: str, environment: Mapping[str, str]) -> int:
    """The port of a service: the one asked for, the usual one, or for 0 any free one."""
    variable = f"K2_{service.upper()}_PORT"
    text = environment.get(variable) or str(DEFAULT_PORTS[service])
    if not text.isdecimal() or int(text) > 65535:
        raise StackError(f"{variable} is '{text}'; it must be a port number, or 0 for a free one")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(text)))
        except OSError as error:
            raise StackError(
                f"port {text} for {service} cannot be used ({error.strerror}); stop what uses it, "
                f"or set {variable} to another port (0 takes a free one)"
            ) from error
        return int(probe.getsockname()[1])


def free_port() -> int:
    """A port that nothing uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def only_stack(directory: Path) -> Iterator[None]:
    """Hold the folder for this process.

    Raises:
        StackError: another process has a stack running on it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StackError(
                f"a stack is already running on {directory}; stop it with 'make down'"
            ) from error
        write_owner(directory, os.getpid())
        yield


def write_owner(directory: Path, process: int) -> None:
    """Note the process that runs the stack."""
    (directory / "owner.pid").write_text(str(process))


def running_owner(directory: Path) -> int | None:
    """The process that has a stack running on the folder, or None."""
    path = directory / "lock"
    if not path.exists():
        return None
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return int((directory / "owner.pid").read_text())
    return None


def _password() -> str:
    return secrets.token_urlsafe(24)


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)
