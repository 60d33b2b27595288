"""The command line: help with examples, and one line for what is wrong."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer

from k2 import cli
from k2.embedded.state import only_stack, prepare_state
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMANDS = [
    "demo",
    "up",
    "down",
    "init",
    "replay",
    "ingest",
    "offload",
    "maintain",
    "audit",
    "repair",
    "restore",
    "status",
    "soak",
    "quality",
    "sql",
    "metrics",
    "doctor",
    "deadletters",
    "bench",
]
NO_STACK = (
    "error: no stack is running; start one with 'make up', or set K2_CLICKHOUSE_HOST and the "
    "other K2_ variables to reach services of your own\n"
)
NOWHERE = {
    "K2_CLICKHOUSE_HOST": "127.0.0.1",
    "K2_CLICKHOUSE_PORT": "1",
    "K2_CLICKHOUSE_USER": "k2",
    "K2_CLICKHOUSE_PASSWORD": "secret",  # pragma: allowlist secret
    "K2_POSTGRES_HOST": "127.0.0.1",
    "K2_POSTGRES_PORT": "1",
    "K2_POSTGRES_USER": "k2",
    "K2_POSTGRES_PASSWORD": "secret",  # pragma: allowlist secret
    "K2_LAKE_WAREHOUSE": "/tmp/none",
}
Run = tuple[int, str, str]


@pytest.fixture
def k2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Run]:
    """Run a command in this process, on an empty folder: exit status, output, errors."""
    for name in list(os.environ):
        if name.startswith("K2_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("K2_STATE", str(tmp_path / "state"))

    def run(*arguments: str) -> Run:
        monkeypatch.setattr(sys, "argv", ["k2", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        status = ended.value.code
        return (
            status if isinstance(status, int) else int(status is not None),
            *capsys.readouterr(),
        )

    return run


def k2_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
    return subprocess.run(
        [sys.executable, "-m", "k2.cli", *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


# Help.


def test_all_commands_are_there() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert list(commands) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_a_command_says_what_it_does_with_an_example(
    k2: Callable[..., Run], command: str, flag: str
) -> None:
    status, output, errors = k2(command, flag)
    assert (status, errors) == (0, "")
    assert f"Example: k2 {command}" in output


def _with_subcommands(name: str, command: Any) -> Iterator[tuple[list[str], Any]]:
    yield [name], command
    for inner, subcommand in getattr(command, "commands", {}).items():
        yield [name, inner], subcommand


def test_the_examples_are_commands_that_exist() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    known = {
        " ".join(words): one
        for name, command in commands.items()
        for words, one in _with_subcommands(name, command)
    }
    for command in known.values():
        (example,) = re.findall(r"Example: k2 (.*)", command.help)
        words = example.split()
        called = known.get(" ".join(words[:2])) or known[words[0]]
        options = {option for parameter in called.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


def test_help_is_printed_by_the_program_itself() -> None:
    done = k2_process("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in COMMANDS:
        assert f" {command} " in done.stdout


def test_help_imports_no_engine() -> None:
    script = (
        "import sys; from k2 import cli\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}"
        " & {'pyspark', 'pyiceberg', 'airflow', 'chdb', 'dbt', 'pandas'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n"


# Wrong input.


def test_ingest_without_a_broker_says_how_to_name_one(k2: Callable[..., Run]) -> None:
    assert k2("ingest") == (
        1,
        "",
        "error: no broker is named; give --brokers HOST:PORT or set K2_KAFKA_BROKERS\n",
    )


def test_the_program_ends_with_one_line_and_status_1(tmp_path: Path) -> None:
    done = k2_process("status", K2_STATE=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", NO_STACK)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["audit"],
        ["audit", "ohlcv_1m"],
        ["offload", "ohlcv_1m"],
        ["maintain"],
        ["maintain", "ohlcv_1m", "ohlcv_5m"],
        ["repair", "ohlcv_1m"],
        ["repair", "ohlcv_1m", "--accept-lake"],
        ["replay"],
        ["init"],
        ["sql", "select 1"],
    ],
    ids=" ".join,
)
def test_without_a_stack_a_command_says_how_to_start_one(
    k2: Callable[..., Run], arguments: list[str]
) -> None:
    assert k2(*arguments) == (1, "", NO_STACK)


def test_a_stack_that_was_killed_is_not_running(k2: Callable[..., Run], tmp_path: Path) -> None:
    ports = dict.fromkeys(("K2_CLICKHOUSE_PORT", "K2_POSTGRES_PORT", "K2_AIRFLOW_PORT"), "0")
    prepare_state(tmp_path / "state", ports)
    assert k2("status") == (1, "", NO_STACK)


def test_stopping_without_a_stack_is_no_error(k2: Callable[..., Run]) -> None:
    assert k2("down") == (0, "", "no stack was running\n")


@pytest.mark.parametrize("command", ["offload", "maintain", "audit", "repair"])
def test_an_unknown_table_is_answered_with_the_known_ones(
    k2: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    known = ", ".join(table.name for table in registry().tables)
    assert k2(command, "ohlcv_2m") == (
        1,
        "",
        f"error: unknown table 'ohlcv_2m'; tables of the registry: {known}\n",
    )


@pytest.mark.parametrize("command", ["demo", "replay"])
@pytest.mark.parametrize(
    ("trades", "reason"),
    [
        ("bitmex:XBTUSD={file}", "unknown exchange 'bitmex'; exchanges of the registry: binance,"),
        ("{file}", "'{file}' is not EXCHANGE:MARKET=PATH; an example: binance:XRPETH=trades.csv"),
        ("binance={file}", "'binance={file}' is not EXCHANGE:MARKET=PATH; an example: binance:"),
        ("binance:XRPETH=", "'binance:XRPETH=' is not EXCHANGE:MARKET=PATH; an example: binance:"),
        ("binance:XRPETH={file}.gone", "{file}.gone: no such file"),
        ("binance:XRPETH={folder}", "{folder}: no such file"),
        ("binance:XRP/ETH={file}", "'XRP/ETH' is not a market of binance, such as XRPETH"),
        ("kraken:ABC={file}", "the quote currency of 'ABC' is unknown; write the market as BASE/"),
    ],
)
def test_trades_that_cannot_be_read_stop_it_before_anything_starts(
    k2: Callable[..., Run], tmp_path: Path, command: str, trades: str, reason: str
) -> None:
    file = tmp_path / "trades.csv"
    file.write_text("1,2,3\n")
    places = {"file": str(file), "folder": str(tmp_path)}
    status, output, errors = k2(command, "--trades", trades.format(**places))
    assert (status, output) == (1, "")
    assert errors.startswith(f"error: {reason.format(**places)}")
    assert errors.count("\n") == 1
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["status", "--nope"],
        ["offload"],
        ["sql"],
        ["repair"],
        ["repair", "ohlcv_1m", "--accept-lake", "--restore-lake"],
        ["init", "--queue", "rabbit"],
        ["replay", "--count", "0"],
        ["replay", "--hours", "soon"],
    ],
    ids=" ".join,
)
def test_a_wrong_usage_points_to_the_help(k2: Callable[..., Run], arguments: list[str]) -> None:
    status, output, errors = k2(*arguments)
    assert (status, output) == (2, "")
    assert "-h' for help" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", ["demo", "up"])
def test_a_second_stack_is_refused(k2: Callable[..., Run], tmp_path: Path, command: str) -> None:
    directory = tmp_path / "state"
    with only_stack(directory):
        assert k2(command) == (
            1,
            "",
            f"error: a stack is already running on {directory}; stop it with 'make down'\n",
        )


@pytest.mark.parametrize("service", ["clickhouse", "postgres", "airflow"])
def test_a_port_in_use_is_named(
    k2: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    for name in ("clickhouse", "postgres", "airflow"):
        monkeypatch.setenv(f"K2_{name.upper()}_PORT", "0")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        monkeypatch.setenv(f"K2_{service.upper()}_PORT", str(port))
        status, output, errors = k2("up")
    assert (status, output) == (1, "")
    assert errors == (
        f"error: port {port} for {service} cannot be used (Address already in use); stop what uses "
        f"it, or set K2_{service.upper()}_PORT to another port (0 takes a free one)\n"
    )
    assert not (tmp_path / "state" / "postgres").exists()


@pytest.mark.parametrize(
    ("arguments", "service"),
    [(["sql", "select 1"], "ClickHouse"), (["status"], "ClickHouse"), (["audit"], "PostgreSQL")],
)
def test_a_service_that_does_not_answer_is_named(
    k2: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    service: str,
) -> None:
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    status, output, errors = k2(*arguments)
    assert (status, output) == (1, "")
    assert re.match(rf"error: .*{service}.* cannot be used: ", errors)
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", list(NOWHERE)[1:])
def test_an_incomplete_environment_is_named(
    k2: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable, value in NOWHERE.items():
        if variable != name:
            monkeypatch.setenv(variable, value)
    status, _, errors = k2("status")
    assert status == 1
    assert errors.startswith(f"error: {name} is not set; start the embedded stack with 'make up'")


def test_an_interrupt_ends_with_status_130(
    k2: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("k2.embedded.stack.stop", interrupted)
    status, output, errors = k2("down")
    assert (status, output) == (130, "")
    assert "Traceback" not in errors
