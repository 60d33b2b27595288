"""The embedded ClickHouse server: the HTTP interface, its life and its limits."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from k2.embedded import clickhouse
from k2.errors import StackError

from .conftest import PASSWORD, USER, ClickHouse, free_port, run_clickhouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BASIC = {"Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}


def ask(
    server: ClickHouse,
    method: str = "POST",
    body: bytes | Iterator[bytes] = b"",
    headers: dict[str, str] = BASIC,
    path: str = "/",
    **parameters: str,
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    target = f"{path}?{urlencode(parameters)}" if parameters else path
    connection.request(method, target, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_ping_needs_no_password(server: ClickHouse) -> None:
    assert ask(server, "GET", path="/ping", headers={})[1] == b"Ok.\n"
    assert ask(server, "GET", headers={})[1] == b"Ok.\n"


def test_the_query_may_be_in_the_url_the_body_or_both(server: ClickHouse) -> None:
    assert ask(server, "GET", query="select 1")[1] == b"1\n"
    assert ask(server, body=b"select 2")[1] == b"2\n"
    assert ask(server, query="select 3", body=b"+ 4")[1] == b"7\n"


def test_a_url_insert_takes_its_rows_from_the_body(server: ClickHouse, client: Any) -> None:
    client.command("create table t (a UInt64) engine = MergeTree order by a")
    insert = "insert into test.t format TSV"
    for body in (b"1\n2\n", iter([b"3\n", b"4", b"5\n"])):
        assert ask(server, query=insert, body=body)[0].status == 200
    assert ask(server, body=b"insert into test.t values (6), (7)")[0].status == 200
    packed = {**BASIC, "Content-Encoding": "gzip"}
    assert ask(server, query=insert, body=gzip.compress(b"8\n"), headers=packed)[0].status == 200
    assert client.command("select arraySort(groupArray(a)) from t") == "[1,2,3,6,7,8,45]"


def test_an_insert_that_a_view_or_a_constraint_refuses_is_an_error(
    server: ClickHouse, client: Any
) -> None:
    client.command("create table queue (a UInt8) engine = Null")
    client.command(
        "create table target (a UInt8, constraint small check a < 9) engine = MergeTree order by a"
    )
    client.command(
        "create materialized view v to target as"
        " select a + throwIf(a = 5, 'five is refused') as a from queue"
    )
    for bad, reason in (([5], "five is refused"), ([9], "Constraint")):
        with pytest.raises(DatabaseError, match=reason):
            client.insert("queue", [[1], bad], column_names=["a"])
        response, text = ask(server, body=b"insert into test.queue values (1), (%d)" % bad[0])
        assert response.status == 500
        assert reason in text.decode()
    client.insert("queue", [[7]], column_names=["a"])
    assert client.query("select a from target").result_rows == [(7,)]


def test_an_insert_whose_client_goes_away_leaves_nothing(server: ClickHouse, client: Any) -> None:
    client.command("create table t (a UInt64) engine = MergeTree order by a")
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.putrequest("POST", "/?query=insert+into+test.t+format+TSV")
    for name, value in {**BASIC, "Content-Length": "1000000"}.items():
        connection.putheader(name, value)
    connection.endheaders(b"1\n" * 100_000)
    connection.close()
    with server.client() as other:
        running = "select count() from system.processes where query ilike 'insert%'"
        deadline = time.monotonic() + 60
        while other.command(running) != 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert client.command("select count() from t") == 0


def test_an_insert_may_have_settings(server: ClickHouse, client: Any) -> None:
    client.command("create table t (a UInt64) engine = MergeTree order by a")
    for clause in ("", " settings async_insert = 0"):
        for form in (f"{clause} format TSV\n1\n", f"{clause} values (2)"):
            assert ask(server, body=f"insert into test.t (a){form}".encode())[0].status == 200
    assert client.command("select arraySort(groupArray(a)) from t") == "[1,1,2,2]"


def test_answers_tell_format_time_zone_and_what_was_read(server: ClickHouse) -> None:
    response, body = ask(server, body=b"select count() from numbers(10)", query_id="my-query")
    assert body == b"10\n"
    assert response.headers["X-ClickHouse-Format"] == "TabSeparated"
    assert response.headers["X-ClickHouse-Timezone"] == "UTC"
    assert response.headers["X-ClickHouse-Query-Id"] == "my-query"
    assert '"read_rows": "10"' in response.headers["X-ClickHouse-Summary"]
    assert ask(server, body=b"select timezone(), serverTimezone()")[1] == b"UTC\tUTC\n"


@pytest.mark.parametrize(
    ("headers", "parameters", "status", "code"),
    [
        ({}, {}, 401, "194"),
        ({"X-ClickHouse-User": USER, "X-ClickHouse-Key": "wrong"}, {}, 403, "516"),
        ({"X-ClickHouse-User": "other", "X-ClickHouse-Key": PASSWORD}, {}, 403, "516"),
        ({"X-ClickHouse-User": USER, "X-ClickHouse-Key": PASSWORD}, {}, 200, None),
        ({}, {"user": USER, "password": PASSWORD}, 200, None),
    ],
)
def test_only_the_user_gets_in(
    server: ClickHouse,
    headers: dict[str, str],
    parameters: dict[str, str],
    status: int,
    code: str | None,
) -> None:
    response, _ = ask(server, body=b"select 1", headers=headers, **parameters)
    assert response.status == status
    assert response.headers["X-ClickHouse-Exception-Code"] == code


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (b"select * from nope", 404),
        (b"select 1 +", 400),
        (b"select throwIf(1)", 500),
        (b"insert into nope format CSV\n1", 404),
    ],
)
def test_errors_have_a_status_and_one_message(
    server: ClickHouse, query: bytes, status: int
) -> None:
    response, body = ask(server, body=query)
    assert response.status == status
    code = response.headers["X-ClickHouse-Exception-Code"]
    assert body.decode().startswith(f"Code: {code}. DB::Exception: ")


def test_get_changes_nothing(server: ClickHouse) -> None:
    assert ask(server, "GET", query="create database by_get")[0].status == 500
    assert ask(server, body=b"exists database by_get")[1] == b"0\n"


def test_sessions_are_found_locked_and_forgotten(server: ClickHouse) -> None:
    mine = {"session_id": "mine"}
    assert ask(server, body=b"select 1", session_check="1", **mine)[0].status == 404
    ask(server, body=b"create temporary table x (a Int8)", session_timeout="0", **mine)
    slow = threading.Thread(
        target=ask,
        args=(server,),
        kwargs={"body": b"select sleepEachRow(1) from numbers(3)", "session_id": "busy"},
    )
    slow.start()
    listed = b"select count() from system.processes where query like '%sleepEachRow(1)%'"
    while ask(server, body=listed)[1] != b"2\n":
        time.sleep(0.01)
    busy = ask(server, body=b"select 1", session_id="busy")[0]
    assert busy.headers["X-ClickHouse-Exception-Code"] == "373"
    slow.join()
    time.sleep(0.01)
    assert ask(server, body=b"select * from x", **mine)[0].status == 404


SMALL_BLOCKS = {
    "max_threads": 1,
    "max_insert_block_size": 50_000,
    "min_insert_block_size_rows": 50_000,
    "output_format_parallel_formatting": 0,
    "input_format_parallel_parsing": 0,
}


def test_large_inserts_and_results_are_not_held_in_memory(server: ClickHouse, client: Any) -> None:
    client.command("create table t (a UInt64, s String) engine = Null")
    rows = b"".join(b"%d,%s\n" % (n, b"x" * 100) for n in range(100_000))
    query = "select number, repeat('x', 100) as s from numbers(4000000)"

    def move(times: int) -> int:
        server.peak_memory()
        body = (rows for _ in range(times))
        client.raw_insert("t", insert_block=body, fmt="CSV", settings=SMALL_BLOCKS)
        limited = f"{query} limit {100_000 * times}"
        with client.raw_stream(limited, fmt="JSON", settings=SMALL_BLOCKS) as stream:
            size = sum(map(len, iter(lambda: stream.read(1 << 20), b"")))
        assert size > times * len(rows)
        return server.peak_memory()

    assert move(40) - move(2) < 10 * len(rows)


def test_a_client_that_goes_away_ends_its_query(server: ClickHouse, client: Any) -> None:
    with client.raw_stream("select number from numbers(1000000000000)", fmt="TSV") as stream:
        stream.read(1000)
    with server.client() as other:
        query = "select countIf(query like '%from numbers(1000%') from system.processes"
        deadline = time.monotonic() + 60
        while other.command(query) != 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_clients_work_side_by_side(server: ClickHouse, client: Any) -> None:
    client.command("create table t (a UInt64) engine = MergeTree order by a")

    def insert() -> None:
        with server.client(database="test") as mine:
            for _ in range(10):
                mine.insert("t", [[n] for n in range(100)], column_names=["a"])
                mine.query("select sum(a) from t")

    threads = [threading.Thread(target=insert) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.command("select count(), sum(a) from t") == [str(6000), str(60 * 4950)]


def test_a_killed_server_starts_again_with_whole_blocks(
    throwaway: Callable[[], ClickHouse],
) -> None:
    first = throwaway()
    with first.client() as client:
        client.command("create table t (a UInt64) engine = MergeTree order by a")
        client.command("create table copy (a UInt64) engine = MergeTree order by a")
        client.command("create materialized view mv to copy as select a from t")

    written = 0

    def insert() -> None:
        nonlocal written
        with first.client(query_retries=0) as mine, contextlib.suppress(OperationalError):
            while True:
                mine.insert("t", [[n] for n in range(1000)], column_names=["a"])
                written += 1

    thread = threading.Thread(target=insert)
    thread.start()
    while written < 20:
        time.sleep(0.01)
    first.process.kill()
    first.process.wait()
    thread.join()
    with throwaway().client() as client:
        count = client.query("select count() from t").result_rows[0][0]
        assert count % 1000 == 0
        assert count >= 1000 * written


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_lets_running_queries_end(
    throwaway: Callable[[], ClickHouse], stop: signal.Signals
) -> None:
    running = throwaway()
    answers: list[bytes] = []
    query = b"select sum(sleepEachRow(0.5)) from numbers(3)"
    thread = threading.Thread(target=lambda: answers.append(ask(running, body=query)[1]))
    thread.start()
    listed = b"select count() from system.processes where query like '%sum(sleep%'"
    while ask(running, body=listed)[1] != b"2\n":
        time.sleep(0.01)
    running.process.send_signal(stop)
    assert running.process.wait(60) == 0
    thread.join()
    assert answers == [b"0\n"]


def test_one_server_per_directory_and_port(server: ClickHouse, tmp_path: Path) -> None:
    log = tmp_path / "log"
    second = clickhouse.start(server.data, log, free_port(), USER, PASSWORD)
    with pytest.raises(StackError, match="Another ClickHouse server works on"):
        clickhouse.wait_until_ready(second, free_port(), log)
    third = clickhouse.start(tmp_path / "data", log, server.port, USER, PASSWORD)
    assert third.wait(60) == 1
    assert "Address already in use" in log.read_text().splitlines()[-1]
    assert len(log.read_text().splitlines()) == 2


def test_a_missing_password_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "k2.embedded.clickhouse", "--port", "0"]
    answer = subprocess.run(
        [*command, "--data", str(tmp_path)],
        env={"PYTHONPATH": str(Path(clickhouse.__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stderr == "Set K2_CLICKHOUSE_PASSWORD to the password of default.\n"


def test_a_restarted_server_knows_its_tables(tmp_path: Path) -> None:
    for expected in (b"", b"t\n"):
        running = run_clickhouse(tmp_path)
        assert ask(running, body=b"show tables")[1] == expected
        ask(running, body=b"create table if not exists t (a Int8) engine = MergeTree order by a")
        running.process.terminate()
        assert running.process.wait(60) == 0
