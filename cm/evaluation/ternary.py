"""Ternary search: the least value of a function on 0, ..., n - 1 that falls to a single minimum and then rises.

The function is evaluated at two places that divide the interval in three; the third beyond the larger value cannot hold
the minimum. At most three places remain, which are all evaluated, so that either end of the interval can be the answer.
The answer is the least of all values that were computed. (The search of the official code keeps the interval but
returns one of its inner places, which need not be the least, and none at all for fewer than four places.)

If the function has several minima, the answer need not be the least of them, but both its neighbours are larger: they
are evaluated as well. `violations` lists what was seen of the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from cm.errors import UserError


def minimize(function: Callable[[int], float], count: int) -> int:
    """The place in 0, ..., `count` - 1 with the least value; the function is called once for each place that it needs.

    Raises UserError for no places at all.
    """
    if count < 1:
        raise UserError("the search interval is empty")
    known: dict[int, float] = {}

    def value(place: int) -> float:
        if place not in known:
            known[place] = function(place)
        return known[place]

    low, high = 0, count - 1
    while high - low > 2:
        third = (high - low) // 3
        left, right = low + third, high - third
        if value(left) <= value(right):
            high = right - 1
        else:
            low = left + 1
    for place in range(low, high + 1):
        value(place)
    return _descend(value, known, count)


def _descend(value: Callable[[int], float], known: Mapping[int, float], count: int) -> int:
    """The place of the least known value, after its neighbours have been evaluated, and theirs if they are smaller."""
    while True:
        best = min(known, key=lambda place: (known[place], place))
        for neighbour in (best - 1, best + 1):
            if 0 <= neighbour < count:
                value(neighbour)
        if known[best] == min(known.values()):
            return best


def violations(known: Mapping[int, float]) -> list[tuple[int, int]]:
    """Pairs of places, one after the other away from the least value, of which the farther has the smaller value.

    `known`: from a place to its value. A function with a single minimum has none.
    """
    best = min(known, key=lambda place: (known[place], place))
    places = sorted(known)
    middle = places.index(best)
    pairs = [*itertools.pairwise(places[middle::-1]), *itertools.pairwise(places[middle:])]
    return [(near, far) for near, far in pairs if known[far] < known[near]]


def most_evaluations(count: int) -> int:
    """The most places of `count` that are evaluated of a function with a single minimum."""
    if count <= 3:
        return count
    third = (count - 1) // 3
    return min(count, 2 + most_evaluations(count - third - 1))
