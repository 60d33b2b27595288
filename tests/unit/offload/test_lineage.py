"""What a table's snapshots say of it, and when that is a fault."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from k2.offload.cursor import Token, covered_by_both
from k2.offload.lineage import LakeState, Lineage, problem, trace
from k2.offload.watermark import Watermark
from k2.registry import registry

TABLE = registry().table("bronze_trades_kraken")
OLD = Token("kafka_offset", ((0, 9),)).to_json()
NEW = Token("kafka_offset", ((0, 19),)).to_json()
FRESH = LakeState("a", None, 0, Lineage(None, complete=True), token_elsewhere=False)
SOUND = LakeState("a", NEW, 1, Lineage(NEW, complete=True), token_elsewhere=False)
CUT = Lineage(None, complete=False)


@pytest.mark.parametrize(
    ("ancestors", "lineage"),
    [
        ([], Lineage(None, complete=True)),
        ([(None, False)], Lineage(None, complete=True)),
        ([(None, True), (None, True)], CUT),
        ([(None, True), ("t2", True), ("t1", False)], Lineage("t2", complete=True)),
        ([("t2", True)], Lineage("t2", complete=True)),
    ],
    ids=["no snapshot", "a foreign one", "expired before", "compacted", "expired behind it"],
)
def test_the_newest_token_counts_and_expiry_is_noticed(
    ancestors: list[tuple[str | None, bool]], lineage: Lineage
) -> None:
    assert trace(iter(ancestors)) == lineage


@pytest.mark.parametrize(
    ("state", "known"),
    [
        (FRESH, Watermark(None, None)),
        (FRESH, Watermark(None, None, "a")),
        (FRESH, Watermark("not committed", None, "a", committed=False)),
        (SOUND, Watermark(None, None)),
        (SOUND, Watermark(OLD, None, "a", committed=True)),
        (SOUND, Watermark("garbage", None)),
        (replace(SOUND, lineage=CUT), Watermark(NEW, None, "a", committed=True)),
    ],
)
def test_a_sound_table_has_no_problem_whatever_postgresql_says(
    state: LakeState, known: Watermark
) -> None:
    assert problem(TABLE, state, known) is None


@pytest.mark.parametrize(
    ("state", "known", "words"),
    [
        (SOUND, Watermark(NEW, None, "b"), "was replaced: .* UUID b, this one has a"),
        (FRESH, Watermark(OLD, None, "a", committed=True), "has lost its token, and no snapshot"),
        (replace(SOUND, token=None), None, "has lost its token; .* stands at offset 20"),
        (
            replace(SOUND, lineage=Lineage(OLD, complete=True)),
            None,
            "rolled back: .* up to offset 20 .* stands at offset 10",
        ),
        (replace(FRESH, token=NEW), None, "rolled back: .* stands at no offload"),
        (replace(SOUND, lineage=CUT, token_elsewhere=True), None, "rolled back"),
    ],
)
def test_a_fault_is_put_into_words(state: LakeState, known: Watermark | None, words: str) -> None:
    assert re.search(words, problem(TABLE, state, known) or "")


@pytest.mark.parametrize(
    ("left", "right", "both"),
    [
        (((0, 9), (1, 5)), ((0, 7), (1, 8)), ((0, 7), (1, 5))),
        (((0, 9),), ((0, 9), (1, 8)), ((0, 9),)),
        (((0, 9),), ((1, 8),), ()),
    ],
)
def test_what_two_tokens_cover_is_counted_by_log_partition(
    left: tuple[tuple[int, int], ...],
    right: tuple[tuple[int, int], ...],
    both: tuple[tuple[int, int], ...],
) -> None:
    first, second = Token("kafka_offset", left), Token("kafka_offset", right)
    assert covered_by_both(first, second) == Token("kafka_offset", both)
    assert covered_by_both(second, first) == Token("kafka_offset", both)


def test_of_two_times_the_earlier_covers_both() -> None:
    early, late = Token("version", ((5,),)), Token("version", ((6,),))
    assert covered_by_both(early, late) == covered_by_both(late, early) == early
