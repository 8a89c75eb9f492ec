"""`pytest bench`: what decides whether a bound is reached. The benchmarks are tried by `scripts/bench --quick`."""

from __future__ import annotations

import functools
import json

import pytest

from contest import in_turns
from figures import Figure, Row, at_least, at_most, exactly, percentile
from report import Outcome, Report


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(range(1, 101), 99) == 99
    assert percentile(range(1, 1001), 99.9) == 999
    assert percentile([7], 99.9) == 7
    assert percentile([5, 1], 100) == 5
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_the_median_round_is_judged_not_the_best() -> None:
    row = Row("x", "us", Figure.of([9, 30, 13]), must=at_most(12), aim=at_most(10))
    assert row.reached is False
    assert Row("x", "us", Figure.of([9, 30, 11]), must=at_most(12), aim=at_most(10)).reached is True
    assert Row("x", "us", Figure.of([9, 30, 11]), must=at_most(12), aim=at_most(10)).reached_aim is False


def test_a_ratio_is_judged_when_it_is_what_was_promised() -> None:
    row = Row("x", "s", Figure.of([110, 120]), Figure.of([100, 100]), "peer", at_most(1.15), None, "ratio")
    assert row.ratio == pytest.approx(1.15)
    assert row.ratio_spread == (1.1, 1.2)
    assert row.reached
    assert not Row("x", "s", Figure.of([120]), Figure.of([100]), "peer", at_most(1.15), None, "ratio").reached


def test_what_could_not_be_measured_is_not_reached() -> None:
    assert Row("x", "ms", Figure.of([1]), None, "peer", at_most(0.5), None, "ratio").reached is False
    assert Row("x", "ms", must=at_most(1)).reached is False
    assert Row("x", "ms", Figure.of([1])).reached is None


def test_bounds_have_both_directions() -> None:
    assert at_least(95).holds(95)
    assert not at_least(95).holds(94.9)
    assert exactly(1998).holds(1998)
    assert not exactly(1998).holds(1999)


def test_each_round_begins_with_another_contestant() -> None:
    order: list[str] = []

    def contestant(name: str) -> str:
        order.append(name)
        return name

    found = in_turns(3, {name: functools.partial(contestant, name) for name in "abc"}, lambda _: None)
    assert "".join(order) == "abcbcacab"
    assert found == {"a": ["a"] * 3, "b": ["b"] * 3, "c": ["c"] * 3}


def test_a_miss_and_a_broken_benchmark_are_printed_as_such() -> None:
    report = Report({"kernel": "Linux"}, ["not quiet"], {"rounds": 2})
    beside = Row("beside", "s", Figure.of([2]), Figure.of([4]), "peer")
    miss = Row("slow", "ms", Figure.of([3, 5]), must=at_most(1), aim=at_most(0.5), note="a | b\nc")
    report.outcomes = [Outcome("one", "One", rows=[miss, beside]), Outcome("two", "Two", broken="OSError: gone")]
    text = report.to_markdown()
    assert "| slow | 4 ms (3 to 5) | - | - | ≤ 1 ms | ≤ 0.5 ms | **no** |" in text
    assert "| beside | 2 s | peer: 4 s | 0.50 | - | - | - |" in text
    assert "0 of 1 bounds that must be reached are; 0 of 1 aims." in text
    assert "- slow: a \\| b c" in text
    assert "**Broken:** OSError: gone" in text
    assert "**not quiet**" in text
    assert report.broken == ["two"]
    kept = json.loads(json.dumps(report.to_json()))
    assert kept["benchmarks"][0]["rows"][0]["ours"]["rounds"] == [3, 5]
    assert kept["benchmarks"][0]["rows"][0]["reached"] is False
