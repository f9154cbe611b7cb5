"""`cm score` and `cm featurize`: the same score for every form of the same images, and one line for bad input."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cm import config
from cm.cli import main
from cm.errors import UserError
from cm.evaluation import features, reference
from cm.evaluation.features import Compute
from cm.utils import files, npy


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def classifier(judge):
    """The model file of the classifier whose features are compared."""
    return judge


@pytest.fixture
def train(place):
    return place / "data/train/images.npy"


@pytest.fixture
def test(place):
    return place / "data/test/images.npy"


def run(command: str, images: Path, **options) -> int:
    """The exit status of a command with these options."""
    arguments = [command, str(images)]
    for name, value in ({"protocol": "offline"} | options).items():
        arguments += [f"--{name}", str(value)]
    return main(arguments)


def score_of(images: Path, **options) -> dict:
    """The content of the score file of images, which is written beside them."""
    out = images.with_name("score.json")
    assert run("score", images, out=out, **options) == 0
    return json.loads(out.read_text())


def protocol(folder: Path, **changes) -> Path:
    """The protocol file `offline` with some changes."""
    document = yaml.safe_load(Path("config/protocols/offline.yaml").read_text())
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(document | changes))
    return path


def test_a_score_says_everything_that_it_depends_on(place, classifier, train, tmp_path):
    model = place / "models/digits/edm/default/seed0/100.safetensors"
    images = tmp_path / "a.npy"
    assert main(f"sample --model {model} --sampler ode,solver~heun,steps~3 --count 40 --out {images}".split()) == 0
    score = score_of(images, reference=train, extractor=classifier)
    assert (score["dataset"], score["method"], score["variant"], score["seed"]) == ("digits", "edm", "default", 0)
    assert (score["sampler"], score["nfe"], score["samples"]) == ("ode,solver~heun,steps~3", 5, 40)
    assert score["protocol"] == config.read_protocol("offline").settings()
    assert score["protocol"]["quantization"] == "truncate"
    assert score["extractor"] == {"name": "digits/classifier/default/seed0", "sha256": files.sha256_of(classifier)}
    assert score["reference"]["sha256"] == files.sha256_of(train)
    assert (score["reference"]["split"], score["reference"]["images"]) == ("train", 899)
    assert list(score["metrics"]) == list(config.read_protocol("offline").metrics)
    assert score["unavailable"] == {}
    assert score["seconds"]["sampling"] > 0
    assert score["seconds"]["scoring"] > 0
    assert score["extraction"] == {"batch": 64, "threads": torch.get_num_threads()}
    assert score["versions"]["torch"]


def test_samples_of_another_quantization_are_refused(classifier, train, test, tmp_path, capsys):
    images = tmp_path / "a.npy"
    files.write_array(images, npy.read_images(test))
    files.write_json(tmp_path / "a.json", {"quantization": "round"})
    assert run("score", images, reference=train, extractor=classifier, out=tmp_path / "s.json") == 2
    assert "a.npy has quantization 'round', protocol offline prescribes 'truncate'" in capsys.readouterr().err


@pytest.mark.parametrize("quantization", ["round", "truncate"])
def test_a_protocol_without_quantization_accepts_either(classifier, train, test, tmp_path, quantization):
    images = tmp_path / "a.npy"
    files.write_array(images, npy.read_images(test))
    files.write_json(tmp_path / "a.json", {"quantization": quantization})
    score = score_of(images, reference=train, extractor=classifier, protocol=protocol(tmp_path, quantization=None))
    assert score["quantization"] == quantization
    assert score["protocol"]["quantization"] is None


def test_a_foreign_json_file_beside_samples_is_not_their_description(classifier, train, test, tmp_path):
    images = tmp_path / "a.npy"
    files.write_array(images, npy.read_images(test))
    files.write_json(tmp_path / "a.json", [1, 2])
    score = score_of(images, reference=train, extractor=classifier)
    assert (score["samples"], score["sampler"]) == (len(npy.read_images(test)), None)


def test_of_more_samples_than_the_protocol_asks_for_the_first_are_scored(classifier, train, test, tmp_path):
    """A run with several protocols is sampled for the largest; images that the suite did not sample are all scored."""
    pixels, by = np.load(test), protocol(tmp_path, samples=50)
    score = {}
    for name, images, about in (("more", pixels[:80], {"nfe": 1}), ("fifty", pixels[:50], {}), ("foreign", pixels, {})):
        (tmp_path / name).mkdir()
        files.write_array(tmp_path / name / "a.npy", images)
        if about:
            files.write_json(tmp_path / name / "a.json", about)
        score[name] = score_of(tmp_path / name / "a.npy", reference=train, extractor=classifier, protocol=by)
    assert (score["more"]["samples"], score["foreign"]["samples"]) == (50, len(pixels))
    assert score["more"]["metrics"] == score["fifty"]["metrics"]
    assert score["more"]["uncertainty"] == score["fifty"]["uncertainty"]


def test_real_images_against_themselves_score_perfectly(classifier, train, tmp_path):
    images = tmp_path / "a.npy"
    files.write_array(images, npy.read_images(train))
    values = score_of(images, reference=train, extractor=classifier)["metrics"]
    assert values["fid"] == pytest.approx(0, abs=1e-5)
    assert values["precision"] == values["recall"] == 1.0


def test_one_reference_in_three_forms_gives_one_score(classifier, train, test, tmp_path, monkeypatch):
    """Images, and their summaries computed in other batches, each with an empty cache."""
    images = tmp_path / "a.npy"
    files.write_array(images, npy.read_images(test))
    references = [train]
    for batch in (64, 899):
        monkeypatch.setenv("CM_CACHE", str(tmp_path / f"cache{batch}"))
        references.append(tmp_path / f"{batch}.npz")
        assert run("featurize", train, extractor=classifier, out=references[-1], batch=batch) == 0
    scores = [score_of(images, reference=reference, extractor=classifier) for reference in references]
    expected = scores[0]["reference"]
    assert all(score["reference"]["sha256"] == expected["sha256"] for score in scores)
    assert all(score["metrics"] == pytest.approx(scores[0]["metrics"], rel=1e-6) for score in scores)


def test_few_samples_are_extrapolated_and_one_seed_has_an_interval(classifier, train, test, tmp_path):
    images = tmp_path / "a.npy"
    files.write_array(images, npy.read_images(test))
    for count, keys in ((100, {"low", "high"}), (10_000, {"low", "high", "at_infinity"})):
        by = protocol(tmp_path, samples=count)
        score = score_of(images, reference=train, extractor=classifier, protocol=by)
        interval, fid = score["uncertainty"]["fid"], score["metrics"]["fid"]
        assert set(interval) == keys
        assert interval["low"] < fid < interval["high"]
    assert interval["at_infinity"] < fid


def forms_of(pixels: np.ndarray, folder: Path) -> list[Path]:
    """The same images as .npy, .npz, zip and folder; the files of the folder are written in reverse."""
    np.save(folder / "a.npy", pixels)
    np.savez(folder / "a.npz", pixels)
    (folder / "a").mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for index in reversed(range(len(pixels))):
            Image.fromarray(pixels[index, ..., 0]).save(folder / f"a/{index:03}.png")
            archive.write(folder / f"a/{index:03}.png", f"samples/{index:03}.png")
    return [folder / name for name in ("a.npy", "a.npz", "a.zip", "a")]


@pytest.mark.parametrize(("batch", "workers", "device"), [(7, 1, "cpu"), (60, 3, "cpu"), (16, 2, "cpu,cpu,cpu")])
def test_scores_do_not_depend_on_how_they_are_computed(classifier, train, test, tmp_path, batch, workers, device):
    """Form of the file, order of files, batch, threads, devices: to the last bit where a batch has the same size."""
    how = {"reference": train, "extractor": classifier, "batch": batch, "workers": workers, "device": device}
    paths = forms_of(np.load(test)[:60], tmp_path)
    scores = [score_of(path, **how) for path in paths]
    assert all((score["samples"], score.get("dataset"), score["sampler"]) == (60, None, None) for score in scores)
    assert all(score["metrics"] == scores[0]["metrics"] for score in scores)
    other = score_of(paths[0], reference=train, extractor=classifier)
    assert scores[0]["metrics"] == pytest.approx(other["metrics"], rel=1e-6)


def test_several_devices_give_what_one_gives(classifier, train, test):
    """Bitwise: they share the same batches."""
    from cm import build
    from cm.evaluation import imagesets

    extractor = build.load_extractor(config.read_protocol("offline"), classifier, (1, 8, 8))
    one, three = (
        features.extract(extractor, imagesets.open_images(test), Compute(batch=50, devices=devices))
        for devices in (("cpu",), ("cpu",) * 3)
    )
    assert np.array_equal(one.features, three.features)
    assert np.array_equal(one.logits, three.logits)


def test_features_of_another_precision_are_near_but_do_not_compare(classifier, train, test, tmp_path, capsys):
    exact = score_of(test, reference=train, extractor=classifier)
    reduced = score_of(test, reference=train, extractor=classifier, protocol=protocol(tmp_path, precision="bfloat16"))
    assert reduced["extractor"] == {**exact["extractor"], "precision": "bfloat16"}
    assert reduced["protocol"]["precision"] == "bfloat16"
    assert reduced["metrics"]["fid"] == pytest.approx(exact["metrics"]["fid"], rel=0.05)
    assert reduced["metrics"]["fid"] != exact["metrics"]["fid"]
    assert run("featurize", train, extractor=classifier, out=tmp_path / "a.npz") == 0
    by = {"extractor": classifier, "protocol": protocol(tmp_path, precision="bfloat16"), "out": tmp_path / "b.json"}
    assert run("score", test, reference=tmp_path / "a.npz", **by) == 2
    assert "features of extractor" in capsys.readouterr().err


def test_an_unknown_precision_of_a_protocol_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"precision .*'float8'.*bfloat16, float16, float32"):
        config.read_protocol(str(protocol(tmp_path, precision="float8")))


# ---- summaries of the reference ------------------------------------------------------------------------------------


def test_a_summary_is_computed_once(classifier, train, tmp_path, monkeypatch):
    assert run("featurize", train, extractor=classifier, out=tmp_path / "a.npz") == 0
    monkeypatch.setattr(features, "extract", None)
    monkeypatch.setattr(features, "summarize_halves", None)
    copy = tmp_path / "elsewhere" / "train" / "images.npy"
    files.write_array(copy, npy.read_images(train))
    assert run("featurize", copy, extractor=classifier, out=tmp_path / "b.npz") == 0
    assert (tmp_path / "b.npz").read_bytes() == (tmp_path / "a.npz").read_bytes()


@pytest.mark.parametrize("change", [{"reference_images": 30}, {"metrics": ["fid"]}, {"precision": "bfloat16"}])
def test_another_protocol_is_another_summary(classifier, train, tmp_path, change):
    assert run("featurize", train, extractor=classifier, out=tmp_path / "a.npz") == 0
    by = protocol(tmp_path, **change)
    assert run("featurize", train, extractor=classifier, out=tmp_path / "b.npz", protocol=by) == 0
    assert len(list((tmp_path / "cache/features").glob("*.npz"))) == 2


def test_a_summary_keeps_a_fixed_choice_of_features(classifier, train, tmp_path):
    for kept in (20, 50):
        by = protocol(tmp_path, reference_images=kept)
        assert run("featurize", train, extractor=classifier, protocol=by, out=tmp_path / f"{kept}.npz") == 0
    few, more = (features.read(tmp_path / f"{kept}.npz")[0] for kept in (20, 50))
    assert (len(few.features), len(more.features)) == (20, 50)
    assert {row.tobytes() for row in few.features} <= {row.tobytes() for row in more.features}
    assert np.array_equal(few.moments()[1], more.moments()[1])


def test_a_summary_has_the_metrics_of_one_random_half_against_the_other(classifier, train, tmp_path):
    assert run("featurize", train, extractor=classifier, out=tmp_path / "a.npz") == 0
    found, about = features.read(tmp_path / "a.npz")
    halves = about["reference"]["split_halves"]
    assert halves["images"] == 449
    assert set(halves["metrics"]) == set(config.read_protocol("offline").metrics) - {"inception_score"}
    order = np.random.RandomState(0).permutation(899)
    for index, part in enumerate((order[:449], order[449:])):
        files.write_array(tmp_path / f"{index}.npy", np.load(train)[np.sort(part)])
    score = score_of(tmp_path / "0.npy", reference=tmp_path / "1.npy", extractor=classifier)
    assert halves["metrics"]["fid"] == pytest.approx(score["metrics"]["fid"], rel=1e-5)
    assert found.fitted[1].shape == (8, 8)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 3, 7])
def test_an_interrupted_summary_continues_and_is_the_same(classifier, train, tmp_path, monkeypatch, after):
    assert run("featurize", train, extractor=classifier, out=tmp_path / "a.npz", batch=100) == 0
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(features, "SAVE_INTERVAL", 0.0)
    seen, outputs = [], features._outputs

    def killing(*arguments):
        if len(seen) == after:
            raise Killed
        seen.append(1)
        return outputs(*arguments)

    monkeypatch.setattr(features, "_outputs", killing)
    with pytest.raises(Killed):
        run("featurize", train, extractor=classifier, out=tmp_path / "b.npz", batch=100)
    monkeypatch.setattr(features, "_outputs", lambda *arguments: seen.append(1) or outputs(*arguments))
    assert run("featurize", train, extractor=classifier, out=tmp_path / "b.npz", batch=100) == 0
    assert len(seen) == 9  # 899 images: nothing twice
    assert (tmp_path / "b.npz").read_bytes() == (tmp_path / "a.npz").read_bytes()
    assert not list((tmp_path / "other/features").glob("*.state.npz"))


# ---- published statistics -----------------------------------------------------------------------------------------


def test_published_statistics_are_a_reference_for_fid_alone(classifier, train, test, tmp_path):
    images = tmp_path / "a.npy"
    files.write_array(images, npy.read_images(test))
    own = score_of(images, reference=train, extractor=classifier)
    assert run("featurize", train, extractor=classifier, out=tmp_path / "own.npz") == 0
    mean, covariance = features.read(tmp_path / "own.npz")[0].moments()
    np.savez(tmp_path / "published.npz", mu=mean, sigma=covariance)
    score = score_of(images, reference=tmp_path / "published.npz", extractor=classifier)
    assert score["metrics"]["fid"] == pytest.approx(own["metrics"]["fid"], rel=1e-9)
    assert score["metrics"]["inception_score"] == own["metrics"]["inception_score"]
    assert score["metrics"]["kid"] is score["metrics"]["precision"] is score["metrics"]["recall"] is None
    assert set(score["unavailable"]) == {"kid", "precision", "recall", "density", "coverage", "authenticity"}
    assert "nearest" not in score
    assert score["reference"]["sha256"] == files.sha256_of(tmp_path / "published.npz")


@pytest.mark.parametrize("form", ["foreign", "packed"])
def test_a_protocol_may_name_statistics(classifier, train, test, tmp_path, form):
    """Then the images are needed only for the features that are kept of them."""
    images = tmp_path / "a.npy"
    files.write_array(images, npy.read_images(test))
    own = score_of(images, reference=train, extractor=classifier)
    assert run("featurize", train, extractor=classifier, out=tmp_path / "own.npz") == 0
    found, about = features.read(tmp_path / "own.npz")
    if form == "packed":
        reference.pack(tmp_path / "given.npz", *found.moments(), about)
    else:
        np.savez(tmp_path / "given.npz", mu=found.moments()[0], sigma=found.moments()[1])
    by = protocol(tmp_path, statistics="given.npz")
    assert run("featurize", train, extractor=classifier, protocol=by, out=tmp_path / "b.npz") == 0
    score = score_of(images, reference=tmp_path / "b.npz", extractor=classifier, protocol=by)
    assert score["metrics"] == pytest.approx(own["metrics"], rel=1e-4)
    assert score["reference"]["statistics"]["sha256"] == files.sha256_of(tmp_path / "given.npz")
    assert ("split_halves" in score["reference"]) == (form == "packed")


def test_statistics_on_the_command_line_replace_those_of_the_protocol(classifier, train, tmp_path):
    assert run("featurize", train, extractor=classifier, out=tmp_path / "own.npz") == 0
    mean, covariance = features.read(tmp_path / "own.npz")[0].moments()
    for name, factor in (("protocol.npz", 2), ("given.npz", 3)):
        np.savez(tmp_path / name, mu=mean, sigma=factor * covariance)
    by = protocol(tmp_path, statistics="protocol.npz")
    for given, factor in (({}, 2), ({"statistics": tmp_path / "given.npz"}, 3)):
        assert run("featurize", train, extractor=classifier, protocol=by, out=tmp_path / "b.npz", **given) == 0
        assert np.array_equal(features.read(tmp_path / "b.npz")[0].moments()[1], factor * covariance)


def test_statistics_of_other_images_are_refused(classifier, train, test, tmp_path, capsys):
    assert run("featurize", test, extractor=classifier, out=tmp_path / "test.npz") == 0
    found, about = features.read(tmp_path / "test.npz")
    reference.pack(tmp_path / "given.npz", *found.moments(), about)
    by = protocol(tmp_path, statistics="given.npz")
    assert run("featurize", train, extractor=classifier, protocol=by, out=tmp_path / "b.npz") == 2
    assert "given.npz has statistics of other images than 899 of the train split" in capsys.readouterr().err


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", ["another extractor", "another resizer", "no summary", "truncated"])
def test_a_summary_that_does_not_fit_is_refused(place, classifier, train, tmp_path, capsys, problem):
    summary, out = tmp_path / "f.npz", tmp_path / "s.json"
    assert run("featurize", train, extractor=classifier, out=summary) == 0
    found, about = features.read(summary)
    if problem == "another extractor":
        features.write(summary, found, about | {"extractor": {"name": "inception", "sha256": "0"}})
    elif problem == "another resizer":
        features.write(summary, found, about | {"resizer": "clean"})
    elif problem == "no summary":
        np.savez(summary, features=np.zeros(3), mean=np.zeros(3))
    else:
        summary.write_bytes(summary.read_bytes()[:500])
    capsys.readouterr()
    assert run("score", train, reference=summary, extractor=classifier, out=out) == 2
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
        "floats of [-1, 1]",
        "not a number",
        "three dimensions",
        "channels",
        "mixed sizes",
        "another size",
        "too few for IS",
        "too few neighbours",
        "too few for a covariance",
        "too few real ones",
        "an archive",
        "none",
        "not a classifier",
        "another classifier",
    ],
)
def test_bad_images_are_not_scored(place, classifier, train, test, tmp_path, capsys, problem):
    images, out, reference = tmp_path / "images.npy", tmp_path / "s.json", train
    good = np.array(npy.read_images(test))
    bad = {
        "floats": good / 255.0,
        "floats of [-1, 1]": good / 127.5 - 1,
        "not a number": np.where(good > 9, np.nan, good),
        "three dimensions": good[..., 0],
        "channels": good.repeat(2, -1),
        "another size": np.zeros((50, 9, 9, 1), np.uint8),
        "too few for IS": good[:5],
        "too few neighbours": good[:3],
        "too few for a covariance": good[:1],
        "none": good[:0],
    }
    if problem == "mixed sizes":
        images = tmp_path / "folder"
        images.mkdir()
        for size in (8, 9):
            Image.new("L", (size, size)).save(images / f"{size}.png")
    elif problem != "missing":
        files.write_array(images, bad.get(problem, good))
    if problem == "truncated":
        images.write_bytes(images.read_bytes()[:1000])
    elif problem == "an archive":
        with open(images, "wb") as file:
            np.savez(file, good)
    elif problem == "too few real ones":
        reference = tmp_path / "few.npy"
        files.write_array(reference, good[:3])
    out.write_text("kept")
    models = {"not a classifier": "edm/default/seed0", "another classifier": "classifier/default/seed1"}
    extractor = place / "models/digits" / models.get(problem, "classifier/default/seed0") / "100.safetensors"
    wanted = {"too few neighbours": ["precision"], "too few for a covariance": ["fid"]}
    by = protocol(tmp_path, metrics=wanted[problem]) if problem in wanted else "offline"
    assert run("score", images, reference=reference, extractor=extractor, protocol=by, out=out) == 2
    error = capsys.readouterr().err
    expected = {
        "not a classifier": str(extractor),
        "another classifier": f"{extractor} holds digits/classifier/default/seed1, protocol offline compares",
        "too few for IS": "inception_score needs at least 10 images",
        "too few neighbours": "precision needs at least 4 images",
        "too few for a covariance": "fid needs at least 2 images",
        "too few real ones": "a reference needs at least 4 images, not 3",
        "floats of [-1, 1]": "((x + 1) * 127.5)",
        "not a number": "NaN",
    }
    assert expected.get(problem, str(images)) in error
    assert len([line for line in error.splitlines() if "error" in line]) == 1
    assert "Traceback" not in error
    assert out.read_text() == "kept"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extractor": "incption"}, "unknown weights 'incption'"),
        ({"extractor": "lpips-vgg16", "resizer": "clean"}, "'lpips-vgg16' gives no features to score with"),
        ({"resizer": "clean"}, "extractor digits/classifier/default/seed0: unknown resizer 'clean'; known: none"),
        ({"resizer": "cleen"}, "unknown resizer 'cleen'"),
        ({"metrics": ["fid", "fids"]}, "unknown metric 'fids'"),
        ({"quantization": "up"}, "unknown quantization 'up'"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"smaples": 100}, "unknown setting 'smaples'"),
        ({"name": "other"}, "'name' cannot be set: it follows from the path of the file"),
    ],
)
def test_a_bad_protocol_is_one_line(classifier, train, tmp_path, capsys, change, message):
    by = protocol(tmp_path, **change)
    assert run("score", train, reference=train, extractor=classifier, protocol=by, out=tmp_path / "s.json") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in Path("config/protocols").glob("*.yaml")))
def test_shipped_protocols(name):
    found = config.read_protocol(name)
    assert found.name == name
    assert found.statistics_file is None or found.statistics_file.is_file()
    assert {"fid", "precision", "recall"} <= set(found.metrics)


@pytest.mark.parametrize("name", ["cifar10", "adm"])
def test_protocols_of_the_paper(name):
    """50,000 truncated samples, TensorFlow's resizer, 10,000 reference images for precision and recall."""
    found = config.read_protocol(name).settings()
    expected = {
        "extractor": "inception",
        "resizer": "legacy_tensorflow",
        "quantization": "truncate",
        "reference": "train",
    }
    assert {key: found[key] for key in expected} == expected
    assert (found["samples"], found["reference_images"]) == (50_000, 10_000)


