"""The seconds of a training count on over all its starts."""

from __future__ import annotations

from conftest import plan_of

from cm.training import clock
from cm.training.clock import Clock
from cm.training.trainer import train
from cm.utils import files


def test_a_resumed_clock_counts_on(monkeypatch):
    now = {"wall": 100.0, "processor": 7.0}
    monkeypatch.setattr(clock, "_now", lambda: dict(now))
    first = Clock()
    now.update(wall=110.0, processor=9.5)
    saved = first.seconds()
    assert saved == {"wall": 10.0, "processor": 2.5}
    now.update(wall=1000.0, processor=0.5)
    second = Clock()
    second.resume(saved)
    now.update(wall=1003.0, processor=1.0)
    assert second.seconds() == {"wall": 13.0, "processor": 3.0}


def test_a_training_leaves_the_seconds_of_all_its_starts(place, tmp_path, monkeypatch):
    """The clock reads 1 second later every time that it is read: at each start, at each saved state and at the end."""
    readings = iter(range(1000))

    def read_clock():
        reading = float(next(readings))
        return {"wall": reading, "processor": reading / 2}

    monkeypatch.setattr(clock, "_now", read_clock)
    for stop in (3, None):
        train(plan_of(place, "digits/edm/default/seed0", tmp_path, stop_at=stop))
    found = files.read_json(tmp_path / "seconds.json")
    assert found["wall"] == 2 * found["processor"] >= 3.0
