"""Taking turns: every side comes first once, the first round does not count, ratios pair the rounds."""

import time

import pytest

from panollava.bench.turns import Side, check_rounds, quartiles, ratios, time_in_turns


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = time_in_turns(sides, 5)
    assert "".join(calls) == "abcbcacababcbcacab"
    assert [len(times[name]) for name in "abc"] == [5, 5, 5]


def test_a_quick_side_repeats_its_work_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def side(milliseconds: float) -> Side:
        return lambda: now.__setitem__(0, now[0] + milliseconds / 1000)

    times = time_in_turns({"quick": side(200), "slow": side(1500)}, 2, turn_ms=1000)
    assert times == {"quick": pytest.approx([200, 200]), "slow": pytest.approx([1500, 1500])}
    assert now[0] == pytest.approx(0.2 + 1.5 + 2 * (5 * 0.2 + 1.5))


def test_quartiles_are_those_of_the_values() -> None:
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}


def test_ratios_are_of_rounds_and_not_of_medians() -> None:
    assert ratios([2.0, 30.0, 8.0], [1.0, 10.0, 2.0])["median"] == 3.0


def test_one_round_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds is 1; a spread takes at least 2"):
        check_rounds(1)
