"""Is the Iceberg table the one K2 wrote to, and does it still stand where K2 left it?

A table keeps its token twice: as a property, and in the summary of the snapshot that brought the
rows. A rollback moves the current snapshot and leaves the property, so the two disagree; a table
made anew has another UUID. Expiry takes old snapshots away, and compaction adds some without a
token: neither is a fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.errors import OffloadError
from k2.offload.cursor import parse_token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2.offload.watermark import Watermark
    from k2.registry import Table

TOKEN = "k2.token"  # noqa: S105 - how far a table is offloaded, no secret
EPOCH = "k2.epoch"
BATCH = "k2.batch"
# k2.since.COLUMN: the token at which a column was added; rows up to it are null there.
SINCE = "k2.since."


class LakeChangedError(OffloadError):
    """The Iceberg table was rolled back or replaced behind K2's back."""


@dataclass(frozen=True)
class Lineage:
    """What the current snapshot and its ancestors say.

    `token` is that of the newest one that an offload committed. `complete` is false when expiry
    has taken the oldest ancestors away.
    """

    token: str | None
    complete: bool


@dataclass(frozen=True)
class LakeState:
    """Where an Iceberg table stands.

    `token` and `epoch` are its properties. `token_elsewhere`: a snapshot that the current one does
    not descend from carries the token.
    """

    table_uuid: str
    token: str | None
    epoch: int
    lineage: Lineage
    token_elsewhere: bool


def trace(ancestors: Iterable[tuple[str | None, bool]]) -> Lineage:
    """The lineage of some snapshots, newest first: the token of each, and whether it has a parent.

    It reads no further than to the first token.
    """
    complete = True
    for token, has_parent in ancestors:
        if token is not None:
            return Lineage(token, complete=True)
        complete = not has_parent
    return Lineage(None, complete)


def problem(table: Table, state: LakeState, known: Watermark | None = None) -> str | None:
    """What is wrong with a table, or None; `known` is what PostgreSQL remembers of it.

    PostgreSQL may have been made anew and know nothing: then only the table's own two records of
    the token are held against each other.
    """
    if known and known.table_uuid not in (None, state.table_uuid):
        return (
            f"the Iceberg table was replaced: K2 wrote to the one with UUID {known.table_uuid}, "
            f"this one has {state.table_uuid}"
        )
    lineage = state.lineage
    if lineage.token == state.token:
        if state.token is None and known and known.committed:
            return "the Iceberg table has lost its token, and no snapshot of it was offloaded"
        return None
    if state.token is None:
        return (
            "the Iceberg table has lost its token; its current snapshot stands at "
            f"{describe(table, lineage.token)}"
        )
    if lineage.token is None and not lineage.complete and not state.token_elsewhere:
        return None
    return (
        f"the Iceberg table was rolled back: K2 has offloaded it up to "
        f"{describe(table, state.token)}, its current snapshot stands at "
        f"{describe(table, lineage.token)}"
    )


def ways_out(table: Table) -> tuple[str, str]:
    """The two commands that repair a table, each with what it does."""
    return (
        f"'k2 repair {table.name} --restore-lake' sets it back to what K2 committed last",
        f"'k2 repair {table.name} --accept-lake' takes it as it is, and what comes after its "
        "current snapshot is offloaded again",
    )


def require_intact(table: Table, state: LakeState, known: Watermark) -> None:
    """Raise LakeChangedError, with the ways out, unless the table is as K2 left it."""
    found = problem(table, state, known)
    if found is not None:
        restore, accept = ways_out(table)
        raise LakeChangedError(
            f"{table.name}: {found}. Nothing was done. Choose: {restore}; or {accept}"
        )


def describe(table: Table, token: str | None) -> str:
    """A token in short, for people; also one that cannot be read."""
    if token is None:
        return "no offload"
    try:
        return parse_token(token, table.cursor).describe()
    except OffloadError:
        return f"an unreadable token ({token[:60]})"
