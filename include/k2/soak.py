"""The soak: many cycles of the medallion under random faults, then the audit of everything.

A cycle is a quarter of an hour by the clock of the data: its trades arrive, some late and some
twice, dbt builds Silver and Gold, every table is offloaded by a Spark job of its own. Meanwhile
drivers are killed at random points and engines are killed and started again. What failed is run
again, as Airflow's retries would, and nothing else is done about it.
"""

from __future__ import annotations

import itertools
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, get_args

from k2.clickhouse import connect
from k2.embedded.stack import restart_clickhouse, restart_postgres
from k2.errors import K2Error
from k2.ingest.messages import messages
from k2.ingest.replay import feed
from k2.ingest.simulator import simulate
from k2.jobs import offload_command
from k2.logs import get_logger
from k2.offload.audit import TableAudit, audit_table, require_equal
from k2.offload.faults import VARIABLE, Point
from k2.offload.watermark import DATABASE
from k2.registry import Layer
from k2.transform import TransformError, run_dbt

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from k2.embedded.stack import Stack
    from k2.ingest.simulation import Simulation
    from k2.ingest.trade import Trade
    from k2.registry import Registry, Table

CYCLE_MICROSECONDS = 15 * 60 * 1_000_000
ATTEMPTS = 5
LATE_SHARE, TWICE_SHARE = 0.02, 0.01
FAULT_SHARE = 0.3


@dataclass(frozen=True)
class SoakResult:
    """What the soak did and found. `trades` are distinct; `lost` and `duplicated` count rows."""

    cycles: int
    trades: int
    offloads: int
    kills: int
    rows: int
    lost: int
    duplicated: int
    seconds: float


@dataclass
class Tally:
    """What was fed, run and killed so far."""

    trades: set[tuple[str, str, int, int]] = field(default_factory=set)
    offloads: int = 0
    kills: int = 0


def require_empty(stack: Stack) -> None:
    """Every trade that is there in the end must be one of the soak's own.

    Raises:
        K2Error: some are there already.
    """
    clickhouse = stack.settings.clickhouse
    with connect(clickhouse, database="default") as client:
        filled = client.query(
            "select name from system.tables where database = {database:String} and total_rows > 0",
            parameters={"database": clickhouse.database},
        ).result_rows
    if filled:
        raise K2Error(
            f"{stack.directory} holds trades already, and a soak counts its own; "
            "remove the folder, or set K2_STATE to another one"
        )


def soak(
    stack: Stack,
    registry: Registry,
    simulation: Simulation,
    dice: random.Random,
    *,
    minutes: float,
    cycles: int,
    say: Callable[[str], None],
) -> SoakResult:
    """Run cycles until so many are done, or the minutes are over; then audit every table.

    Raises:
        K2Error: something failed more often than retries allow, or the audit differs.
    """
    started = time.monotonic()
    tally, done = Tally(), 0
    late: list[Trade] = []
    for arrived in _cycles(simulation, cycles):
        if time.monotonic() - started > minutes * 60:
            break
        last = done + 1 == cycles
        held_back = [not last and dice.random() < LATE_SHARE for _ in arrived]
        punctual = list(itertools.compress(arrived, (not held for held in held_back)))
        twice = [trade for trade in punctual if dice.random() < TWICE_SHARE]
        _feed(stack, registry, [*late, *punctual, *twice])
        late = list(itertools.compress(arrived, held_back))
        tally.trades |= {_identity(trade) for trade in arrived}
        _medallion(stack, registry, dice, tally)
        done += 1
        say(
            f"cycle {done}: {len(tally.trades):,} trades, {tally.kills} kills, "
            f"{time.monotonic() - started:.0f} s"
        )
    if late:
        _feed(stack, registry, late)
        _medallion(stack, registry, dice, tally, faults=False)
    audits = [audit_table(stack.settings, table) for table in registry.tables]
    require_equal(audits)
    return result_of(registry, audits, tally, done, time.monotonic() - started)


