"""Runs that take their weights from a published checkpoint: fetched, converted, sampled, and given back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import FILES, TRAINING
from goldens import recipe_weights

import cm
from cm import build
from cm.checkpoints import native
from cm.cli import main
from cm.config import Experiments
from cm.utils import fetch, files, npy

NETWORK = {"name": "adm", "resolution": 8, "image_channels": 1, "channels": 32, "multipliers": [1, 2], "blocks": 1}
NETWORK |= {"attention": [4], "head_channels": 32}
URL = "https://example.invalid/home.pt"
THEIRS = "https://example.invalid/cd-lpips/checkpoints/checkpoint_80"
RUN = "digits/ct/released~theirs/seed0"


def experiment(url: str, **entry) -> dict:
    released = {"theirs": {"url": url, "licence": "none", **entry}}
    return FILES["ct"] | {"training": TRAINING, "network": NETWORK, "released": released}


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """Experiment files whose CT can take an OpenAI checkpoint from a URL; it lies in a cache of the test's own."""
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "experiments"
    (folder / "digits").mkdir(parents=True)
    for name, document in FILES.items():
        (folder / "digits" / f"{name}.yaml").write_text(yaml.safe_dump(document))
    (folder / "digits" / "ct.yaml").write_text(yaml.safe_dump(experiment(URL)))
    spec = Experiments(folder).run(RUN)
    description = build.run_description(spec) | {"progress": 100}
    model = recipe_weights(build.build_model(description))
    native.save(tmp_path / "ours.safetensors", model.state_dict(), description)
    arguments = ["convert", "--model", str(tmp_path / "ours.safetensors"), "--to", "openai"]
    assert main([*arguments, "--out", str(tmp_path / "home.pt")]) == 0
    keep_in_cache(URL, tmp_path / "home.pt")
    return folder


def keep_in_cache(url: str, file: Path) -> Path:
    """Put a file where the cache has the one at a URL."""
    place = fetch.place_of(url)
    place.parent.mkdir(parents=True)
    shutil.copyfile(file, place)
    return place


def convert(experiments, out, *more: str) -> int:
    return main(["convert", "--run", RUN, "--experiments", str(experiments), "--out", str(out), *more])


def test_a_released_checkpoint_becomes_the_model_of_its_run(experiments, tmp_path):
    out = tmp_path / "100.safetensors"
    assert convert(experiments, out) == 0
    (ours, _), (theirs, description) = native.load(tmp_path / "ours.safetensors"), native.load(out)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (description["run"], description["progress"], description["preconditioning"]) == (RUN, 100, "boundary")
    assert description["made_from"]["url"].endswith("home.pt")
    assert description["made_from"]["sha256"] == files.sha256_of(tmp_path / "home.pt")
    sampled = tmp_path / "a.npy"
    assert main(["sample", "--model", str(out), "--sampler", "onestep", "--count", "3", "--out", str(sampled)]) == 0
    assert json.loads(sampled.with_suffix(".json").read_text())["run"] == RUN


def test_a_checkpoint_without_a_checksum_is_held_to_that_of_its_first_use(experiments, tmp_path, capsys):
    assert convert(experiments, tmp_path / "a.safetensors") == 0
    assert files.sha256_of(tmp_path / "home.pt") in capsys.readouterr().err
    with open(fetch.place_of(URL), "ab") as file:
        file.write(b"more")
    assert convert(experiments, tmp_path / "b.safetensors") == 2
    assert "it has changed" in capsys.readouterr().err and not (tmp_path / "b.safetensors").exists()


def test_a_checkpoint_of_ones_own(experiments, tmp_path):
    arguments = ["convert", "--run", "digits/ct/default/seed3", "--experiments", str(experiments)]
    arguments += ["--checkpoint", str(tmp_path / "home.pt"), "--out", str(tmp_path / "mine.safetensors")]
    shutil.rmtree(tmp_path / "cache")
    assert main(arguments) == 0
    assert native.description(tmp_path / "mine.safetensors")["run"] == "digits/ct/default/seed3"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"size": 5}, "bytes, not 5"),
        ({"sha256": "0" * 64}, "not 0000"),
        ({"sha256": "0" * 63}, "sha256 must be 64 digits"),
        ({"url": "http://example.invalid/home.pt"}, "must begin with https://"),
        ({"url": "file:///etc/passwd"}, "must begin with https://"),
        ({"weights": "online"}, "which has one set of weights, not 'online' ones"),
    ],
)
def test_another_file_than_was_published_is_refused(experiments, tmp_path, capsys, entry, message):
    changed = experiment(**{"url": URL} | entry)
    (experiments / "digits" / "ct.yaml").write_text(yaml.safe_dump(changed))
    assert convert(experiments, tmp_path / "100.safetensors") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("error:") == 1
    assert not (tmp_path / "100.safetensors").exists()


