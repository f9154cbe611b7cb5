"""The commands by hand: what they write, and one clear line and status 2 for every mistake."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
import torch

from cm import registry
from cm.cli import main
from cm.config.schema import SCHEMAS, schema_file
from cm.config.settings import at_least
from cm.data.base import ArrayImages, DataSet, Source
from cm.utils import files, npy


@pytest.fixture
def model(place):
    return place / "models/digits/edm/default/seed0/100.safetensors"


def run(command: str, **options) -> int:
    """`main` with options as a user types them."""
    return main([command, *(str(part) for name, value in options.items() for part in (f"--{name}", value))])


def test_sample(model, tmp_path):
    out, preview = tmp_path / "a.npy", tmp_path / "p.npy"
    assert run("sample", model=model, sampler="ode,solver~heun,steps~3", count=40, out=out, preview=preview) == 0
    images, about = npy.read_images(out), files.read_json(tmp_path / "a.json")
    assert images.shape == (40, 8, 8, 1)
    assert (about["nfe"], about["seed"], about["run"]) == (5, 0, "digits/edm/default/seed0")
    assert (about["quantization"], about["clamp"]) == ("truncate", False)
    assert np.array_equal(npy.read_images(preview), images)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_preview_alone_has_the_first_samples_and_no_others_are_made(model, tmp_path, monkeypatch):
    folder, made, create = tmp_path / "previews", [], files.create_array
    monkeypatch.setattr(files, "create_array", lambda path, shape: made.append(shape[0]) or create(path, shape))
    assert run("sample", model=model, sampler="onestep", count=100, out=tmp_path / "a.npy") == 0
    assert run("sample", model=model, sampler="onestep", count=100, preview=folder / "p.npy") == 0
    assert made == [100, 64]
    assert np.array_equal(npy.read_images(folder / "p.npy"), npy.read_images(tmp_path / "a.npy")[:64])
    assert sorted(path.name for path in folder.iterdir()) == ["p.npy", "p.png"]


def test_sample_needs_a_file_to_write(model, capsys):
    assert run("sample", model=model, sampler="onestep") == 2
    assert capsys.readouterr().err == (
        "cm sample: error: give --out, --preview or both: the files for all samples and for the first of them\n"
    )


def without_seconds(path: Path) -> dict:
    return {key: value for key, value in files.read_json(path).items() if key != "seconds"}


@pytest.fixture
def used(monkeypatch):
    """The devices on which something is computed, of each sampling and each computation of features."""
    from cm.diffusion import sampling
    from cm.evaluation import features

    devices, map_on_devices = [], sampling.map_on_devices

    def record(function, module, parts, names):
        devices.append(",".join(names))
        return map_on_devices(function, module, parts, names)

    for module in (sampling, features):
        monkeypatch.setattr(module, "map_on_devices", record)
    return devices


def test_several_devices_write_what_one_writes(place, model, judge, tmp_path, used):
    """The same bytes of samples, and the same scores; 7 does not divide 40."""
    how = {"model": model, "sampler": "multistep,times~0.8", "count": 40, "batch": 7}
    scoring = {"reference": place / "data/train/images.npy", "protocol": "offline", "extractor": judge}
    for device in ("cpu", "cpu,cpu"):
        assert run("sample", out=tmp_path / f"{device}.npy", device=device, **how) == 0
        assert run("evaluate", score=tmp_path / f"{device}.score.json", device=device, **how, **scoring) == 0
    assert set(used[: used.index("cpu,cpu")]) == {"cpu"} and set(used[used.index("cpu,cpu") :]) == {"cpu,cpu"}
    assert used.count("cpu,cpu") == 3, "of `sample`, of `evaluate`, and the features of its samples"
    assert (tmp_path / "cpu.npy").read_bytes() == (tmp_path / "cpu,cpu.npy").read_bytes()
    for end in ("json", "score.json"):
        assert without_seconds(tmp_path / f"cpu.{end}") == without_seconds(tmp_path / f"cpu,cpu.{end}")


def test_a_device_that_fails_is_one_line_and_no_file(model, tmp_path, monkeypatch, capsys):
    from cm.diffusion.denoiser import Denoiser

    forward = Denoiser.forward

    def fail(self, x, *others):
        if len(x) == 3:  # of the last batch
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return forward(self, x, *others)

    monkeypatch.setattr(Denoiser, "forward", fail)
    how = {"model": model, "sampler": "onestep", "count": 11, "batch": 4, "device": "cpu,cpu"}
    assert run("sample", out=tmp_path / "a.npy", **how) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("cm sample: error: device 'cpu' has too little free memory")
    assert not [line for line in error if "Traceback" in line]
    assert not list(tmp_path.iterdir())


def test_samples_in_lower_precision_differ_a_little(model, tmp_path):
    made = {}
    for precision in ("float32", "bfloat16", "float16"):
        out = tmp_path / f"{precision}.npy"
        options = {"model": model, "sampler": "ode,solver~heun,steps~3", "count": 8, "precision": precision}
        assert run("sample", out=out, **options) == 0
        made[precision] = npy.read_images(out).astype(float)
    for precision in ("bfloat16", "float16"):
        assert 0 < np.abs(made[precision] - made["float32"]).mean() < 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "onestp"}, f"unknown sampler 'onestp'; known: {', '.join(registry.names('sampler'))}"),
        ({"sampler": "ode,solver~heun,steps~1"}, "steps must be at least 2"),
        ({"model": "absent.safetensors"}, "no file absent.safetensors"),
        ({"device": "cuda:9"}, "device 'cuda:9'"),
        ({"device": "cpu,cuda:9"}, "device 'cuda:9'"),
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
    known = ", ".join(registry.names("solver"))
    assert done.stderr.strip() == f"cm train: error: digits/cd, solver: unknown solver 'hune'; known: {known}"


# ---- usage ----


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("", "cm: error: missing command"),
        ("sampel", "cm: error: unknown command 'sampel'; known: card, claims, convert, describe, draw, "),
        ("train --run x --dta y", "cm train: error: unknown option '--dta'; known: --data, --device, "),
        ("train --run x --o y", "cm train: error: unknown option '--o'"),
        ("train", "cm train: error: missing option '--run'"),
        ("score --out a.json", "cm score: error: missing argument 'IMAGES'"),
        ("convert --model a --to jax --out b", "cm convert: error: invalid value for '--to': 'jax' is not one of"),
        ("sample --count three", "cm sample: error: invalid value for '--count': 'three' is not a valid integer"),
        ("sample --out tests", "cm sample: error: invalid value for '--out': file 'tests' is a directory"),
        ("sample --out", "cm sample: error: option '--out' requires an argument"),
        ("draw --suite config/suites/demo.yaml --artefact a b", "cm draw: error: got unexpected extra argument (b)"),
        ("draw --suite x.yaml --artefact a --results pyproject.toml", "cm draw: error: invalid value for '--results'"),
        ("prepare --dataset digits --out x --allow-undecodable 1", "cm prepare: error: invalid value for '--allow-"),
        (
            "train --run x --data y --out z --device cpu,cpu",
            "cm train: error: a process trains on one device, not on cpu",
        ),
        ("sample --seed 4001 --sampler onestep --out a.npy", "cm sample: error: seed must be at most 4000, not 4001"),
    ],
)
def test_wrong_usage_is_one_line(capsys, arguments, error):
    assert main(arguments.split()) == 2
    output = capsys.readouterr()
    assert output.err.lower().startswith(error.lower())
    assert output.err.count("\n") == 1
    assert not output.out


@pytest.mark.parametrize("command", ["", "prepare", "train", "convert", "weights", "describe", "sample", "score"])
def test_help_is_no_mistake(capsys, command):
    assert main([*command.split(), "--help"]) == 0
    assert "Options:" in capsys.readouterr().out


def test_version(capsys):
    from cm import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("arguments", ["--help", "train --help", "prepare --dataset digits --out {}", "prepare --help"])
def test_what_needs_no_torch_does_not_import_it(tmp_path, arguments):
    check = (
        "import sys; from cm.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'sklearn', 'scipy', 'PIL'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", check, *arguments.format(tmp_path / "data").split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "cm", "sampel"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("cm: error: unknown command 'sampel'; known: ")


@pytest.mark.parametrize("spelling", ["--out {0} {1}", "--out {0} --out {1}", "--out={0} --out={1}"])
def test_several_files_of_a_training(place, tmp_path, spelling):
    outputs = [tmp_path / "models" / f"{progress}.safetensors" for progress in (50, 100)]
    arguments = f"train --run digits/edm/default/seed2 {spelling} --experiments {place}/experiments --data {place}/data"
    assert main(arguments.format(*outputs).split()) == 0
    assert all(path.is_file() for path in outputs)
    assert (tmp_path / "models/samples.png").is_file()


@pytest.mark.parametrize("outputs", ["a/50.safetensors b/100.safetensors", "a/0.safetensors", "a/last.safetensors"])
def test_other_names_of_models_are_refused(place, capsys, outputs):
    arguments = f"train --run digits/edm/default/seed2 --out {outputs} --experiments {place}/experiments --data d"
    assert main(arguments.split()) == 2
    assert "out must be files of one folder named by percentages of training" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("sample", model=model, sampler="onestep", count=1, out=tmp_path / "file" / "a.npy") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cm sample: error: {tmp_path}/file")
    assert error.count("\n") == 1


def test_schemas_of_the_configuration(tmp_path):
    assert run("schema", out=tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == {schema_file(kind) for kind in SCHEMAS}


def test_samples_and_their_score_in_one_command(place, model, judge, tmp_path):
    preview, score = tmp_path / "preview.npy", tmp_path / "scores/score.json"
    how = {"reference": place / "data/train/images.npy", "protocol": "offline", "extractor": judge}
    assert run("evaluate", model=model, sampler="onestep", count=40, preview=preview, score=score, **how) == 0
    assert npy.read_images(preview).shape == (40, 8, 8, 1)
    assert preview.with_suffix(".png").exists()
    assert list(score.parent.iterdir()) == [score]  # the samples are not kept
    written = preview.stat().st_mtime_ns
    assert run("evaluate", model=model, sampler="onestep", count=40, preview=preview, score=score, **how) == 0
    assert preview.stat().st_mtime_ns == written  # it is newer than the model
    result = files.read_json(score)
    assert (result["sampler"], result["samples"], result["seed"]) == ("onestep", 40, 0)
    assert result["metrics"]["fid"] > 0


# ---- the settings of a data set are options ----


@dataclasses.dataclass(frozen=True)
class Stripes(DataSet):
    """Images of stripes, for which every kind of setting matters. `line_width`: of the lines."""

    resolution: ClassVar[int] = 4
    channels: ClassVar[int] = 1
    preprocessing: ClassVar[str] = "none"
    images: Annotated[int, at_least(1)] = 2
    line_width: Literal["thin", "thick"] = "thin"
    contrast: Annotated[float, at_least(0.0)] = 1.0
    inverted: bool = False
    title: str | None = None
    levels: tuple[int, ...] = (0, 255)

    def open(self, source: Path | None, scratch: Path) -> Source:
        pixels = np.zeros((self.images, 4, 4, 1), np.uint8)
        return Source(
            "stripes", {"train": ArrayImages(pixels, np.zeros(self.images, np.int64))}, fingerprint="", sha256="0"
        )


@pytest.fixture
def stripes(monkeypatch):
    registry.names("dataset")
    monkeypatch.setitem(registry._components["dataset"], "stripes", Stripes)


def test_settings_of_a_data_set_are_options(stripes, tmp_path):
    options = {
        "images": 5,
        "line-width": "thick",
        "contrast": "5e-1",
        "inverted": "true",
        "title": "1",
        "levels": "0+9",
    }
    assert run("prepare", dataset="stripes", out=tmp_path, **options) == 0
    expected = {"images": 5, "line_width": "thick", "contrast": 0.5, "inverted": True, "title": "1", "levels": [0, 9]}
    assert files.read_json(tmp_path / "manifest.json")["settings"] == expected
    assert npy.read_images(tmp_path / "train/images.npy").shape == (5, 4, 4, 1)


def test_settings_as_the_workflow_writes_them(stripes, tmp_path):
    options = {"line_width": "thin", "inverted": "False", "levels": "[1, 2]", "images": 3}
    assert run("prepare", dataset="stripes", out=tmp_path, **options) == 0
    settings = files.read_json(tmp_path / "manifest.json")["settings"]
    assert (settings["line_width"], settings["inverted"], settings["levels"]) == ("thin", False, [1, 2])


def test_help_says_of_which_data_sets_a_setting_is(stripes, capsys):
    assert main(["prepare", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "a whole number; of imagenet64, lsun_bedroom, lsun_bedroom_validation, lsun_cat, stripes" in words
    assert "of the lines, thin or thick; of stripes" in words
    assert "--line-width" in words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dataset": "stripes", "resolution": 8},
            "data set 'stripes': unknown setting 'resolution'; "
            "known: contrast, images, inverted, levels, line_width, title",
        ),
        ({"dataset": "digits", "images": 8}, "data set 'digits': unknown setting 'images'; known: none"),
        ({"dataset": "folder"}, "data set 'folder': 'resolution' is missing"),
        ({"dataset": "stripes", "images": 0}, "data set 'stripes': images must be at least 1, not 0"),
        ({"dataset": "stripes", "images": "many"}, "data set 'stripes': 'images' must be a whole number, not 'many'"),
        ({"dataset": "stripes", "line-width": "wide"}, "unknown line_width 'wide'; known: thick, thin"),
        ({"dataset": "stripes", "inverted": 3}, "data set 'stripes': 'inverted' must be true or false, not 3"),
        ({"dataset": "stripes", "contrast": "[}"}, "data set 'stripes': 'contrast' must be a number, not '[}'"),
    ],
)
def test_settings_that_a_data_set_does_not_have(stripes, tmp_path, capsys, options, message):
    assert run("prepare", out=tmp_path / "data", **options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "data").exists()


# ---- the model of a run ----


def test_the_model_of_a_run_is_sampled(place, tmp_path):
    how = {"run": "digits/edm/default/seed0", "experiments": place / "experiments", "results": place}
    out = tmp_path / "a.npy"
    assert run("sample", sampler="ode,solver~heun,steps~3", count=4, out=out, **how) == 0
    about = files.read_json(tmp_path / "a.json")
    assert (about["run"], about["seed"], about["quantization"], about["clamp"]) == (how["run"], 0, "truncate", False)


@pytest.mark.parametrize("options", [{}, {"model": "m", "run": "digits/edm/default/seed0"}])
def test_a_model_or_a_run(tmp_path, capsys, options):
    assert run("sample", sampler="onestep", out=tmp_path / "a.npy", **options) == 2
    assert "give either --model or --run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits/edm/default/seed7", "digits/edm/default/seed7 has not been trained: there is no "),
        ("digits/edm/default", "run 'digits/edm/default' is not of the form"),
        ("digits/emd/default/seed0", "unknown method 'emd'"),
    ],
)
def test_a_run_without_a_model(place, tmp_path, capsys, name, message):
    how = {"experiments": place / "experiments", "results": place}
    assert run("sample", run=name, sampler="onestep", out=tmp_path / "a.npy", **how) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
