"""What a replay of dead letters comes to, without an engine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from k2.ingest.dead_letter_plan import Letter, Outcome, ReplayPlan, Settled, plan_replay

HERE, THERE = ("topic", 0, 17), ("topic", 1, 4)


def whole(place: tuple[str, int, int] = HERE) -> Letter:
    return Letter(place, "type is not update or snapshot: x: y")


def of_trade(number: int) -> Letter:
    return Letter(HERE, f"trade {number} of 3: qty is not positive: 0")


def test_what_is_still_wrong_stays_a_dead_letter() -> None:
    outcomes = [Outcome(HERE, 0, "worded otherwise"), Outcome(THERE, 0, "is not valid JSON")]
    assert plan_replay([whole(), whole(THERE)], outcomes, 5) == ReplayPlan((), ())


def test_each_settled_message_takes_the_next_offset() -> None:
    outcomes = [Outcome(HERE, 1, ""), Outcome(THERE, 1, "")]
    plan = plan_replay([whole(), whole(THERE)], outcomes, 5)
    assert plan == ReplayPlan(
        (Settled(whole(), 5, has_trades=True), Settled(whole(THERE), 6, has_trades=True)), ()
    )
    assert plan.offsets == (5, 6)


def test_of_a_message_that_was_partly_wrong_only_those_trades_count() -> None:
    outcomes = [Outcome(HERE, 1, ""), Outcome(HERE, 2, ""), Outcome(HERE, 3, "still wrong")]
    plan = plan_replay([of_trade(2), of_trade(3)], outcomes, 0)
    assert plan == ReplayPlan((Settled(of_trade(2), 0, has_trades=True),), ())


def test_a_trade_whose_message_is_now_wrong_as_a_whole_stays() -> None:
    assert plan_replay([of_trade(2)], [Outcome(HERE, 0, "channel is missing")], 0).settled == ()


def test_a_message_that_is_nothing_any_more_is_settled_without_trades() -> None:
    plan = plan_replay([whole(), of_trade(2)], [], 9)
    assert [one.has_trades for one in plan.settled] == [False, False]
    assert plan.offsets == ()


def test_wrong_trades_of_a_message_that_was_wrong_as_a_whole_are_found() -> None:
    wrong = Outcome(HERE, 2, "trade 2 of 2: price is missing", "the message")
    plan = plan_replay([whole()], [Outcome(HERE, 1, ""), wrong], 0)
    assert plan == ReplayPlan((Settled(whole(), 0, has_trades=True),), (wrong,))


reasons = st.dictionaries(st.integers(1, 6), st.sampled_from(["", "wrong"]), max_size=6)


@given(reasons, reasons)
def test_a_trade_goes_to_bronze_once_whichever_fix_comes_when(
    first: dict[int, str], second: dict[int, str]
) -> None:
    """A trade that once was right is never inserted again, and none that is right is left out."""
    letters = [
        Letter(HERE, f"trade {number} of 6: x") for number, reason in first.items() if reason
    ]
    outcomes = [Outcome(HERE, number, second.get(number, "")) for number in range(1, 7)]
    plan = plan_replay(letters, outcomes, 0)
    inserted = [one.letter.trade_number for one in plan.settled if one.has_trades]
    assert sorted(inserted) == sorted(
        number for number, reason in first.items() if reason and not second.get(number)
    )
