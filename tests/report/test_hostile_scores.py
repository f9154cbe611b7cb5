"""Score files, training seconds and previews of odd contents: drawn, or refused in one line that names the file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from faked import HALVES, content, demo, fake, write
from refusals import outcome, refusal

from cm import report
from cm.report import scores
from cm.report.score_file import read_score

ABSENT = object()
ODD = [None, True, 3, -1, 1.5, "", "x", "a/b", [], ["x"], {}, {"x": 1}, {"x": {}}, {"fid": "x"}, 10**400, ABSENT]
SOUND = {**content(3.0), "run": "digits/cd/default/seed0", "nfe": 1, "quantization": "truncate"}
NESTED = ["protocol", "extractor", "reference", "metrics", "uncertainty", "seconds", "versions", "unavailable"]


def replace(path: tuple[str, ...], value: object, document: dict = SOUND) -> dict:
    """The document with another value at a path."""
    first, *rest = path
    inner = replace(tuple(rest), value, document.get(first) or {}) if rest else value
    return {key: entry for key, entry in {**document, first: inner}.items() if entry is not ABSENT}


PATHS = [(key,) for key in SOUND] + [(key, inner) for key in NESTED for inner in SOUND[key]]
PATHS += [("reference", "split_halves", key) for key in HALVES] + [("reference", "statistics")]
PATHS += [
    ("reference", "split_halves", "metrics", "fid"),
    ("uncertainty", "fid", "low"),
    ("uncertainty", "fid", "high"),
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("suite") / "all.yaml", lambda text: text)


@pytest.fixture(scope="module")
def results(suite, tmp_path_factory) -> Path:
    return fake(suite, tmp_path_factory.mktemp("made") / "results")


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_a_score_of_odd_values_is_read_or_refused(tmp_path, path):
    file = tmp_path / "score.json"
    for value in ODD:
        file.write_text(json.dumps(replace(path, value)))
        line = outcome(read_score, file, "digits", "CD")
        assert not line or line.startswith(str(file))


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_what_is_read_can_be_drawn_or_is_refused(suite, results, tmp_path, path):
    file = next((results / "scores/digits/edm/default/seed0/100").rglob("*.json"))
    before = file.read_text()
    try:
        for value in ODD[::2]:
            file.write_text(json.dumps(replace(path, value, json.loads(before))))
            outcome(report.draw, suite, "table1", results, tmp_path)
    finally:
        file.write_text(before)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("metrics", "fid"), -0.1, "fid is -0.1, but must be at least 0"),
        (("metrics", "inception_score"), -1, "inception_score is -1, but must be at least 0"),
        (("metrics", "precision"), 1.1, "precision is 1.1, but must be at most 1"),
        (("metrics", "recall"), -0.1, "recall is -0.1, but must be at least 0"),
        (("metrics", "kid"), -0.1, ""),
        (("metrics", "fid"), True, "fid is True, not a finite number"),
        (("metrics", "fid"), 10**400, "not a finite number"),
        (("metrics", "fid"), -math.inf, "fid is -inf, not a finite number"),
        (("reference", "split_halves", "metrics", "fid"), -1.0, "fid is -1.0, but must be at least 0"),
        (("reference", "split_halves", "images"), -1, "images must be at least 1, not -1"),
        (("reference", "images"), -5, "images must be at least 1, not -5"),
        (("samples",), -5, "samples must be at least 1, not -5"),
        (("samples",), 0, "samples must be at least 1, not 0"),
        (("samples",), 1.5, "'samples' must be a whole number, not 1.5"),
        (("protocol", "samples"), -1, "samples must be at least 1, not -1"),
        (("nfe",), -1, "nfe must be at least 1, not -1"),
        (("seconds", "sampling"), -1.0, "seconds of sampling is -1.0, but must be at least 0"),
        (("seconds", "scoring"), math.nan, "seconds of scoring is nan, not a finite number"),
        (("uncertainty", "fid", "low"), 9.0, "low of fid is 9.0, above high, 3.3"),
        (("versions", "torch"), 2, "'versions torch' must be text"),
        (("extractor", "name"), "../x", "extractor: run '../x' is not of the form"),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(tmp_path, path, value, message):
    file = tmp_path / "score.json"
    file.write_text(json.dumps(replace(path, value)))
    line = outcome(read_score, file, "digits", "CD")
    assert message in line and bool(line) == bool(message)


TEXTS = ["", "{", "[" * 100_000, '{"metrics":' * 100_000, "9" * 5000, "null", "3", '"x"', "[]", "NaN", "\x00", "{}{}"]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:9]))
def test_a_file_that_is_no_object_is_refused(suite, results, tmp_path, text):
    file = tmp_path / "score.json"
    file.write_text(text)
    assert str(file) in refusal(read_score, file, "digits", "CD")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "score.json").write_bytes(b"\xff\xfe{")
    assert "is not JSON" in refusal(read_score, tmp_path / "score.json", "digits", "CD")


@pytest.mark.parametrize(
    "seconds",
    [
        *([], 3, None, "x", {}, {"wall": 1.0}, {"processor": 1.0}),
        *({"wall": value, "processor": 1.0} for value in (None, "1", -1.0, 0, 0.0, math.nan, math.inf, [], {}, True)),
        *({"wall": 1.0, "processor": value} for value in (None, "1", -1.0, math.nan, math.inf, [], {}, 10**400)),
    ],
    ids=str,
)
def test_training_seconds_out_of_range_are_refused(suite, results, tmp_path, seconds):
    file = next((results / "models/digits/edm/default").rglob("seconds.json"))
    before = file.read_text()
    try:
        write(file, seconds)
        assert str(file) in refusal(report.draw, suite, "timings", results, tmp_path)
    finally:
        file.write_text(before)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((64, 8, 8, 2), np.uint8),
        np.zeros((64, 8, 8, 4), np.uint8),
        np.zeros((64, 8, 8), np.uint8),
        np.zeros((0, 8, 8, 1), np.uint8),
        np.zeros((64, 8, 8, 1), np.float32),
    ],
    ids=lambda images: f"{images.dtype} {images.shape}",
)
def test_a_preview_of_other_images_is_refused(suite, results, tmp_path, images):
    file = Path(scores.layout_of(results).preview(*suite.cells(suite.find("fig5"))[0].samples))
    before = file.read_bytes()
    try:
        np.save(file, images)
        assert str(file) in refusal(report.draw, suite, "fig5", results, tmp_path)
    finally:
        file.write_bytes(before)


@pytest.mark.filterwarnings("ignore:Data has no positive values")
@pytest.mark.parametrize("fid", [0.0, 1e300])
def test_extreme_distances_are_drawn(suite, tmp_path, fid):
    fake(suite, tmp_path / "results", fid=lambda cell: fid)
    for path in (tmp_path / "results/scores").rglob("*.json"):
        score = json.loads(path.read_text())
        write(path, {**score, "metrics": {"fid": fid}, "uncertainty": {}})
    for name in ("table1", "fig3a"):
        assert outcome(report.draw, suite, name, tmp_path / "results", tmp_path / "reports") == ""
