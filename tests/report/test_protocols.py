"""An artefact shows the scores of one protocol: the first of each run, or the one that it names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from faked import ROOT, fake

from cm import config, report
from cm.config.layout import Layout
from cm.errors import UserError
from cm.report import figures, scores

ENTRIES = [{"method": "cd", "vary": {"distance": ["l1", "l2"]}}]
STRICT = {
    "extractor": "digits/classifier/default/seed0",
    "resizer": "none",
    "quantization": "truncate",
    "samples": 2000,
    "metrics": ["fid", "precision"],
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> config.Suite:
    """The demo's data set scored by the protocols `offline` and `strict`, and a copy of it by `strict` alone."""
    folder = tmp_path_factory.mktemp("config")
    for dataset, protocols in {"digits": ["offline", "strict"], "twin": ["strict"]}.items():
        copy = folder / "experiments" / dataset
        shutil.copytree(ROOT / "config/experiments/digits", copy)
        base = yaml.safe_load((copy / "base.yaml").read_text())
        base |= {"data": {"name": "digits"}, "evaluation": base["evaluation"] | {"protocol": protocols}}
        (copy / "base.yaml").write_text(yaml.safe_dump(base))
    (folder / "protocols").mkdir()
    shutil.copy(ROOT / "config/protocols/offline.yaml", folder / "protocols")
    (folder / "protocols/strict.yaml").write_text(yaml.safe_dump(STRICT))
    table = {"kind": "comparison", "caption": "A table.", "entries": ENTRIES}
    artefacts = {
        "first": table,
        "second": table | {"protocol": "strict"},
        "curves": {"kind": "curves", "caption": "A figure.", "entries": ENTRIES, "protocol": "strict"},
        "mixed": table | {"entries": [*ENTRIES, {"dataset": "twin", "method": "ct"}]},
    }
    path = folder / "suites" / "two.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"dataset": "digits", "artefacts": artefacts}))
    return config.load_suite(path)


@pytest.fixture
def results(suite, tmp_path) -> Path:
    """Made-up scores by both protocols; FD by `strict` is larger by 10."""
    return fake(suite, tmp_path / "results", lambda cell: 2.0 + 10.0 * (cell.protocol.name == "strict"))


@pytest.mark.parametrize(("name", "protocol", "value"), [("first", "offline", 2.0), ("second", "strict", 12.0)])
def test_an_artefact_shows_the_protocol_that_it_names(suite, results, tmp_path, name, protocol, value):
    found = scores.load(suite, suite.find(name), results)
    assert [score["fid"] for score in found] == [value] * 2
    assert {score.path.stem for score in found} == {protocol}
    baseline = scores.baselines(suite, found, results)[0]
    assert str(baseline.path) == Layout(str(results)).baseline("digits", "test", protocol)
    report.draw(suite, name, results, tmp_path)
    notes = (tmp_path / "tables" / f"{name}.md").read_text()
    assert notes.count("Protocol ") == 1
    assert f"\nProtocol {protocol}: 2000 samples against the train split, " in notes


def test_a_figure_states_the_protocol_that_it_shows(suite, results):
    figure = figures.curves(suite, suite.find("curves"), results)
    assert figure.get_supxlabel().startswith("Protocol strict: ")


def test_scores_of_two_protocols_in_one_artefact_are_refused(suite, results, tmp_path):
    with pytest.raises(UserError, match=r"^mixed: scores of different protocol .* offline in .*, strict in ") as error:
        report.draw(suite, "mixed", results, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("tables/*"))


def test_a_baseline_by_another_protocol_is_refused(suite, results, tmp_path):
    layout = Layout(str(results))
    shutil.copy(layout.baseline("digits", "test", "offline"), layout.baseline("digits", "test", "strict"))
    with pytest.raises(UserError, match="the real-data baseline: scores of different protocol"):
        report.draw(suite, "second", results, tmp_path)


@pytest.mark.parametrize(
    ("prescribed", "actual", "words"),
    [
        (None, "round", ", quantized to 8 bits by rounding."),
        (None, "truncate", ", quantized to 8 bits by truncation."),
        (None, None, ", resizer none."),
        ("truncate", None, ", quantized to 8 bits by truncation."),
    ],
)
def test_the_quantization_is_that_of_the_samples(suite, results, tmp_path, prescribed, actual, words):
    _change(results, {"quantization": actual}, {"quantization": prescribed})
    report.draw(suite, "second", results, tmp_path)
    line = next(line for line in (tmp_path / "tables/second.md").read_text().splitlines() if line[:8] == "Protocol")
    assert line.endswith(words)


def test_statistics_of_the_data_set_are_named(suite, results, tmp_path):
    for path in results.rglob("scores/**/*.json"):
        score = json.loads(path.read_text())
        score["reference"]["statistics"] = {"file": "digits.npz", "sha256": "s" * 64}
        path.write_text(json.dumps(score))
    report.draw(suite, "first", results, tmp_path)
    assert "against the train split (digits.npz), " in (tmp_path / "tables/first.md").read_text()


def _change(results: Path, about: dict, protocol: dict) -> None:
    """Change every score file, and the protocol in it."""
    for path in results.rglob("scores/**/*.json"):
        score = json.loads(path.read_text())
        path.write_text(json.dumps({**score, **about, "protocol": {**score["protocol"], **protocol}}))
