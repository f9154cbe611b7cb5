"""The verbs by hand: what they write, and one clear line and status 2 for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from cm import features, files, registry
from cm.__main__ import main


@pytest.fixture
def model(place):
    return place / "models/digits/edm/default/seed0/100.safetensors"


@pytest.fixture
def judge(place):
    return place / "models/digits/classifier/default/seed0/100.safetensors"


def run(verb: str, **options) -> int:
    """`main` with options as a user types them."""
    return main([verb, *(str(part) for name, value in options.items() for part in (f"--{name}", value))])


def test_sample_and_score(place, model, judge, tmp_path):
    assert (
        run("sample", model=model, sampler="heun,steps~3", count=40, out=tmp_path / "a.npy", preview=tmp_path / "p.npy")
        == 0
    )
    images, about = files.read_images(tmp_path / "a.npy"), files.read_json(tmp_path / "a.json")
    assert images.shape == (40, 8, 8, 1)
    assert (about["nfe"], about["seed"], about["run"]) == (5, 0, "digits/edm/default/seed0")
    assert np.array_equal(files.read_images(tmp_path / "p.npy"), images)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    reference = place / "data/train/images.npy"
    assert run("score", images=tmp_path / "a.npy", reference=reference, extractor=judge, out=tmp_path / "s.json") == 0
    score = json.loads((tmp_path / "s.json").read_text())
    assert (score["dataset"], score["method"], score["variant"], score["seed"]) == ("digits", "edm", "default", 0)
    assert score["metrics"]["fid"] > 0
    assert score["extractor"]["name"] == "digits/classifier/default/seed0"
    assert score["seconds"]["sampling"] > 0


def test_samples_in_lower_precision_differ_a_little(model, tmp_path):
    made = {}
    for precision in ("float32", "bfloat16", "float16"):
        out = tmp_path / f"{precision}.npy"
        assert run("sample", model=model, sampler="heun,steps~3", count=8, out=out, precision=precision) == 0
        made[precision] = files.read_images(out).astype(float)
    for precision in ("bfloat16", "float16"):
        assert 0 < np.abs(made[precision] - made["float32"]).mean() < 3


def test_real_images_against_themselves_score_perfectly(place, judge, tmp_path):
    reference = place / "data/train/images.npy"
    assert run("score", images=reference, reference=reference, extractor=judge, out=tmp_path / "s.json") == 0
    metrics = json.loads((tmp_path / "s.json").read_text())["metrics"]
    assert metrics["fid"] == pytest.approx(0, abs=1e-5)
    assert metrics["precision"] == metrics["recall"] == 1.0


def test_a_summary_of_the_reference_gives_the_same_score(place, judge, tmp_path):
    train, test = place / "data/train/images.npy", place / "data/test/images.npy"
    for batch in (64, 899):
        out = tmp_path / f"{batch}.npz"
        assert run("featurise", images=train, extractor=judge, out=out, batch=batch) == 0
    for reference, name in ((train, "a"), (tmp_path / "64.npz", "b"), (tmp_path / "899.npz", "c")):
        assert run("score", images=test, reference=reference, extractor=judge, out=tmp_path / f"{name}.json") == 0
    scores = [json.loads((tmp_path / f"{name}.json").read_text()) for name in "abc"]
    assert all(score["reference"] == scores[0]["reference"] for score in scores)
    assert scores[0]["reference"]["images"] == 899
    assert all(score["metrics"] == pytest.approx(scores[0]["metrics"], rel=1e-6) for score in scores)


def test_an_interval_of_fid_holds_it(place, judge, tmp_path):
    train, test, out = place / "data/train/images.npy", place / "data/test/images.npy", tmp_path / "s.json"
    arguments = ["--images", test, "--reference", train, "--extractor", judge, "--out", out, "--interval"]
    assert main(["score", *map(str, arguments)]) == 0
    score = json.loads(out.read_text())
    interval, fid = score["uncertainty"]["fid"], score["metrics"]["fid"]
    assert interval["low"] < fid < interval["high"]
    assert interval["at_infinity"] < fid


def test_any_set_of_images_is_scored(place, judge, tmp_path):
    """A folder, a zip and a .npz of the same images have the same score as their .npy, to the last bit."""
    train, pixels = place / "data/train/images.npy", np.load(place / "data/test/images.npy")[:60]
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "a.npz", pixels)
    folder = tmp_path / "folder"
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for index, image in enumerate(pixels):
            Image.fromarray(image[..., 0]).save(folder / f"{index:03}.png")
            archive.write(folder / f"{index:03}.png", f"samples/{index:03}.png")
    metrics = []
    for name in ("a.npy", "a.npz", "a.zip", "folder"):
        out = tmp_path / "s.json"
        assert run("score", images=tmp_path / name, reference=train, extractor=judge, out=out, workers=2) == 0
        score = json.loads(out.read_text())
        metrics.append(score["metrics"])
        assert (score["images"], score.get("dataset"), score["sampler"]) == (60, None, None)
    assert metrics[0] == metrics[1] == metrics[2] == metrics[3]


def test_a_summary_keeps_a_fixed_choice_of_features(place, judge, tmp_path):
    for keep in (20, 50):
        assert (
            run(
                "featurise",
                images=place / "data/train/images.npy",
                extractor=judge,
                out=tmp_path / f"{keep}.npz",
                keep=keep,
            )
            == 0
        )
    few, more = (features.read(tmp_path / f"{keep}.npz")[0] for keep in (20, 50))
    assert (len(few.units), len(more.units)) == (20, 50)
    assert {row.tobytes() for row in few.units} <= {row.tobytes() for row in more.units}
    assert np.array_equal(few.moments()[1], more.moments()[1])


@pytest.mark.parametrize("problem", ["another extractor", "no summary", "truncated"])
def test_a_summary_that_does_not_do_is_refused(place, judge, tmp_path, capsys, problem):
    images, summary, out = place / "data/train/images.npy", tmp_path / "f.npz", tmp_path / "s.json"
    other = place / "models/digits/classifier/default/seed1/100.safetensors"
    extractor = other if problem == "another extractor" else judge
    assert run("featurise", images=images, extractor=extractor, out=summary) == 0
    if problem == "no summary":
        np.savez(summary, units=np.zeros(3))
    if problem == "truncated":
        summary.write_bytes(summary.read_bytes()[:500])
    capsys.readouterr()
    assert run("score", images=images, reference=summary, extractor=judge, out=out) == 2
    error = capsys.readouterr().err
    assert str(summary) in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not out.exists()


@pytest.mark.parametrize(
    "problem",
    [
        "missing",
        "truncated",
        "floats",
        "three dimensions",
        "another size",
        "too few",
        "an archive",
        "none",
        "not a classifier",
    ],
)
def test_bad_images_are_not_scored(place, model, judge, tmp_path, capsys, problem):
    images, out = tmp_path / "images.npy", tmp_path / "s.json"
    good = np.array(files.read_images(place / "data/test/images.npy"))
    bad = {
        "floats": good / 255.0,
        "three dimensions": good[..., 0],
        "another size": np.zeros((50, 9, 9, 1), np.uint8),
        "none": good[:0],
    }
    if problem != "missing":
        files.write_array(images, bad.get(problem, good))
    if problem == "truncated":
        images.write_bytes(images.read_bytes()[:1000])
    elif problem == "an archive":
        with open(images, "wb") as file:
            np.savez(file, good)
    elif problem == "too few":
        files.write_array(images, good[:5])
    out.write_text("kept")
    extractor = model if problem == "not a classifier" else judge
    reference = place / "data/train/images.npy"
    assert run("score", images=images, reference=reference, extractor=extractor, out=out) == 2
    error = capsys.readouterr().err
    named = {"not a classifier": str(model), "too few": "needs at least 10 images, not 5"}
    assert named.get(problem, str(images)) in error
    assert len([line for line in error.splitlines() if "error" in line]) == 1
    assert "Traceback" not in error
    assert out.read_text() == "kept"


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
        "import sys; from cm.__main__ import main\n"
        "code = main(['train', '--run', 'digits/cd/solver~hune/seed0', '--data', 'd', '--out', 'o'])\n"
        "sys.exit(0 if code == 2 and 'torch' not in sys.modules else 1)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0
    assert (
        done.stderr.strip() == "cm train: error: digits/cd objective, solver: unknown solver 'hune'; known: euler, heun"
    )
