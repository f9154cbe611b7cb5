"""`import cm`: a model by its file or its run, its samples, and the score of images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cm
from cm.checkpoints import native
from cm.cli import main
from cm.errors import UserError
from cm.utils import npy

RUN = "digits/edm/default/seed0"


@pytest.fixture
def path(place):
    return place / "models" / RUN / "100.safetensors"


@pytest.fixture
def model(path):
    return cm.load(path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def by_classifier(tmp_path):
    """A protocol whose extractor is the classifier of `place`."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extractor: digits/classifier/default/seed0\nresizer: none\nmetrics: [fid, precision]\nsamples: 899\n"
    )
    return path


def test_importing_it_imports_nothing_else():
    check = "import cm, sys; print([name for name in ('torch', 'numpy', 'yaml', 'cm.api') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_it_does_not_have():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = cm.lod
    assert all(hasattr(cm, name) for name in cm.__all__)


def test_a_model_from_a_file(model):
    assert (model.run, model.seed, model.image_shape) == (RUN, 0, (8, 8, 1))
    assert model.description["training"]["total_steps"] == 12
    x = torch.randn(3, 1, 8, 8)
    assert model(x, torch.full((3,), 2.0)).shape == (3, 1, 8, 8)


def test_samples_are_those_of_the_command(model, path, tmp_path):
    images = model.sample("multistep,times~0.8", count=5, seed=3)
    assert (images.shape, images.dtype) == ((5, 8, 8, 1), np.uint8)
    arguments = f"sample --model {path} --sampler multistep,times~0.8 --count 5 --seed 3 --out {tmp_path / 'a.npy'}"
    assert main(arguments.split()) == 0
    assert np.array_equal(npy.read_images(tmp_path / "a.npy"), images)


def test_the_seed_is_by_default_that_of_the_run(model):
    assert np.array_equal(model.sample("onestep", count=2), model.sample("onestep", count=2, seed=0))
    assert not np.array_equal(model.sample("onestep", count=2), model.sample("onestep", count=2, seed=1))


def test_settings_of_sampling(model):
    plain = model.sample("onestep", count=4)
    rounded = model.sample("onestep", count=4, settings=cm.SamplingSettings(quantization="round", batch=1))
    assert np.abs(plain.astype(int) - rounded).max() == 1


def test_a_model_from_a_run(place):
    """Sampled as the evaluation of its experiment file says, from results/models."""
    model = cm.load(RUN, experiments=place / "experiments", results=place)
    assert model.run == RUN
    assert model.settings == cm.SamplingSettings(quantization="truncate", clamp=False, precision="float32", batch=256)


def test_a_run_without_a_model(place, tmp_path):
    with pytest.raises(UserError, match=f"{RUN} has not been trained: .*; train it with `snakemake {tmp_path}/models"):
        cm.load(RUN, experiments=place / "experiments", results=tmp_path)


def test_results_of_an_earlier_version(place, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="was written by an earlier version"):
        cm.load(RUN, experiments=place / "experiments", results=tmp_path)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("absent.safetensors", "no file absent.safetensors"),
        (Path("absent"), "no file absent"),
        ("digits/edm", "run 'digits/edm' is not of the form <dataset>/<method>/<variant>/seed<seed>"),
        ("digits/emd/default/seed0", "unknown method 'emd'"),
    ],
)
def test_what_cannot_be_loaded(place, subject, message):
    with pytest.raises(UserError, match=message):
        cm.load(subject, experiments=place / "experiments")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "onestp"}, "unknown sampler 'onestp'"),
        ({"count": 0}, "count must be at least 1"),
        ({"seed": -1}, "seed in 0"),
    ],
)
def test_bad_sampling_is_refused(model, arguments, message):
    with pytest.raises(UserError, match=message):
        model.sample(**{"sampler": "onestep", **arguments})


def test_a_classifier_makes_no_images(judge):
    with pytest.raises(UserError, match="makes no images"):
        cm.load(judge).sample("onestep")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:9", "device 'cuda:9' cannot be used here"),
        ("cpu,cuda:9", "device 'cuda:9' cannot be used here"),
        ("cpu,", "device '' cannot be used here"),
        ("cpu,meta", "the devices must be of one type, not cpu, meta"),
    ],
)
def test_other_devices_are_refused(path, device, message):
    with pytest.raises(UserError, match=message):
        cm.load(path, device=device)


