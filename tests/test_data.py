"""Data sets: contracts of every registered one, and the digits against scikit-learn's own loader."""

from __future__ import annotations

import numpy as np
import pytest

from cm import data, files, registry


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    bunch, splits = load_digits(), registry.get("dataset", "digits")()
    order = np.random.default_rng(0).permutation(1797)
    images, labels = (np.concatenate([splits[name][part] for name in ("train", "test")]) for part in (0, 1))
    back = np.concatenate([order[::2], order[1::2]])
    assert np.array_equal(images[..., 0], np.round(bunch.images[back] * 255 / 16))
    assert np.array_equal(labels, bunch.target[back])
    assert (len(splits["train"][0]), len(splits["test"][0])) == (899, 898)


@pytest.mark.parametrize("name", registry.names("dataset"))
def test_a_prepared_data_set_is_as_its_manifest_says(name, tmp_path):
    data.prepare(name, tmp_path)
    manifest = files.read_json(tmp_path / "manifest.json")
    assert {"train", "test"} <= set(manifest["splits"])
    for split, about in manifest["splits"].items():
        images, labels = files.read_images(tmp_path / split / "images.npy"), np.load(tmp_path / split / "labels.npy")
        assert [len(images), *images.shape[1:]] == [about["images"], *about["shape"]]
        assert files.sha256(images.tobytes()) == about["sha256"]
        assert labels.dtype == np.int64
        assert set(labels) == set(range(about["classes"]))
