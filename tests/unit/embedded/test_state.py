"""The folder of the stack: ports, passwords, and who runs on it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2.embedded.state import (
    PROJECT,
    choose_port,
    only_stack,
    prepare_state,
    read_state,
    running_owner,
    state_directory,
)
from k2.errors import StackError
from k2.settings import environment_of, load_lake, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

FREE_PORTS = {"K2_CLICKHOUSE_PORT": "0", "K2_POSTGRES_PORT": "0", "K2_AIRFLOW_PORT": "0"}


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_the_folder_is_beside_the_project_unless_it_is_named() -> None:
    assert state_directory({}) == PROJECT / ".k2"
    assert state_directory({"K2_STATE": ""}) == PROJECT / ".k2"
    assert state_directory({"K2_STATE": "/elsewhere/k2"}) == Path("/elsewhere/k2")


def test_passwords_are_generated_and_no_two_are_the_same(tmp_path: Path) -> None:
    secrets = [
        value
        for name in ("one", "two")
        for key, value in asdict(prepare_state(tmp_path / name, FREE_PORTS)).items()
        if not key.endswith("_port") and key != "lake"
    ]
    assert len(set(secrets)) == len(secrets) == 10
    assert all(len(secret) >= 32 for secret in secrets)
    assert stat.S_IMODE((tmp_path / "one" / "stack.json").stat().st_mode) == 0o600


def test_passwords_stay_and_ports_are_chosen_anew(tmp_path: Path) -> None:
    first = prepare_state(tmp_path / "k2", FREE_PORTS)
    assert read_state(tmp_path / "k2") == first
    port = str(choose_port("airflow", FREE_PORTS))
    second = prepare_state(tmp_path / "k2", {**FREE_PORTS, "K2_AIRFLOW_PORT": port})
    assert second.airflow_port == int(port)
    for secret in ("clickhouse_password", "postgres_password", "airflow_password"):
        assert getattr(first, secret) == getattr(second, secret)
    assert first.airflow_fernet_key == second.airflow_fernet_key
    assert first.airflow_secret == second.airflow_secret


def test_each_service_gets_a_port_and_a_password_of_its_own(tmp_path: Path) -> None:
    state = prepare_state(tmp_path, FREE_PORTS)
    assert len({state.clickhouse_port, state.postgres_port, state.airflow_port}) == 3
    passwords = {state.clickhouse_password, state.postgres_password, state.airflow_password}
    assert len(passwords) == 3
    assert min(map(len, passwords)) >= 24


def test_secrets_are_for_the_owner_only_and_do_not_show(tmp_path: Path) -> None:
    state = prepare_state(tmp_path, FREE_PORTS)
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600
    for secret in (state.clickhouse_password, state.airflow_secret, state.airflow_fernet_key):
        assert secret not in repr(state)


def test_settings_of_the_stack_are_those_of_its_child_processes(tmp_path: Path) -> None:
    directory = tmp_path / "a stack"
    settings = prepare_state(directory, FREE_PORTS).settings(directory)
    assert load_settings(environment_of(settings)) == settings
    assert settings.lake.warehouse == f"file:{directory}/lake"


def test_a_lake_on_object_storage_is_remembered_and_no_key(tmp_path: Path) -> None:
    variables = {
        "K2_LAKE_WAREHOUSE": "s3://trades/k2",
        "K2_LAKE_ENDPOINT": "http://objects:7070",
        "AWS_SECRET_ACCESS_KEY": "canary",  # pragma: allowlist secret
    }
    state = prepare_state(tmp_path, {**FREE_PORTS, **variables})
    assert state.settings(tmp_path).lake == load_lake(variables)
    assert read_state(tmp_path) == state
    assert "canary" not in (tmp_path / "stack.json").read_text()
    assert prepare_state(tmp_path, FREE_PORTS).settings(tmp_path).lake.store is None


def test_a_state_of_before_there_were_lakes_elsewhere_is_read(tmp_path: Path) -> None:
    state = prepare_state(tmp_path, FREE_PORTS)
    path = tmp_path / "stack.json"
    document = json.loads(path.read_text())
    del document["lake"]
    path.write_text(json.dumps(document))
    assert read_state(tmp_path) == state


def test_without_an_earlier_start_there_is_no_state(tmp_path: Path) -> None:
    assert read_state(tmp_path / "none") is None
    assert running_owner(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"clickhouse_port": 1}', b"\xff"])
def test_a_damaged_state_says_what_to_remove(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "stack.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StackError) as error:
        read_state(tmp_path)
    assert str(error.value) == (
        f"{path} is not readable as the stack's state; remove the folder with 'make clean'"
    )


@pytest.mark.parametrize("service", ["clickhouse", "postgres", "airflow"])
def test_a_port_in_use_is_named_with_what_to_do(service: str, taken: int) -> None:
    variable = f"K2_{service.upper()}_PORT"
    with pytest.raises(StackError) as error:
        choose_port(service, {variable: str(taken)})
    assert str(error.value) == (
        f"port {taken} for {service} cannot be used (Address already in use); stop what uses it, "
        f"or set {variable} to another port (0 takes a free one)"
    )


@pytest.mark.parametrize("text", ["http", "-1", "65536", "1.5", "²"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(StackError) as error:
        choose_port("airflow", {"K2_AIRFLOW_PORT": text})
    assert str(error.value) == (
        f"K2_AIRFLOW_PORT is '{text}'; it must be a port number, or 0 for a free one"
    )


def test_nothing_is_written_when_a_port_is_in_use(tmp_path: Path, taken: int) -> None:
    with pytest.raises(StackError, match="cannot be used"):
        prepare_state(tmp_path, {**FREE_PORTS, "K2_AIRFLOW_PORT": str(taken)})
    assert read_state(tmp_path) is None


def test_one_stack_at_a_time(tmp_path: Path) -> None:
    with only_stack(tmp_path):
        assert running_owner(tmp_path) == os.getpid()
        with (
            pytest.raises(StackError, match=f"^a stack is already running on {tmp_path}; stop it"),
            only_stack(tmp_path),
        ):
            pytest.fail("two stacks")
        assert running_owner(tmp_path) == os.getpid()
    assert running_owner(tmp_path) is None
    with only_stack(tmp_path):
        pass


def test_a_killed_owner_leaves_the_folder_free(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from k2.embedded.state import only_stack\n"
        "with only_stack(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    with owner, owner.stdout as output:
        output.readline()
        assert running_owner(tmp_path) == owner.pid
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert running_owner(tmp_path) is None
    with only_stack(tmp_path):
        assert running_owner(tmp_path) == os.getpid()