def _cycles(simulation: Simulation, cycles: int) -> Iterator[list[Trade]]:
    """The simulated trades, a list for each quarter of an hour of the data's clock."""
    simulation = replace(simulation, hours=cycles / 4)
    trades = simulate(simulation.seed, simulation.trades, simulation.start, simulation.hours)
    for _, arrived in itertools.groupby(trades, lambda t: t.timestamp_us // CYCLE_MICROSECONDS):
        yield list(arrived)


def _identity(trade: Trade) -> tuple[str, str, int, int]:
    return (trade.exchange, trade.symbol, trade.timestamp_us // 1000, trade.trade_id)


def _feed(stack: Stack, registry: Registry, trades: list[Trade]) -> None:
    with connect(stack.settings.clickhouse) as client:
        for exchange in registry.exchanges:
            own = [trade for trade in trades if trade.exchange == exchange.name]
            feed(
                client,
                registry,
                exchange.name,
                messages(exchange.name, own),
                conninfo=stack.settings.postgres.conninfo(DATABASE),
            )


def _medallion(
    stack: Stack, registry: Registry, dice: random.Random, tally: Tally, *, faults: bool = True
) -> None:
    """What the DAG does in one run, layer by layer."""
    for layer in Layer:
        if layer is not Layer.BRONZE:
            _build(stack, layer)
        tables = registry.layer(layer)
        chosen = {table.name: _random_fault(dice) for table in tables} if faults else {}
        with ThreadPoolExecutor(max_workers=2) as pool:
            outcomes = [
                pool.submit(_offload, stack, table, chosen.get(table.name)) for table in tables
            ]
            if faults and dice.random() < FAULT_SHARE / 3:
                tally.kills += 1
                dice.choice((restart_clickhouse, restart_postgres))(stack)
        for table, outcome in zip(tables, outcomes, strict=True):
            tally.offloads += 1
            tally.kills += chosen.get(table.name) is not None
            if not outcome.result():
                _retry(stack, table, tally)
        require_equal([audit_table(stack.settings, table, only_new=True) for table in tables])


def _random_fault(dice: random.Random) -> Point | None:
    return dice.choice(get_args(Point)) if dice.random() < FAULT_SHARE else None


def _build(stack: Stack, layer: Layer) -> None:
    arguments = ["build", "--quiet", "--select", layer.value]
    arguments += ["--exclude-resource-type", "unit_test"]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            run_dbt(arguments, stack.settings, state=stack.directory / "dbt")
        except TransformError:
            if attempt == ATTEMPTS:
                raise
        else:
            return


def _retry(stack: Stack, table: Table, tally: Tally) -> None:
    for _ in range(ATTEMPTS):
        tally.offloads += 1
        if _offload(stack, table, None):
            return
    raise K2Error(f"{table.name}: its offload failed {ATTEMPTS} times; see {_log(stack)}")


def _offload(stack: Stack, table: Table, fault: Point | None) -> bool:
    """One Spark job in a session of its own; whether it ended well."""
    environment = stack.environment
    if fault is not None:
        environment[VARIABLE] = f"{fault}:kill"
    with _log(stack).open("ab") as log:
        done = subprocess.run(
            offload_command(table.name, cores=1),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            check=False,
        )
    return done.returncode == 0


def _log(stack: Stack) -> Path:
    return stack.directory / "logs" / "soak-offloads.log"


def result_of(
    registry: Registry, audits: list[TableAudit], tally: Tally, cycles: int, seconds: float
) -> SoakResult:
    """Silver against the trades that were fed; every table against its twin in Iceberg."""
    silver = next(a for a in audits if registry.table(a.table).layer is Layer.SILVER)
    sides = [(audit.clickhouse_rows + audit.waiting_rows, audit.iceberg_rows) for audit in audits]
    sides.append((len(tally.trades), silver.iceberg_rows))
    get_logger().info("soaked", cycles=cycles, seconds=round(seconds))
    return SoakResult(
        cycles=cycles,
        trades=len(tally.trades),
        offloads=tally.offloads,
        kills=tally.kills,
        rows=sum(audit.iceberg_rows for audit in audits),
        lost=sum(max(0, expected - found) for expected, found in sides),
        duplicated=sum(max(0, found - expected) for expected, found in sides),
        seconds=round(seconds, 1),
    )
