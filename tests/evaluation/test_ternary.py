"""Ternary search against exhaustive search."""

from __future__ import annotations

import math
import random

import pytest

from cm.errors import UserError
from cm.evaluation.ternary import minimize, most_evaluations, violations

CASES = [(count, best) for count in (*range(1, 12), 18, 40, 151) for best in {0, 1, count // 3, count // 2, count - 1}]


def unimodal(count: int, best: int, seed: int) -> list[float]:
    """Random values that fall to the place `best` and then rise, more steeply on one side than on the other."""
    steps = random.Random(seed)
    values = [0.0] * count
    for place in range(best + 1, count):
        values[place] = values[place - 1] + steps.uniform(0.01, 1)
    for place in range(best - 1, -1, -1):
        values[place] = values[place + 1] + steps.uniform(0.01, 30)
    return values


def search(values: list[float]) -> tuple[int, dict[int, float]]:
    """What the search finds, and what it evaluated; each place only once."""
    seen: dict[int, float] = {}

    def function(place: int) -> float:
        assert place not in seen
        seen[place] = values[place]
        return values[place]

    return minimize(function, len(values)), seen


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("count", "best"), [case for case in CASES if case[1] < case[0]])
def test_the_least_value_is_found_as_by_exhaustive_search(count, best, seed):
    values = unimodal(count, best, seed)
    found, seen = search(values)
    assert found == best == min(range(count), key=values.__getitem__)
    assert len(seen) <= most_evaluations(count) <= count
    assert not violations(seen)


def test_far_fewer_evaluations_than_places():
    assert most_evaluations(18) == 11
    assert most_evaluations(1000) < 5 * math.log(1000)


@pytest.mark.parametrize("seed", range(40))
def test_with_several_minima_the_answer_is_the_least_value_seen_and_both_neighbours_are_larger(seed):
    values = [random.Random(seed * 100 + place).random() for place in range(30)]
    found, seen = search(values)
    assert values[found] == min(seen.values())
    assert all(seen[place] > values[found] for place in (found - 1, found + 1) if 0 <= place < 30)


def test_several_minima_are_reported():
    values = [9.0, 4.0, 8.0, 7.0, 6.0, 5.0, 1.0, 2.0, 3.0]
    assert violations(dict(enumerate(values))) == [(2, 1)]
    assert violations({6: 1.0, 0: 9.0, 8: 3.0}) == []
    assert violations({6: 1.0, 7: 2.0, 8: 1.5}) == [(7, 8)]


def test_places_of_equal_values_are_no_violation():
    assert search([2.0, 2.0, 2.0, 2.0, 2.0, 2.0])[0] in range(6)
    assert violations(dict.fromkeys(range(4), 2.0)) == []


def test_an_empty_interval_is_refused():
    with pytest.raises(UserError, match=r"^the search interval is empty$"):
        minimize(float, 0)
