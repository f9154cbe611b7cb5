"""The verbs by hand: what they write, and one clear line and status 2 for every mistake."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from cm import registry
from cm.cli import main
from cm.utils import files


@pytest.fixture
def model(place):
    return place / "models/digits/edm/default/seed0/100.safetensors"


def run(verb: str, **options) -> int:
    """`main` with options as a user types them."""
    return main([verb, *(str(part) for name, value in options.items() for part in (f"--{name}", value))])


def test_sample(model, tmp_path):
    out, preview = tmp_path / "a.npy", tmp_path / "p.npy"
    assert run("sample", model=model, sampler="heun,steps~3", count=40, out=out, preview=preview) == 0
    images, about = files.read_images(out), files.read_json(tmp_path / "a.json")
    assert images.shape == (40, 8, 8, 1)
    assert (about["nfe"], about["seed"], about["run"]) == (5, 0, "digits/edm/default/seed0")
    assert (about["quantization"], about["clamp"]) == ("truncate", False)
    assert np.array_equal(files.read_images(preview), images)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_samples_in_lower_precision_differ_a_little(model, tmp_path):
    made = {}
    for precision in ("float32", "bfloat16", "float16"):
        out = tmp_path / f"{precision}.npy"
        assert run("sample", model=model, sampler="heun,steps~3", count=8, out=out, precision=precision) == 0
        made[precision] = files.read_images(out).astype(float)
    for precision in ("bfloat16", "float16"):
        assert 0 < np.abs(made[precision] - made["float32"]).mean() < 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "onestp"}, f"unknown sampler 'onestp'; known: {', '.join(registry.names('sampler'))}"),
        ({"sampler": "heun,steps~0"}, "steps must be at least 2"),
        ({"model": "absent.safetensors"}, "no file absent.safetensors"),
        ({"device": "cuda:9"}, "device 'cuda:9'"),
        ({"count": 0}, "count must be at least 1"),
        ({"out": "a.json"}, "a.json must end in .npy"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_sampling_is_refused(model, tmp_path, capsys, options, message):
    given = {"model": model, "sampler": "onestep", "count": 4, "out": tmp_path / "a.npy"} | options
    assert run("sample", **given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.npy").exists()


def test_a_classifier_makes_no_images(judge, tmp_path, capsys):
    assert run("sample", model=judge, sampler="onestep", out=tmp_path / "a.npy") == 2
    assert "makes no images" in capsys.readouterr().err


def test_an_unknown_dataset_is_refused(tmp_path, capsys):
    assert run("prepare", dataset="digts", out=tmp_path / "data") == 2
    assert f"unknown dataset 'digts'; known: {', '.join(registry.names('dataset'))}" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_mistake_is_told_before_torch_is_imported():
    check = (
        "import sys; from cm.cli import main\n"
        "code = main(['train', '--run', 'digits/cd/solver~hune/seed0', '--data', 'd', '--out', 'o'])\n"
        "sys.exit(0 if code == 2 and 'torch' not in sys.modules else 1)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0
    assert (
        done.stderr.strip() == "cm train: error: digits/cd, solver: unknown solver 'hune'; known: euler, heun"
    )
