"""The JSON file beside samples is validated like any other input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cm.errors import UserError
from cm.evaluation import sample_file

WHOLE = {
    "run": "digits/ct/default/seed0",
    "progress": 100,
    "sampler": "onestep",
    "seed": 3,
    "quantization": "truncate",
    "clamp": False,
    "model_sha256": "00ff",
    "trained_at": None,
    "nfe": 1,
    "seconds": {"sampling": 0.25},
}
WRONG = {
    "run": [1, None, "x", "../../x", ["digits/ct/default/seed0"], {}, "digits/ct/default/seed" + "9" * 30],
    "progress": [101, -1, 1.5, True, "100", None, []],
    "sampler": [1, None, ["onestep"]],
    "seed": [-1, 0.5, "3", None, True],
    "quantization": ["floor", 1, None, ["round"], {}],
    "clamp": [0, "false", None],
    "model_sha256": [1, None],
    "trained_at": [1, ["x"]],
    "nfe": [-1, 1.5, None, "1"],
    "seconds": [1, None, [], {"sampling": -1}, {"sampling": "1"}, {"sampling": None}, {"sampling": True}],
    "metrics": [{"fid": 0}],
    "seconds ": [1],
}


@pytest.mark.parametrize("path", [".", "/", "..", "a.npy/", "a.zip"])
def test_other_images_have_no_description(path):
    assert sample_file.read(Path(path)) == {}


def write(folder, document):
    (folder / "a.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return folder / "a.npy"


def test_what_cm_sample_writes_is_read(tmp_path):
    assert sample_file.read(write(tmp_path, WHOLE)) == WHOLE
    assert sample_file.read(tmp_path / "b.npy") == sample_file.read(tmp_path / "a.npz") == {}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_an_entry_that_cm_sample_would_not_write(name, value, tmp_path):
    with pytest.raises(UserError) as caught:
        sample_file.read(write(tmp_path, WHOLE | {name: value}))
    assert "\n" not in str(caught.value) and "a.json" in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_seconds_that_are_not_finite(number, tmp_path):
    text = json.dumps(WHOLE).replace("0.25", number)
    with pytest.raises(UserError, match="seconds must be"):
        sample_file.read(write(tmp_path, text))


@pytest.mark.parametrize("document", [[], "text", 1, None, {}, {"images": 3, "made by": "another program"}])
def test_documents_of_other_programs_are_ignored(document, tmp_path):
    assert sample_file.read(write(tmp_path, json.dumps(document))) == {}
