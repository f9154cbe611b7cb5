"""What a command computes on: a device that is named, or GPUs that are taken."""

from __future__ import annotations

import pytest

from cm import api
from cm.cli.options import ExtractionOptions, Hardware
from cm.utils import gpus


@pytest.fixture
def taken(monkeypatch):
    """How many GPUs were taken, of a machine with four."""
    counts = []

    def take(count):
        counts.append(count)
        return [str(index) for index in range(count)]

    monkeypatch.setattr(gpus, "take_gpus", take)
    monkeypatch.setattr(api, "select_device", lambda name: name or "cuda")
    return counts


def test_by_default_one_gpu_is_taken(taken):
    assert Hardware(threads=None, device=None, gpus=1).select_devices() == ("cuda",)
    assert taken == [1]


def test_two_gpus_are_two_devices(taken):
    assert Hardware(threads=None, device=None, gpus=2).select_devices() == ("cuda:0", "cuda:1")
    extraction = ExtractionOptions(threads=None, device=None, gpus=2, batch=8, workers=1)
    assert extraction.select().devices == ("cuda:0", "cuda:1")
    assert taken == [2, 2]


def test_a_device_that_is_named_is_used_and_none_taken(taken):
    assert Hardware(threads=None, device="cuda:1", gpus=1).select_devices() == ("cuda:1",)
    assert Hardware(threads=None, device="cuda:1,cuda:3", gpus=1).select_devices() == ("cuda:1", "cuda:3")
    assert not taken


def test_no_gpus_means_the_processor(taken):
    assert Hardware(threads=None, device=None, gpus=0).select_devices() == ("cpu",)
    assert not taken


def test_without_a_gpu_the_default_stays_the_processor(taken, monkeypatch):
    monkeypatch.setattr(gpus, "take_gpus", lambda count: [])
    assert Hardware(threads=None, device=None, gpus=2).select_devices() == ("cuda",), "api.select_device decides"
