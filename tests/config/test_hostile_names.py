"""Names of runs, variants, samplers, artefacts and protocols: sound, or refused in one line where they are read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from refusals import outcome, refusal

from cm import config
from cm.config import Experiments, RunName, parse_sampler, parse_variant, read_protocol
from cm.config.layout import Layout
from cm.config.names import LONGEST_NAME, check_name, fill_template

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "config" / "experiments"
SHELL = [
    "$(touch x)",
    "`touch x`",
    "a;b",
    "a|b",
    "a&b",
    "a>b",
    "a b",
    "a\tb",
    "a\nb",
    "'",
    '"',
    "a\\b",
    "*",
    "?",
    "a#b",
]
PATHS = ["..", ".", "../../escaped", "/etc/passwd", "a/b", "a/../b", ".hidden", "a\0b", "~/a", "-rf", "--out=x"]
OTHERS = ["", "é", "\uff11", "名", "a\u202eb", "a" * 201, "{a}", "[a]", "<a>", "a=b", "a:b", "a@b", "a%b", "a!b"]
BAD = [*SHELL, *PATHS, *OTHERS]
GOOD = ["cd", "digits", "edm-cifar10-32x32-cond-vp", "snr+1", "solver~euler,steps~9", "v1.2", "_a", "A_9", "lr~8.0e-06"]


@pytest.fixture(scope="module")
def digits():
    return Experiments(EXPERIMENTS)


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_bad_name_is_refused(name):
    assert "artefact" in refusal(check_name, name, "artefact")


@pytest.mark.parametrize("name", [*GOOD, "a" * LONGEST_NAME])
def test_a_good_name_is_itself(name):
    assert check_name(name, "artefact") == name


@pytest.mark.parametrize("bad", [None, 3, ["a"], {"a": 1}, True], ids=str)
def test_a_name_is_text(bad):
    assert "must be text" in refusal(check_name, bad, "artefact")


@pytest.mark.parametrize("bad", BAD, ids=ascii)
@pytest.mark.parametrize("place", range(3), ids=["dataset", "method", "variant"])
def test_a_bad_part_of_a_run_is_refused(digits, place, bad):
    parts = ["digits", "cd", "default"]
    parts[place] = bad
    assert outcome(RunName.parse, "/".join([*parts, "seed0"]))
    assert refusal(digits.run, "/".join([*parts, "seed0"]))


SEEDS = ["seed", "seed-1", "seed+1", "seed01", "seed4001", "seed1_0", "seed1.0", "seed1e3", f"seed{'9' * 5000}", "1"]
SEEDS += [
    "seed\u0661",
    "seed1\u0661",
    "seed\uff11",
    "seed\u09e7",
    "seed\u00b2",
    "seed 1",
    "seed1 ",
    "seed1\n",
    "Seed1",
    "seed0x1",
]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: ascii(seed[:10]))
def test_a_bad_seed_is_refused(seed):
    assert refusal(RunName.parse, f"digits/cd/default/{seed}")


VALUES = ["[", "{", "!!python/name:os.system", "!!int", "&a", "*a", "'", '"', "[1,2]", "{a:1}", ".inf", "-.inf", ".nan"]
VALUES += ["1.0e+999", "9" * 50, "1" + "0" * 30, "null", "~", "true", "yes", "2020-99-99", "0x_", "1:99", "", "+", "++"]
VALUES += [
    "1+",
    "+1",
    "1++2",
    "none",
    "default",
    "-",
    "--",
    "1e5",
    "=",
    "<<",
    "heun.x",
    "1~2",
    "#a",
    "- a",
    "a: b",
    "?",
]
SETTINGS = ["lr", "steps", "solver", "attention", "multipliers", "flip", "clip", "distance", "resolution", "released"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_any_value_of_a_setting_works_or_is_refused(digits, setting):
    lines = {value: outcome(digits.run, f"digits/cd/{setting}~{value}/seed0") for value in VALUES}
    assert all(lines[value] for value in VALUES[:13])


@pytest.mark.parametrize("name", ["onestep", "multistep", "ode", "stochastic", "ancestral", "nonesuch"])
@pytest.mark.parametrize("setting", ["steps", "times", "solver", "churn", "denoise_last"])
def test_any_sampler_works_or_is_refused(name, setting):
    for value in VALUES:
        outcome(parse_sampler, f"{name},{setting}~{value}")
        assert outcome(parse_sampler, f"{name},{setting}~{value},") or outcome(parse_variant, f"{setting}~{value}")


@pytest.mark.parametrize("bad", BAD, ids=ascii)
def test_a_bad_sampler_variant_or_protocol_is_refused(tmp_path, bad):
    for read in (parse_sampler, parse_variant, read_protocol):
        assert refusal(read, bad)


@pytest.mark.parametrize("name", ["$(touch x).yaml", "a b.yaml", ".yaml", "a;b.yaml", "..yaml", "-a.yaml", "é.yaml"])
def test_a_protocol_file_of_a_bad_name_is_refused(tmp_path, name):
    shutil.copy(ROOT / "config/protocols/offline.yaml", tmp_path / name)
    assert "protocol" in refusal(read_protocol, str(tmp_path / name))
    shutil.copy(ROOT / "config/protocols/offline.yaml", tmp_path / "mine.yaml")
    assert read_protocol(str(tmp_path / "mine.yaml")).name == "mine"


ENTRIES = [{"method": "cd"}]


def suite(folder: Path, **changes: object) -> str:
    """The line with which a suite with these changes is refused."""
    path = folder / "suite.yaml"
    document = {"experiments": str(EXPERIMENTS), "dataset": "digits", **changes}
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    return outcome(config.load_suite, path)


def artefact(name: str = "a", **changes: object) -> dict:
    return {"artefacts": {name: {"kind": "curves", "caption": "c", "entries": ENTRIES, **changes}}}


@pytest.mark.parametrize("bad", BAD, ids=ascii)
def test_a_bad_name_in_a_suite_is_refused(tmp_path, bad):
    assert suite(tmp_path, **artefact()) == ""
    assert suite(tmp_path, **artefact(bad))
    assert suite(tmp_path, ablations={bad: {"method": "cd", "vary": {"steps": [9]}}})
    assert suite(tmp_path, dataset=bad)
    assert suite(tmp_path, **artefact(entries=[{"method": bad}]))
    assert suite(tmp_path, **artefact(entries=[{"method": "cd", "dataset": bad}]))
    assert suite(tmp_path, **artefact(protocol=bad))
    assert suite(tmp_path, **artefact(entries=[{"method": "cd", "sampler": bad}]))
    assert suite(tmp_path, **artefact(entries=[{"method": "cd", "settings": {"released": bad}}]))


@pytest.mark.parametrize("bad", BAD, ids=ascii)
def test_a_bad_name_in_an_experiment_is_refused(tmp_path, bad):
    shutil.copytree(EXPERIMENTS / "digits", tmp_path / "digits")
    base, own = tmp_path / "digits/base.yaml", tmp_path / "digits/cd.yaml"
    for path, change, entry in (
        (own, "released", {bad: {"url": "https://a.b/c", "licence": "MIT"}}),
        (base, "evaluation", {"protocol": bad}),
        (base, "evaluation", {"protocol": "offline", "statistics": bad}),
        (own, "teacher", bad),
        (base, "perceptual", bad),
    ):
        before = path.read_text()
        path.write_text(yaml.safe_dump(yaml.safe_load(before) | {change: entry}, allow_unicode=True))
        experiments = Experiments(tmp_path)
        assert outcome(lambda known=experiments: known.inputs(known.run("digits/cd/default/seed0"))), change
        path.write_text(before)


@pytest.mark.parametrize("bad", ["../", "../../escaped", "/etc/passwd", "a/../../b", "a\0b", "a//b"], ids=ascii)
def test_no_path_leaves_its_folder(bad):
    layout = Layout()
    for path in (layout.table, layout.figure, layout.data, layout.model, layout.weights, layout.log):
        assert "is not a path below re" in refusal(path, bad)
    assert "is not a path below results" in refusal(layout.score, "a", 100, bad, "p")
    assert "is not a path below results" in refusal(layout.baseline, "digits", "test", bad)


TEMPLATES = [
    "{lr.__class__}",
    "{lr[0]}",
    "{lr!r}",
    "{lr:>1000000000}",
    "{0}",
    "{}",
    "{lr",
    "lr}",
    "{{lr}}",
    "{nonesuch}",
]
TEMPLATES += ["{lr.__init__.__globals__}", "{ lr }", "{lr:{steps}}", "{", "}", "}{"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_have_plain_names_only(tmp_path, template):
    assert "which is no setting of the run" in refusal(fill_template, template, {"lr": 1.0, "steps": 9}, "here")
    assert "no setting" in suite(tmp_path, **artefact(entries=[{"method": "cd", "label": template}]))
    assert suite(tmp_path, **artefact(entries=[{"method": "cd", "samplers": [f"onestep{template}"]}]))


def test_a_template_names_settings():
    settings = {"lr": 0.5, "steps": None, "distance.c": "{lr}"}
    assert fill_template("{lr}, {steps} {distance.c}{lr}%s", settings, "here") == "0.5, None {lr}0.5%s"


def test_the_empty_list_has_a_name(digits):
    assert digits.variant("digits", "cd", {"attention": [4]}) == "attention~4"
    assert digits.run("digits/cd/default/seed0").network.attention == ()
    assert digits.variant("fashion_mnist", "edm", {"attention": []}) in ("default", "attention~none")
    assert digits.run("cifar10/edm/attention~none/seed0").network.attention == ()
