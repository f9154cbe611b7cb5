"""`cm search` on a model trained for a moment: the FIDs are those of the final scores, and nothing is lost."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from cm.cli import main
from cm.evaluation import searching
from cm.utils import files

SAMPLER = "search,points~6,steps~2"


def run(command: str, **options) -> int:
    return main([command, *(str(part) for name, value in options.items() for part in (f"--{name}", value))])


@pytest.fixture
def how(place, judge):
    """What `search` and `evaluate` have in common."""
    return {
        "model": place / "models/digits/edm/default/seed0/100.safetensors",
        "reference": place / "data/train/images.npy",
        "protocol": "offline",
        "extractor": judge,
        "count": 40,
        "batch": 16,
    }


@pytest.fixture
def found(how, tmp_path):
    """The file of a search for one time point."""
    out = tmp_path / "two.json"
    assert run("search", sampler=SAMPLER, out=out, **how) == 0
    return out


def evaluate(how, folder, sampler: str, **more) -> dict:
    assert run("evaluate", sampler=sampler, score=folder / "score.json", **how, **more) == 0
    return files.read_json(folder / "score.json")


def refusal(capsys, **options) -> str:
    """The one line by which `cm search` fails."""
    capsys.readouterr()
    assert run("search", **options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_every_evaluation_is_the_score_of_its_time(how, found, tmp_path):
    result = files.read_json(found)
    (search,) = result["searches"]
    assert (search["candidates"], search["fixed"], result["times"]) == (6, [], [search["time"]])
    for one in search["evaluations"]:
        score = evaluate(how, tmp_path, f"multistep,times~{one['time']}")
        assert one["fid"] == score["metrics"]["fid"]
        ends = score["uncertainty"]["fid"]
        assert (one["low"], one["high"]) == (ends["low"], ends["high"])
    assert search["time"] == min(search["evaluations"], key=lambda one: one["fid"])["time"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["score.json", "two.json"]


def test_a_sampler_takes_its_times_from_the_search(how, found, tmp_path):
    times = files.read_json(found)["times"]
    score = evaluate(how, tmp_path, SAMPLER, search=found)
    plain = evaluate(how, tmp_path, f"multistep,times~{times[0]}")
    assert (score["sampler"], score["times"], score["nfe"]) == (SAMPLER, times, 2)
    assert score["metrics"] == plain["metrics"]


def test_a_search_continues_with_the_next_point(how, found, tmp_path):
    three, alone = tmp_path / "three.json", tmp_path / "alone.json"
    assert run("search", sampler="search,points~6,steps~3", previous=found, out=three, **how) == 0
    assert run("search", sampler="search,points~6,steps~3", out=alone, **how) == 0
    result = files.read_json(three)
    assert result["searches"] == files.read_json(alone)["searches"]
    assert result["searches"][0] == files.read_json(found)["searches"][0]
    assert all(
        one["time"] < result["times"][0] for one in result["searches"][-1]["evaluations"] if len(result["times"]) > 1
    )


def test_a_killed_search_continues(how, found, tmp_path, monkeypatch):
    """It leaves what it has evaluated, and makes only the rest."""
    measure, calls, out = searching.Measurement.__call__, [], tmp_path / "killed.json"

    def killed(self, times):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(times)
        return measure(self, times)

    def counted(self, times):
        calls.append(times)
        return measure(self, times)

    monkeypatch.setattr(searching.Measurement, "__call__", killed)
    assert run("search", sampler=SAMPLER, out=out, **how) == 130
    assert not out.exists()
    monkeypatch.setattr(searching.Measurement, "__call__", counted)
    assert run("search", sampler=SAMPLER, out=out, **how) == 0
    assert len(calls) == len(set(calls))
    assert files.read_json(out)["searches"] == files.read_json(found)["searches"]
    assert not list(tmp_path.glob(".*"))


def test_memory_does_not_grow_with_the_number_of_samples(how, tmp_path):
    """Samples and features are on the disk; 2,400 more samples of 64 bytes and 8 features would take 230 kB."""
    how["protocol"] = tmp_path / "many.yaml"
    name = "digits/classifier/default/seed0"
    how["protocol"].write_text(f"extractor: {name}\nresizer: none\nmetrics: [fid]\nsamples: 3000\n")
    peaks, options = [], {"sampler": "search,high~1.0,points~6,steps~2", "out": tmp_path / "o.json"}
    for count in (600, 3000):
        tracemalloc.start()
        assert run("search", **options, **how | {"count": count}) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 230_000


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("multistep,times~0.8", "the sampler 'multistep,times~0.8' has nothing to search: expected 'search,steps~n'"),
        ("search,high~0.5,low~2.0,steps~2", "the search interval is empty: low 2 must be below high 0.5"),
        ("search,steps~1", "steps must be at least 2, not 1"),
        ("search,low~90.0,steps~2", "the search interval is empty: none of the 40 times from 80 to 0.002 lies in"),
        ("search,points~2,steps~2", "points must be at least 3, not 2"),
    ],
)
def test_what_cannot_be_searched_is_one_line(how, tmp_path, capsys, monkeypatch, sampler, message):
    monkeypatch.setattr(searching.Measurement, "__call__", lambda self, times: pytest.fail("evaluated"))
    assert message in refusal(capsys, sampler=sampler, out=tmp_path / "a.json", **how)


def test_the_search_of_another_sampler_cannot_be_continued(how, found, tmp_path, capsys):
    options = {"out": tmp_path / "a.json", "previous": found, **how}
    assert "not of 'search,points~6,steps~3'" in refusal(capsys, sampler="search,points~6,steps~4", **options)
    assert "there is no search to continue" in refusal(capsys, sampler=SAMPLER, **options)


def change(path, **entries):
    path.write_text(json.dumps(files.read_json(path) | entries))


def test_a_search_of_other_images_cannot_be_continued(how, found, tmp_path, capsys):
    options = {"sampler": "search,points~6,steps~3", "previous": found, "out": tmp_path / "a.json"}
    message = "was made with another samples than this search: make it anew"
    assert message in refusal(capsys, **options, **how | {"count": 30})
    change(found, run="digits/edm/default/seed1")
    assert f"{found} is the search of digits/edm/default/seed1 at 100 %" in refusal(capsys, **options, **how)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"times": []}, "the chosen times [] are not those of its searches"),
        ({"searches": 3}, "search"),
        ({"progress": 101}, "progress must be at most 100, not 101"),
        ({"run": "x"}, "run 'x' is not of the form"),
    ],
)
def test_a_damaged_search_is_one_line(how, found, tmp_path, capsys, entries, message):
    change(found, **entries)
    capsys.readouterr()
    assert run("evaluate", sampler=SAMPLER, search=found, score=tmp_path / "s.json", **how) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_sampler_with_searched_times_needs_its_search(how, found, tmp_path, capsys):
    for sampler, more, message in (
        (SAMPLER, {}, "needs --search: the result of `cm search` for the model"),
        ("onestep", {"search": found}, "takes no --search: its times are in its name"),
        ("search,points~7,steps~2", {"search": found}, f"is the search of '{SAMPLER}', not of"),
    ):
        capsys.readouterr()
        assert run("sample", model=how["model"], sampler=sampler, out=tmp_path / "a.npy", **more) == 2
        assert message in capsys.readouterr().err
