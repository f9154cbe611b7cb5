"""Threads, pickles, progress bars and provenance."""

from __future__ import annotations

import functools
import itertools
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import cm
from cm.utils import pickles, provenance
from cm.utils.parallel import map_in_order, map_in_turns
from cm.utils.progress_bar import ProgressBar


def test_results_come_in_order_and_only_a_few_ahead():
    calls, barrier = [], threading.Barrier(2, timeout=10)

    def square(number: int) -> int:
        calls.append(number)
        barrier.wait()
        return number**2

    results = map_in_order(square, range(20), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 4] and max(calls) <= 3 + 2 * 2 + 1
    assert list(results) == [number**2 for number in range(3, 20)]


def test_an_exception_is_raised_in_place_of_its_result():
    results = map_in_order(lambda number: 1 / number, [2, 0, 1], workers=1)
    assert next(results) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_functions_take_turns_each_in_a_thread_of_its_own(count):
    threads = [set() for _ in range(count)]

    def record(index: int, part: int) -> tuple[int, int]:
        threads[index].add(threading.get_ident())
        return index, part

    functions = [functools.partial(record, index) for index in range(count)]
    results = list(map_in_turns(functions, iter(range(8)), threading.Event()))
    assert results == [(part % count, part) for part in range(8)]
    assert all(len(own) == 1 for own in threads) and len(set.union(*threads)) == count
    assert (threading.get_ident() in threads[0]) == (count == 1)


def test_an_error_in_one_thread_is_raised_before_the_others_have_finished():
    """The first part would take for ever, but for `stop`."""
    stop, parts = threading.Event(), []

    def wait_for_stop(part: int) -> None:
        parts.append(part)
        assert stop.wait(10)

    def fail(part: int) -> None:
        raise ValueError(part)

    with pytest.raises(ValueError, match="1"):
        list(map_in_turns([wait_for_stop, fail], range(100), stop))
    assert stop.is_set() and parts == [0]


def test_who_ends_early_stops_the_functions():
    stop = threading.Event()
    results = map_in_turns([str, lambda part: str(stop.wait(10))], itertools.count(), stop)
    assert next(results) == "0"
    results.close()
    assert stop.is_set()


def test_a_process_ends_although_results_are_left():
    code = (
        "import itertools; from cm.utils.parallel import map_in_order;"
        "results = map_in_order(str, itertools.count(), workers=2); print(next(results)); raise SystemExit(3)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stdout, process.stderr) == (3, "0\n", "")


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays_and_containers_are_read(protocol):
    value = {"a": np.arange(6.0).reshape(2, 3), "b": [1, (2.5, None)], "c": b"\xff\x00"}
    loaded = pickles.loads(pickle.dumps(value, protocol))
    assert {key if isinstance(key, str) else key.decode() for key in loaded} == set(value)
    values = list(loaded.values())
    assert np.array_equal(values[0], value["a"]) and values[1:] == [value["b"], value["c"]]


@pytest.mark.parametrize("value", [print, subprocess.run, np.load, pickle.loads, cm.utils.files.write_json])
def test_pickles_that_name_anything_else_are_refused(value):
    with pytest.raises(pickle.UnpicklingError, match=r"it asks for '.*', which no array needs: refused"):
        pickles.loads(pickle.dumps(value))


def test_progress_is_a_line_now_and_then_in_a_log(capsys):
    progress = ProgressBar("images", 100, start=20, unit="image", lines=4)
    for _ in range(8):
        progress.update(10, loss=0.123456)
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["30/100", "50/100", "80/100", "100/100"]
    assert lines[-1].startswith("images  100/100  loss 0.1235  ") and lines[-1].endswith(" image/s  00:00:00 left")


def test_versions_are_those_that_are_installed():
    assert provenance.versions()["cm"] == cm.__version__
    assert provenance.versions()["numpy"] == np.__version__ and list(provenance.versions()) == [
        "cm",
        "torch",
        "numpy",
        "scipy",
    ]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([(0, "abc\n"), (0, "")], "abc"),
        ([(0, "abc\n"), (0, " M x.py\n")], "abc+"),
        ([(128, ""), (128, "")], "unknown"),
        (None, "unknown"),
    ],
)
def test_the_commit_says_whether_files_were_changed(outputs, expected, monkeypatch):
    def run(command, **_):
        if outputs is None:
            raise FileNotFoundError("git")
        status, text = outputs["status" in command]
        return subprocess.CompletedProcess(command, status, stdout=text)

    monkeypatch.setattr(subprocess, "run", run)
    assert provenance.commit.__wrapped__() == expected
