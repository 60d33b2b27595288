"""What an operator decides when an Iceberg table is not as K2 left it: restore it, or accept it.

Nothing here happens by itself. Both ways hold the table's claim, fence older drivers, and can be
repeated after a crash: Iceberg is changed first, PostgreSQL's copy after it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table.snapshots import ancestors_of
from pyiceberg.table.update.snapshot import ManageSnapshots

from k2.errors import OffloadError
from k2.offload import watermark
from k2.offload.catalog import load_table, open_catalog
from k2.offload.claim import claim
from k2.offload.cursor import Token, covered_by_both, parse_token
from k2.offload.lineage import (
    EPOCH,
    SINCE,
    TOKEN,
    LakeState,
    describe,
    problem,
    trace,
    ways_out,
)
from k2.offload.storage_errors import told_in_a_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pyiceberg.table import Table as IcebergTable
    from pyiceberg.table.snapshots import Snapshot

    from k2.offload.claim import Claim
    from k2.offload.watermark import Watermark
    from k2.registry import Table
    from k2.settings import Settings


class RepairError(OffloadError):
    """A repair that cannot be made; nothing was changed."""


@dataclass(frozen=True)
class Examination:
    """What is known of a table: rows of (what, in Iceberg, in PostgreSQL), and what can be done."""

    rows: list[tuple[str, str, str]]
    advice: list[str]


@dataclass(frozen=True)
class _Patient:
    """A claimed table, and what is wrong with it."""

    table: Table
    lake: IcebergTable
    state: LakeState
    known: Watermark
    claim: Claim


def examine(settings: Settings, table: Table) -> Examination:
    """What Iceberg and PostgreSQL say of a table; nothing is changed."""
    lake = load_table(open_catalog(settings), settings, table.name)
    with watermark.connect(settings.postgres) as connection:
        known = watermark.read_watermark(connection, table.name)
    state = lake_state(lake)
    snapshot = lake.current_snapshot()
    lineage = describe(table, state.lineage.token)
    if state.lineage.token is None and not state.lineage.complete:
        lineage = "an expired snapshot"
    rows = [
        ("token", describe(table, state.token), describe(table, known.token)),
        ("current snapshot stands at", lineage, "-"),
        ("current snapshot", str(snapshot.snapshot_id) if snapshot else "-", "-"),
        ("table UUID", state.table_uuid, known.table_uuid or "-"),
    ]
    found = problem(table, state, known)
    if found is None:
        return Examination(rows, ["nothing to repair"])
    return Examination(rows, [f"{table.name}: {found}", *ways_out(table)])


def accept_lake(settings: Settings, table: Table) -> str:
    """Take the token from the current snapshot's lineage; what was done, in words.

    Rows after it are offloaded again by the next run, as far as ClickHouse still has them.

    Raises:
        RepairError: the lineage does not say how far the table is offloaded.
    """
    with _claimed(settings, table) as patient:
        if patient is None:
            return "nothing to repair"
        lineage = patient.state.lineage
        if lineage.token is None and not lineage.complete:
            raise RepairError(
                f"{table.name}: the snapshot that would say how far the table is offloaded has "
                "expired, so rows could come twice; use --restore-lake, or see 'Lake changed' in "
                "docs/runbook.md"
            )
        accepted = None if lineage.token is None else parse_token(lineage.token, table.cursor)
        _commit(patient, lineage.token, _columns_since(patient, accepted))
        return f"{table.name} goes on from {describe(table, lineage.token)}"


def restore_lake(settings: Settings, table: Table) -> str:
    """Set the table back to what K2 committed last; what was done, in words.

    That is its token; when it has lost it, PostgreSQL's copy; without one, that of its newest
    snapshot. The branch main is set to the snapshot that carries the token, unless the current one
    descends from it.

    Raises:
        RepairError: this is another table, or no snapshot carries the token any more.
    """
    with _claimed(settings, table) as patient:
        if patient is None:
            return "nothing to repair"
        state, known = patient.state, patient.known
        if known.table_uuid not in (None, state.table_uuid):
            raise RepairError(
                f"{table.name}: this is not the table that K2 wrote to, so there is nothing to set "
                "it back to; register the old one under its name again ('Lake changed' in "
                "docs/runbook.md), or use --accept-lake"
            )
        token = state.token or known.token or state.lineage.token
        carrier = _carrier(patient.lake, token)
        expired = state.lineage.token is None and not state.lineage.complete and carrier is None
        if state.lineage.token == token or (state.token is None and expired):
            _commit(patient, token, {})
            return f"{table.name} has its token back: {describe(table, token)}"
        if carrier is None:
            raise RepairError(
                f"{table.name}: no snapshot carries {describe(table, token)} any more, it has "
                f"expired; only {ways_out(table)[1]}"
            )
        _commit(patient, token, {}, carrier)
        return f"{table.name} is back at {describe(table, token)}, snapshot {carrier.snapshot_id}"


def lake_state(lake: IcebergTable) -> LakeState:
    """Where an Iceberg table stands, read without a JVM."""
    token = lake.properties.get(TOKEN)
    lineage = trace(
        (_token_of(snapshot), snapshot.parent_snapshot_id is not None)
        for snapshot in ancestors_of(lake.current_snapshot(), lake.metadata)
    )
    return LakeState(
        table_uuid=str(lake.metadata.table_uuid),
        token=token,
        epoch=int(lake.properties.get(EPOCH) or 0),
        lineage=lineage,
        token_elsewhere=token is not None
        and lineage.token is None
        and _carrier(lake, token) is not None,
    )


@contextmanager
def _claimed(settings: Settings, table: Table) -> Iterator[_Patient | None]:
    """The table under its claim, or None when nothing is wrong with it.

    Raises:
        ClaimHeldError: an offload of it is going on.
        RepairError: another program committed meanwhile.
    """
    with claim(settings.postgres, table.name) as held, told_in_a_line(settings.lake):
        lake = load_table(open_catalog(settings), settings, table.name)
        state, known = lake_state(lake), held.read()
        held.outrun(state.epoch)
        try:
            broken = problem(table, state, known) is not None
            yield _Patient(table, lake, state, known, held) if broken else None
        except CommitFailedException as error:
            raise RepairError(
                f"{table.name}: another program committed meanwhile, nothing was changed; look at "
                f"it again with 'k2 repair {table.name}'"
            ) from error


def _commit(
    patient: _Patient,
    token: str | None,
    since: Mapping[str, str | None],
    snapshot: Snapshot | None = None,
) -> None:
    """One Iceberg commit of token, fence, column properties and current snapshot; then its copy."""
    wanted = {TOKEN: token, EPOCH: str(patient.claim.epoch), **since}
    with patient.lake.transaction() as transaction:
        if snapshot is not None:
            ManageSnapshots(transaction).set_current_snapshot(snapshot.snapshot_id).commit()
        transaction.set_properties({name: text for name, text in wanted.items() if text})
        transaction.remove_properties(
            *(name for name, text in wanted.items() if not text and name in patient.lake.properties)
        )
    patient.claim.set_token(token, patient.state.table_uuid)


def _columns_since(patient: _Patient, accepted: Token | None) -> dict[str, str | None]:
    """The tokens as of which columns were added: none reaches beyond what the table holds."""
    cursor = patient.table.cursor
    return {
        name: covered_by_both(parse_token(text, cursor), accepted).to_json() if accepted else None
        for name, text in patient.lake.properties.items()
        if name.startswith(SINCE)
    }


def _carrier(lake: IcebergTable, token: str | None) -> Snapshot | None:
    """The newest snapshot that carries a token."""
    carriers = [snapshot for snapshot in lake.snapshots() if _token_of(snapshot) == token]
    return carriers[-1] if carriers and token is not None else None


def _token_of(snapshot: Snapshot) -> str | None:
    return snapshot.summary.additional_properties.get(TOKEN) if snapshot.summary else None