def test_a_checkpoint_that_cannot_be_had_says_where_to_put_it(experiments, tmp_path, capsys):
    fetch.place_of(URL).unlink()
    assert convert(experiments, tmp_path / "100.safetensors") == 2
    error = capsys.readouterr().err
    assert URL in error
    assert f"put it at {fetch.place_of(URL)}" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --run, to read a checkpoint, or --model and --to"),
        (["--run", "digits/ct/default/seed0", "--model", "m"], "give --run"),
        (["--model", "m"], "give --run"),
        (["--run", "digits/ct/default/seed0"], "names no checkpoint"),
        (["--model", "absent.safetensors", "--to", "openai"], "no file absent.safetensors"),
    ],
)
def test_bad_conversions_are_refused(experiments, tmp_path, capsys, arguments, message):
    out = tmp_path / "out"
    assert main(["convert", *arguments, "--experiments", str(experiments), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_released_run_is_not_trained(experiments, tmp_path, capsys):
    arguments = ["--experiments", str(experiments), "--data", "d", "--out", str(tmp_path / "100.safetensors")]
    assert main(["train", "--run", RUN, *arguments]) == 2
    assert "use `cm convert`" in capsys.readouterr().err


# ---- one line samples a published checkpoint ----

PUBLISHED = "sample --run cifar10/cd/released~cd-lpips/seed0 --sampler onestep --count 64 --out samples.npy"


@pytest.fixture
def project(experiments, tmp_path, monkeypatch):
    """A project whose `cifar10/cd` has a small network, with the published checkpoint in the cache."""
    cifar10 = tmp_path / "config/experiments/cifar10"
    shutil.copytree(experiments / "digits", cifar10)
    released = {"cd-lpips": {"url": THEIRS, "licence": "none"}}
    document = FILES["cd"] | {"training": TRAINING, "network": NETWORK, "released": released}
    (cifar10 / "cd.yaml").write_text(yaml.safe_dump(document))
    evaluation = FILES["base"]["evaluation"] | {"clamp": True, "batch": 7, "precision": "bfloat16"}
    (cifar10 / "base.yaml").write_text(yaml.safe_dump(FILES["base"] | {"evaluation": evaluation}))
    shutil.copytree(Path("config/protocols"), tmp_path / "config/protocols")
    keep_in_cache(THEIRS, tmp_path / "home.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_line_samples_a_published_checkpoint(project):
    assert main(PUBLISHED.split()) == 0
    assert npy.read_images("samples.npy").shape == (64, 8, 8, 1)
    about = files.read_json("samples.json")
    assert (about["run"], about["progress"]) == ("cifar10/cd/released~cd-lpips/seed0", 100)
    assert (about["quantization"], about["clamp"], about["seed"]) == ("truncate", True, 0)
    description = native.description("results/models/cifar10/cd/released~cd-lpips/seed0/100.safetensors")
    assert description["made_from"]["checkpoint"] == "checkpoint_80"


def test_a_published_checkpoint_is_converted_once(project):
    assert main(PUBLISHED.split()) == 0
    fetch.place_of(THEIRS).unlink()
    first = npy.read_array("samples.npy").copy()
    assert main(PUBLISHED.split()) == 0
    assert (npy.read_array("samples.npy") == first).all()


def test_options_take_precedence_over_the_settings_of_the_run(project):
    changes = ["--no-clamp", "--quantization", "round", "--precision", "float32", "--batch", "64", "--seed", "3"]
    assert main([*PUBLISHED.split(), *changes]) == 0
    about = files.read_json("samples.json")
    assert (about["quantization"], about["clamp"], about["seed"]) == ("round", False, 3)


def test_the_python_interface_takes_the_settings_of_the_run(project):
    model = cm.load("cifar10/cd/released~cd-lpips/seed0")
    assert model.settings == cm.SamplingSettings("truncate", clamp=True, precision="bfloat16", batch=7)
    assert main(PUBLISHED.split()) == 0
    assert (model.sample("onestep", count=64) == npy.read_images("samples.npy")).all()


def test_a_checkpoint_that_cannot_be_fetched(project, capsys):
    fetch.place_of(THEIRS).unlink()
    assert main(PUBLISHED.split()) == 2
    error = capsys.readouterr().err
    assert f"put it at {fetch.place_of(THEIRS)}" in error
    assert not Path("samples.npy").exists()
    assert not Path("results").exists()