def test_a_model_on_several_devices(path, model):
    """Its samples are those of one device, also after its weights have changed."""
    several, settings = cm.load(path, device="cpu,cpu"), cm.SamplingSettings(batch=4)
    assert (several.devices, several.device) == (("cpu", "cpu"), "cpu")
    for _ in range(2):
        images = [one.sample("onestep", count=10, settings=settings) for one in (model, several)]
        assert images[0].tobytes() == images[1].tobytes()
        for one in (model, several):
            next(one.module.parameters()).mul_(1.5)


# ---- files of an earlier version ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": None}, "it does not say its noise"),
        ({"network": {"name": "convnet", "resolution": 8}}, "unknown network 'convnet'"),
        ({"noise": {"name": "karras", "sigma_largest": 80.0}}, "unknown setting 'sigma_largest'"),
        ({"preconditioning": "old"}, "unknown preconditioning 'old'"),
    ],
)
def test_a_model_file_of_an_earlier_version(path, tmp_path, changes, message, capsys):
    tensors, description = native.load(path)
    changed = {key: value for key, value in (description | changes).items() if value is not None}
    old = tmp_path / "old.safetensors"
    native.save(old, tensors, changed)
    assert main(["sample", "--model", str(old), "--sampler", "onestep", "--out", str(tmp_path / "a.npy")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cm sample: error: {old} was not written by this version of the suite: ")
    assert message in error
    assert error.endswith("train or convert it again\n")
    assert error.count("\n") == 1


def test_pretrained_weights_are_no_model(path, tmp_path):
    tensors, _ = native.load(path)
    native.save(tmp_path / "w.safetensors", tensors, {"weights": "inception"})
    with pytest.raises(UserError, match="holds the pretrained weights inception, not a model"):
        cm.load(tmp_path / "w.safetensors")


# ---- scores ----


def test_arrays_and_files_have_the_same_score(place, judge, by_classifier):
    paths = [place / "data" / split / "images.npy" for split in ("test", "train")]
    by_path = cm.score(*paths, by_classifier, extractor=judge, device="cpu,cpu")
    arrays = [np.load(path) for path in paths]
    by_array = cm.score(*arrays, str(by_classifier), extractor=judge)
    assert by_path["metrics"] == by_array["metrics"]
    assert by_path["samples"] == 898
    assert 0 < by_path["metrics"]["precision"] <= 1


def test_samples_of_a_model_are_scored(model, place, judge, by_classifier):
    images = model.sample("onestep", count=40)
    assert cm.score(images, place / "data/train/images.npy", by_classifier, extractor=judge)["metrics"]["fid"] > 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 8, 8), np.uint8), r"images must be uint8 \[N, H, W, C\], not uint8 \[4, 8, 8\]"),
        (np.zeros((4, 8, 8, 1)), "not float64"),
    ],
)
def test_other_arrays_are_refused(place, judge, by_classifier, images, message):
    with pytest.raises(UserError, match=message):
        cm.score(images, place / "data/train/images.npy", by_classifier, extractor=judge)


def test_an_unknown_protocol_is_refused(place):
    with pytest.raises(UserError, match="unknown protocol 'cifar11'"):
        cm.score(place, place, "cifar11")


def test_a_model_in_bfloat16_is_half_as_large_and_samples_almost_the_same(model, path, tmp_path, capsys):
    small = tmp_path / "small.safetensors"
    arguments = ["convert", "--model", str(path), "--to", "bfloat16", "--out", str(small)]
    assert main(arguments) == 0
    weights, rounded = native.load(path)[0], native.load(small)[0]
    assert all(torch.equal(rounded[name], weights[name].bfloat16()) for name in weights)
    assert native.description(small) == {**native.description(path), "weights_precision": "bfloat16"}
    bytes_of = [sum(tensor.nbytes for tensor in tensors.values()) for tensors in (rounded, weights)]
    assert 2 * bytes_of[0] == bytes_of[1]
    images = [one.sample("onestep", count=8).astype(int) for one in (model, cm.load(str(small)))]
    assert 0 < np.abs(images[0] - images[1]).mean() < 1
    assert main(arguments) == 2
    assert f"{small} exists already" in capsys.readouterr().err
