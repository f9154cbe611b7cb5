"""Generated names, documents and metadata: they work, or they are refused in one line."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
import torch
import yaml
from faked import content
from foreign import TINY, description
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import outcome
from safetensors.torch import save_file

from cm import build, config, registry
from cm.checkpoints import native
from cm.config import Experiments, RunName, check, make_component
from cm.config.documents import ExperimentFile
from cm.config.protocols import Protocol
from cm.config.suite_files import SuiteFile
from cm.config.yaml_reader import parse_scalar, parse_yaml
from cm.evaluation import pretrained
from cm.report.score_schema import check_content

ROOT = Path(__file__).parent.parent
EXPERIMENTS = Experiments(ROOT / "config" / "experiments")
# The same examples each time; no deadline, since the machine may be busy.
QUICK = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

KEYS = sorted(set(EXPERIMENTS.run("digits/cd/default/seed0").settings))
WORDS = [name for kind in ("solver", "distance", "weighting", "curriculum", "sampler") for name in registry.names(kind)]
scraps = st.sampled_from(
    [*"~,+.-_/[]{}!&*'\"#:$`; \n\0", "1e9", ".inf", ".nan", "null", "true", "9" * 45, "!!python/x", "<<"]
)
numbers = st.one_of(st.integers().map(str), st.floats().map(str), st.floats(0.01, 1).map(lambda value: f"{value:.3f}"))
values = st.one_of(
    numbers, st.sampled_from(WORDS), scraps, st.text(max_size=8), st.lists(numbers, max_size=3).map("+".join)
)
pairs = st.tuples(st.one_of(st.sampled_from(KEYS), st.text(max_size=5), scraps), values).map("~".join)
variants = st.one_of(st.just("default"), st.lists(pairs, max_size=3).map(",".join), st.text(max_size=20))
parts = st.one_of(st.text(alphabet=string.printable, max_size=8), scraps)
seeds = st.one_of(st.integers(-1, 10**6).map(str), st.text(max_size=4), st.characters(categories=["Nd", "No"]))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(WORDS))
keys = st.one_of(
    st.sampled_from([*KEYS, "name", "network", "training", "objective", "entries", "vary"]), st.text(max_size=4)
)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=12
)


@QUICK
@given(st.sampled_from(sorted(registry.names("method"))), variants, seeds)
def test_variants_of_runs(method, variant, seed):
    name = f"digits/{method}/{variant}/seed{seed}"
    if not outcome(EXPERIMENTS.run, name):
        run = EXPERIMENTS.run(name)
        assert run.name == name and seed.isascii()
        outcome(EXPERIMENTS.inputs, run)


@QUICK
@given(st.lists(parts, min_size=0, max_size=5).map("/".join), seeds)
def test_names_of_runs(name, seed):
    for text in (name, f"{name}/seed{seed}", f"{name}/default/seed{seed}"):
        if not outcome(RunName.parse, text):
            assert str(RunName.parse(text)) == text
        outcome(EXPERIMENTS.run, text)


@QUICK
@given(st.sampled_from([*registry.names("sampler"), "", "x"]), variants)
def test_samplers(name, variant):
    text = f"{name},{variant}"
    if not outcome(config.parse_sampler, text):
        assert config.parse_sampler(text).evaluations >= 1
    outcome(config.parse_variant, variant)


@QUICK
@given(st.text(max_size=60) | st.lists(scraps | values, max_size=12).map("".join))
def test_text_as_yaml(text):
    outcome(parse_yaml, text, "here")
    outcome(parse_scalar, text, "here")


@QUICK
@given(plain)
def test_yaml_means_what_was_written(document):
    text = yaml.safe_dump(document, allow_unicode=True)
    if not outcome(parse_yaml, text, "here"):
        assert repr(parse_yaml(text, "here")) == repr(yaml.safe_load(text))


def mutate(document: object, path: list[int], value: object) -> object:
    """A document in which the entry that the path leads to has another value."""
    if not path or not isinstance(document, dict | list) or not document:
        return value
    places = list(document) if isinstance(document, dict) else list(range(len(document)))
    place = places[path[0] % len(places)]
    inner = mutate(document[place], path[1:], value)
    if isinstance(document, dict):
        return {**document, place: inner}
    return [*document[:place], inner, *document[place + 1 :]]


ENTRY = {
    "kind": "curves",
    "caption": "c",
    "entries": [{"method": "cd", "vary": {"steps": [9, 18]}, "label": "{steps}"}],
}
SUITE = {
    "dataset": "digits",
    "seeds": [0],
    "artefacts": {"a": ENTRY},
    "ablations": {"N": {"method": "cd", "vary": {"lr": [1.0]}}},
}
paths = st.lists(st.integers(0, 20), min_size=1, max_size=6)


@QUICK
@given(paths, plain)
def test_suites(tmp_path, path, value):
    file = tmp_path / "suite.yaml"
    document = mutate({**SUITE, "experiments": str(ROOT / "config/experiments")}, path, value)
    file.write_text(yaml.safe_dump(document), encoding="utf-8", errors="replace")
    outcome(config.load_suite, file)


@QUICK
@given(st.sampled_from(["base", "cd", "edm"]), paths, plain)
def test_experiments(tmp_path, name, path, value):
    folder = tmp_path / "digits"
    folder.mkdir(exist_ok=True)
    for source in (ROOT / "config/experiments/digits").glob("*.yaml"):
        (folder / source.name).write_text(source.read_text())
    file = folder / f"{name}.yaml"
    document = mutate(yaml.safe_load(file.read_text()), path, value)
    file.write_text(yaml.safe_dump(document), encoding="utf-8", errors="replace")
    experiments = Experiments(tmp_path)
    outcome(lambda: experiments.inputs(experiments.run("digits/cd/default/seed0")))
    outcome(experiments.data, "digits")


@QUICK
@given(st.sampled_from([SuiteFile, ExperimentFile, Protocol]), plain)
def test_settings(cls, values):
    if isinstance(values, dict):
        outcome(check, cls, values, "here")
    outcome(make_component, "network", values, "here")


@pytest.fixture(scope="module")
def weights():
    return {f"network.{name}": tensor for name, tensor in TINY.build().state_dict().items()}


ABOUT = {**description(TINY), "progress": 100, "commit": "abc"}


@QUICK
@given(paths, plain)
def test_descriptions_of_models(tmp_path, weights, path, value):
    file = tmp_path / "model.safetensors"
    native.save(file, weights, mutate(ABOUT, path, value))
    line = outcome(build.load_model, file)
    assert not line or str(file) in line
    outcome(pretrained.load_extractor, file)


@QUICK
@given(st.dictionaries(st.sampled_from(["description", "format", "x"]), st.text(max_size=40) | plain.map(json.dumps)))
def test_metadata_of_safetensors(tmp_path, metadata):
    file = tmp_path / "model.safetensors"
    save_file(
        {"a": torch.zeros(1)}, file, metadata={k: v.encode("utf-8", "replace").decode() for k, v in metadata.items()}
    )
    assert str(file) in outcome(build.load_model, file)
    outcome(pretrained.digest, file)


@QUICK
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_damaged_safetensors(tmp_path, place, damage):
    file = tmp_path / "model.safetensors"
    native.save(file, {"a": torch.zeros(3)}, ABOUT)
    data = file.read_bytes()
    place %= len(data)
    file.write_bytes(data[:place] + damage + data[place + len(damage) :])
    assert str(file) in outcome(build.load_model, file)


@QUICK
@given(paths, plain)
def test_scores(path, value):
    outcome(check_content, mutate(content(3.0), path, value), Path("score.json"))
