"""From images to features: memory, order, and the state of a summary. test_scoring.py tests the commands."""

from __future__ import annotations

import dataclasses
import time
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from cm.errors import UserError
from cm.evaluation import features, moments
from cm.evaluation.extractors import Extractor
from cm.evaluation.features import Compute
from cm.evaluation.imagesets import Images


class Endless(Images):
    """`count` images that are created when they are read; the first pixel of each encodes its place."""

    shape = (64, 64, 3)

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batches(self, batch, workers, start=0):
        for place in range(start, self.count, batch):
            pixels = np.zeros((min(batch, self.count - place), *self.shape), np.uint8)
            pixels[:, 0, 0] = np.arange(place, place + len(pixels))[:, None] // (65536, 256, 1) % 256
            yield pixels

    def subset(self, places):
        raise NotImplementedError

    def sha256(self):
        return str(self.count)


class Places(nn.Module):
    """The features are the place of an image, its sine and a constant."""

    def forward(self, x):
        place = (x[:, :, 0, 0].long() * torch.tensor([65536, 256, 1])).sum(1).double()
        return torch.stack([place, place.sin(), place * 0 + 1], 1).float(), None


PLACES = Extractor("places", 3, lambda images: torch.from_numpy(images).permute(0, 3, 1, 2), Places())


def test_features_come_in_the_order_of_the_images():
    for compute in (Compute(), Compute(7, 3), Compute(10, 2, ("cpu", "cpu"))):
        found = features.extract(PLACES, Endless(300), compute)
        assert found.features[:, 0].tolist() == list(range(300))
        assert found.logits is None


class Slow(nn.Module):
    """The features are 1 if TF32 is allowed at the end of the computation, which lasts longer for later images."""

    def forward(self, x):
        time.sleep(0.02 * x[0, 0, 0, 0].item())
        return torch.full((len(x), 1), float(torch.backends.cudnn.allow_tf32)), None


@pytest.mark.parametrize("devices", [("cpu",), ("cpu",) * 3])
def test_tf32_is_off_on_every_device_until_all_have_finished(devices):
    """The switch is that of the process: one thread must not turn it on again while another computes."""
    slow = Extractor("slow", 1, lambda images: torch.from_numpy(images[:, :1, :1, 2:]).permute(0, 3, 1, 2), Slow())
    allowed = torch.backends.cudnn.allow_tf32
    assert not features.extract(slow, Endless(6), Compute(1, 1, devices)).features.any()
    assert torch.backends.cudnn.allow_tf32 == allowed


def test_a_precision_that_a_device_does_not_have_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    extractor = dataclasses.replace(PLACES, precision="bfloat16")
    with pytest.raises(UserError, match="precision 'bfloat16' is unavailable on device 'cuda'"):
        features.extract(extractor, Endless(3), Compute(devices=("cpu", "cuda")))


def test_halves_and_kept_features_are_of_different_images():
    first, second = features.summarize_halves(PLACES, Endless(301), keep=41, compute=Compute(50))
    kept = [set(half.features[:, 0].astype(int)) for half in (first, second)]
    assert [len(part) for part in kept] == [20, 21]
    assert not kept[0] & kept[1]
    means = [half.moments()[0][0] for half in (first, second)]
    assert (150 * means[0] + 151 * means[1]) / 301 == pytest.approx(150, rel=1e-12)
    expected = np.cov(features.extract(PLACES, Endless(301), Compute()).features.astype(float), rowvar=False)
    pooled = moments.pool_moments([(150, *first.moments()), (151, *second.moments())])
    assert np.allclose(pooled[1], expected, rtol=1e-9, atol=1e-9)


def test_kept_features_are_spread_over_all_images():
    halves = features.summarize_halves(PLACES, Endless(2000), keep=500, compute=Compute())
    kept = np.concatenate([half.features[:, 0] for half in halves])
    assert abs(kept.mean() - 1000) < 80
    assert (np.histogram(kept, 10)[0] > 20).all()


def test_memory_does_not_grow_with_the_images():
    peaks = []
    for count in (1000, 8000):
        tracemalloc.start()
        features.summarize_halves(PLACES, Endless(count), keep=100, compute=Compute(32, 2))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 8000 * 64 * 64 * 3 / 4


class Spatial(Places):
    """As `Places`, with the square and the cosine of the place as spatial features."""

    def forward(self, x):
        found, _ = super().forward(x)
        return found, None, torch.stack([found[:, 0] ** 2, found[:, 0].cos()], 1)


def test_a_summary_has_the_moments_of_the_spatial_features_of_all_images(tmp_path, monkeypatch):
    monkeypatch.setenv("CM_CACHE", str(tmp_path))
    spatial = Extractor("places", 3, PLACES.preprocess, Spatial())
    place = np.arange(301.0)
    columns = np.stack([place**2, np.cos(place)])
    about, names = {"reference": {}}, ["fid", "sfid"]
    found, described = features.summarize(spatial, Endless(301), about=about, keep=50, names=names, compute=Compute(40))
    for read in (found, features.extract(spatial, Endless(301), Compute(70))):
        assert np.allclose(read.spatial[0], columns.mean(1), rtol=1e-6)
        assert np.allclose(read.spatial[1], np.cov(columns), rtol=1e-5)
    assert described["reference"]["split_halves"]["metrics"]["sfid"] > 0
    assert found.places.tolist() == found.features[:, 0].astype(int).tolist()


def test_statistics_of_spatial_features_are_read(tmp_path):
    """ADM's files have them; a file without them has none."""
    arrays = {"mu": np.zeros(2), "sigma": np.eye(2), "arr_0": np.zeros((1, 2, 2, 3), np.uint8)}
    np.savez(tmp_path / "VIRTUAL.npz", **arrays, mu_s=np.ones(3), sigma_s=2 * np.eye(3))
    np.savez(tmp_path / "without.npz", **arrays)
    found, _ = features.read(tmp_path / "VIRTUAL.npz")
    assert np.array_equal(found.spatial[0], np.ones(3))
    assert np.array_equal(found.spatial[1], 2 * np.eye(3))
    assert features.read(tmp_path / "without.npz")[0].spatial is None