def test_unknown_protocols_list_the_known(train, classifier, tmp_path, capsys):
    assert run("score", train, reference=train, extractor=classifier, protocol="cifar", out=tmp_path / "s.json") == 2
    known = ", ".join(sorted(path.stem for path in Path("config/protocols").glob("*.yaml")))
    assert f"unknown protocol 'cifar'; known: {known}\n" in capsys.readouterr().err


def test_unavailable_pretrained_weights_are_one_line(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("cm.utils.transfer.download", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    assert run("score", train, reference=train, protocol="dinov2", out=tmp_path / "s.json") == 2
    error = capsys.readouterr().err
    assert "dinov2_vitl14_pretrain.pth" in error
    assert str(tmp_path / "cache") in error


def test_a_reference_with_statistics_and_images_has_every_metric(classifier, train, test, tmp_path):
    """As ADM's VIRTUAL_*.npz: moments of all images, and 10,000 images."""
    images = tmp_path / "a.npy"
    files.write_array(images, npy.read_images(test))
    assert run("featurize", train, extractor=classifier, out=tmp_path / "own.npz") == 0
    mean, covariance = features.read(tmp_path / "own.npz")[0].moments()
    some = np.load(train)[:300]
    np.savez(tmp_path / "VIRTUAL.npz", mu=mean, sigma=covariance, mu_s=np.zeros(3), sigma_s=np.eye(3), arr_0=some)
    files.write_array(tmp_path / "some.npy", some)
    score = score_of(images, reference=tmp_path / "VIRTUAL.npz", extractor=classifier)["metrics"]
    of_all = score_of(images, reference=train, extractor=classifier)["metrics"]
    of_some = score_of(images, reference=tmp_path / "some.npy", extractor=classifier)["metrics"]
    assert score["fid"] == pytest.approx(of_all["fid"], rel=1e-9)
    assert score["fid"] != pytest.approx(of_some["fid"], rel=1e-2)
    assert (score["precision"], score["recall"]) == (of_some["precision"], of_some["recall"])


# ---- blocks and nearest images --------------------------------------------------------------------------------------


def test_the_score_of_blocks_is_the_mean_of_their_scores(place, classifier, train, tmp_path):
    """EDM reports the lowest of three FIDs; each is that of its own samples."""
    model = place / "models/digits/edm/default/seed0/100.safetensors"
    images = tmp_path / "a.npy"
    assert main(f"sample --model {model} --sampler ode,solver~heun,steps~3 --count 95 --out {images}".split()) == 0
    by = protocol(tmp_path, samples=30, blocks=3)
    score = score_of(images, reference=train, extractor=classifier, protocol=by)
    assert score["samples"] == 30
    assert len(score["blocks"]) == 3
    for index, block in enumerate(score["blocks"]):
        files.write_array(tmp_path / "block.npy", np.load(images)[30 * index : 30 * (index + 1)])
        assert score_of(tmp_path / "block.npy", reference=train, extractor=classifier)["metrics"] == block
    for name, value in score["metrics"].items():
        assert value == pytest.approx(np.mean([block[name] for block in score["blocks"]]))
    assert len({block["fid"] for block in score["blocks"]}) == 3


def test_a_score_names_the_nearest_training_images(classifier, train, tmp_path):
    """Of training images these are the images themselves, also where a summary keeps only some of them."""
    own, images = np.load(train), tmp_path / "a.npy"
    by = protocol(tmp_path, reference_images=60)
    assert run("featurize", train, extractor=classifier, out=tmp_path / "f.npz", protocol=by) == 0
    kept = features.read(tmp_path / "f.npz")[0]
    assert kept.places.shape == (60,)
    files.write_array(images, own[kept.places[:40]])
    score = score_of(images, reference=tmp_path / "f.npz", extractor=classifier, protocol=by)
    assert score["nearest"]["places"] == kept.places[:40].tolist()
    assert max(score["nearest"]["distances"]) < min(score["nearest"]["spacings"])
    assert score["metrics"]["authenticity"] == 0.0


def test_a_summary_without_places_is_read(classifier, train, test, tmp_path):
    """As earlier versions wrote it."""
    assert run("featurize", train, extractor=classifier, out=tmp_path / "f.npz") == 0
    arrays = dict(np.load(tmp_path / "f.npz"))
    arrays.pop("places")
    np.savez(tmp_path / "old.npz", **arrays)
    files.write_array(tmp_path / "a.npy", np.load(test))
    scores = [score_of(tmp_path / "a.npy", reference=tmp_path / f"{n}.npz", extractor=classifier) for n in ("f", "old")]
    assert scores[0]["metrics"] == scores[1]["metrics"]
    assert "nearest" in scores[0]
    assert "nearest" not in scores[1]
