"""The greedy search for time points against exhaustive search, and what it keeps."""

from __future__ import annotations

import itertools
import json
import math

import pytest

from cm.config import parse_sampler
from cm.config.searches import Evaluation
from cm.diffusion.noise import KarrasNoise
from cm.errors import UserError
from cm.evaluation import searching

NOISE = KarrasNoise()
BEST = (5.0, 0.8, 0.07)  # the best time points of the cheap function


def cheap(times) -> Evaluation:
    """An FID with one minimum as a function of the last time, given the times before it."""
    distances = [abs(math.log(time / best)) for time, best in zip(times, BEST, strict=False)]
    fid = 10 / (1 + len(times)) + sum(distances)
    return Evaluation(times[-1], fid, fid - 0.01, fid + 0.01)


def exhaustive(sampler) -> list[float]:
    """Every candidate of every point is tried, one point after the other."""
    times: list[float] = []
    for _ in range(sampler.steps - 1):
        candidates = sampler.candidates(NOISE, times)
        if candidates:
            times.append(min(candidates, key=lambda time: cheap((*times, time)).fid))
    return times


@pytest.mark.parametrize("interval", ["", "high~3.0,", "high~3.0,low~0.1,", "low~7.0,"])
@pytest.mark.parametrize("points", [5, 18, 41, 151])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_the_search_finds_what_exhaustive_search_finds(steps, points, interval):
    """Also where the best time lies beyond an end of the interval, which is then the answer."""
    sampler = parse_sampler(f"search,{interval}points~{points},steps~{steps}")
    wanted = exhaustive(sampler)
    found = searching.search(cheap, sampler, NOISE, ())
    assert [one.time for one in found] == wanted
    assert all(a > b for a, b in itertools.pairwise(wanted))
    assert not any(one.violations for one in found)
    for one in found:
        times = [evaluation.time for evaluation in one.evaluations]
        assert times == sorted(times, reverse=True)
        ends = (sampler.candidates(NOISE, one.fixed)[0], sampler.candidates(NOISE, one.fixed)[-1])
        assert one.at_end == (one.time in ends)


def test_the_candidates_are_those_of_the_official_code_and_both_ends():
    sampler = parse_sampler("search,points~18,steps~2")
    times = sampler.candidates(NOISE, ())
    assert (times[0], times[11], times[-1], len(times)) == (80.0, 0.585348, 0.002, 18)
    assert sampler.candidates(NOISE, (0.585348,)) == times[12:]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("search,high~1.0,low~1.0,steps~2", "low 1 must be below high 1"),
        ("search,high~0.5,low~2.0,steps~2", "low 2 must be below high 0.5"),
    ],
)
def test_an_empty_interval_is_refused_with_the_name(name, message):
    with pytest.raises(UserError, match=f"^sampler '{name}': the search interval is empty: {message}$"):
        parse_sampler(name)


def test_an_interval_without_a_candidate_is_refused_before_anything_is_evaluated():
    sampler = parse_sampler("search,high~79.0,low~60.0,points~5,steps~2")
    with pytest.raises(UserError, match=r"^the search interval is empty: none of the 5 times from 80 to 0\.002 "):
        searching.search(lambda times: pytest.fail("evaluated"), sampler, NOISE, ())


def test_a_search_ends_at_its_lower_end():
    sampler = parse_sampler("search,low~7.0,points~18,steps~9")
    found = searching.search(cheap, sampler, NOISE, ())
    assert [one.time for one in found] == [sampler.candidates(NOISE)[-1]]


def test_a_search_continues_an_earlier_one():
    two, three = (parse_sampler(f"search,points~18,steps~{steps}") for steps in (2, 3))
    first, calls = searching.search(cheap, two, NOISE, ()), []

    def counted(times):
        calls.append(times)
        return cheap(times)

    assert searching.search(counted, three, NOISE, first) == searching.search(cheap, three, NOISE, ())
    assert {len(times) for times in calls} == {2}


def test_every_evaluation_survives_a_kill(tmp_path):
    sampler, path, calls = parse_sampler("search,steps~3"), tmp_path / "record.json", []

    def killed(times):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(times)
        return cheap(times)

    def counted(times):
        calls.append(times)
        return cheap(times)

    about = {"model_sha256": "a", "shape": (1, 2)}
    with pytest.raises(KeyboardInterrupt):
        searching.search(searching.Record(path, about).keep(killed), sampler, NOISE, ())
    record = searching.Record(path, about)
    found = searching.search(record.keep(counted), sampler, NOISE, ())
    assert found == searching.search(cheap, sampler, NOISE, ())
    assert len(calls) == len(set(calls)) == sum(len(one.evaluations) for one in found)
    record.remove()
    assert not path.exists()


def test_evaluations_of_another_model_do_not_count(tmp_path):
    path = tmp_path / "record.json"
    searching.Record(path, {"model_sha256": "a"}).keep(cheap)((1.0,))
    other = Evaluation(1.0, 7.0, 6.0, 8.0)
    assert searching.Record(path, {"model_sha256": "b"}).keep(lambda times: other)((1.0,)) == other
    assert searching.Record(path, {"model_sha256": "b"}).keep(cheap)((1.0,)) == other


@pytest.mark.parametrize(
    "known",
    [None, {"1.0": 3}, {"1.0": {"time": 1.0}}, {"1.0": {"time": 1.0, "fid": -1.0, "low": 0.0, "high": 1.0}}],
)
def test_a_damaged_record_is_one_line(tmp_path, known):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"about": {}, "evaluations": known}))
    with pytest.raises(UserError, match=f"^{path}"):
        searching.Record(path, {})


def test_a_second_minimum_is_reported_with_its_size():
    fids = {80.0: 1.0, 40.0: 3.0, 20.0: 3.5, 10.0: 9.0, 5.0: 3.25, 2.0: 9.0}

    def evaluate(times):
        fid = fids[times[-1]]
        return Evaluation(times[-1], fid, fid - width, fid + width)

    for width in (0.2, 0.1):
        found = searching.search_point(evaluate, list(fids), ())
        assert (found.time, found.at_end) == (80.0, True)
        (violation,) = found.violations
        assert (violation.nearer, violation.farther, violation.drop) == (20.0, 5.0, 0.25)
        assert violation.within_intervals == (width == 0.2)
