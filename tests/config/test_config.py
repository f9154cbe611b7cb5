"""Names and settings: round trips, and one clear line for every mistake."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from cm import config, registry
from cm.config import Experiments
from cm.errors import UserError

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "config" / "experiments"
SUITES = sorted((ROOT / "config" / "suites").glob("*.yaml"))

SINGLE_STEP = [name for name, solver in registry.components("solver").items() if not solver.history]
KNOWN = {kind: ", ".join(registry.names(kind)) for kind in registry.HOMES}
CHANGES = [
    ("cd", {}),
    ("cd", {"solver": "euler"}),
    ("cd", {"steps": 9, "solver": "euler", "target_mu": 0.95}),
    ("cd", {"lr": 0.25, "attention": [4, 8], "clip": 2.0}),
    ("cd", {"attention": [8]}),
    ("cd", {"flip": True}),
    ("cd", {"lr": 5.0e-5}),
    ("cd", {"lr": 8.0e-6, "attention": [4]}),
    *(("edm", {"weighting": name}) for name in registry.names("weighting") if name != "karras"),
    *(("cd", {"solver": name}) for name in SINGLE_STEP if name != "heun"),
    *(("cd", {"distance": name}) for name in registry.names("distance") if name != "lpips"),
    ("ct", {"curriculum": "fixed", "steps": 10, "target_mu": 0.0}),
    ("pd", {"steps": 4, "distance": "lpips"}),
    ("edm", {"p_mean": -0.5}),
]


def _listed(value):
    """A tuple as the list that YAML has."""
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(("method", "changes"), CHANGES, ids=str)
def test_variant_and_load_are_inverses(method, changes):
    name = Experiments(EXPERIMENTS).variant("digits", method, changes)
    run = Experiments(EXPERIMENTS).run(f"digits/{method}/{name}/seed3")
    assert {key: _listed(run.settings[key]) for key in changes} == changes
    assert Experiments(EXPERIMENTS).variant("digits", method, config.parse_variant(name)) == name
    assert run.name == f"digits/{method}/{name}/seed3"
    assert run.seed == 3


@pytest.mark.parametrize("method", ["cd", "ct", "pd", "edm", "classifier"])
def test_a_variant_does_not_restate_defaults(method):
    run = Experiments(EXPERIMENTS).run(f"digits/{method}/default/seed0")
    given = {key: value for key, value in run.settings.items() if value is not None}
    assert Experiments(EXPERIMENTS).variant("digits", method, given) == "default"


WHEN = {"distance": {"l1": {"lr": 2.0e-4}}, "steps": {9: {"total_steps": 7, "target_mu": 0.5}}}


@pytest.fixture
def conditional(tmp_path):
    """The digits with settings of CD that hang on its distance and its N."""
    shutil.copytree(EXPERIMENTS / "digits", tmp_path / "digits")
    path = tmp_path / "digits" / "cd.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"when": WHEN}))
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "name", "settings"),
    [
        ({}, "default", {"lr": 3.0e-3, "total_steps": 400}),
        ({"distance": "l1"}, "distance~l1", {"lr": 2.0e-4, "total_steps": 400}),
        ({"distance": "l1", "lr": 2.0e-4}, "distance~l1", {"lr": 2.0e-4}),
        ({"distance": "l1", "lr": 3.0e-3}, "distance~l1,lr~0.003", {"lr": 3.0e-3}),
        ({"distance": "l1", "steps": 9}, "distance~l1,steps~9", {"lr": 2.0e-4, "total_steps": 7, "target_mu": 0.5}),
        ({"distance": "l2", "steps": 9, "target_mu": 0.0}, "distance~l2,steps~9,target_mu~0.0", {"target_mu": 0.0}),
    ],
)
def test_settings_that_hang_on_others(conditional, changes, name, settings):
    assert Experiments(conditional).variant("digits", "cd", changes) == name
    run = Experiments(conditional).run(f"digits/cd/{name}/seed0")
    assert {key: run.settings[key] for key in settings} == settings


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"distanse": {"l1": {"lr": 1.0}}}, "unknown setting 'distanse'"),
        ({"distance": {"lpips": {"learning_rate": 1.0}}}, "unknown setting 'learning_rate'"),
        ({"distance": {"lpips": {"distance": "l1"}}}, "'when:' gives distance, which it also asks for"),
        ({"distance": "l1"}, "when distance: expected a mapping"),
        ({"distance": {"lpips": 3}}, "when distance is lpips: expected a mapping"),
        ({"distance": {"lpips": {"lr": -1.0}}}, "lr must be at least 0"),
    ],
)
def test_bad_conditions_are_refused(conditional, when, message):
    path = conditional / "digits" / "ct.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"when": when}))
    with pytest.raises(UserError, match=re.escape(message)):
        Experiments(conditional).run("digits/ct/default/seed0")


def test_a_released_run_needs_nothing_but_its_checkpoint():
    run = Experiments(EXPERIMENTS).run("cifar10/cd/released~cd-lpips/seed0")
    assert run.released.url.endswith("/cd-lpips/checkpoints/checkpoint_80")
    assert Experiments(EXPERIMENTS).inputs(run) == {}
    assert set(Experiments(EXPERIMENTS).inputs(Experiments(EXPERIMENTS).run("cifar10/cd/default/seed0"))) == {
        "teacher",
        "perceptual",
    }
    assert Experiments(EXPERIMENTS).run("cifar10/cd/default/seed0").released is None


def test_a_released_network_can_be_another_one():
    run = Experiments(EXPERIMENTS).run("cifar10/edm/released~edm-cifar10-32x32-cond-vp/seed0")
    network = run.network
    assert (network.embedding, network.encoder, network.classes, network.augment_dim) == (
        "positional",
        "standard",
        10,
        9,
    )
    assert run.variant == "released~edm-cifar10-32x32-cond-vp"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"url": "u"}, "'licence' is missing"),
        ({"url": "u", "licence": "l", "md5": "m"}, "unknown setting 'md5'"),
        ({"url": "u", "licence": "l", "size": "big"}, "'size' must be a whole number"),
        ({"url": "u", "licence": "l", "weights": "mean"}, "unknown weights 'mean'; known: ema, online, target"),
        ("u", "expected a mapping"),
    ],
)
def test_a_bad_release_is_refused(conditional, entry, message):
    path = conditional / "digits" / "ct.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"released": {"mine": entry}}))
    with pytest.raises(UserError, match=re.escape(message)):
        Experiments(conditional).run("digits/ct/default/seed0")


def test_a_teacher_can_be_a_variant(conditional):
    path = conditional / "digits" / "cd.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"teacher": "edm/p_mean~-0.5"}))
    run = Experiments(conditional).run("digits/cd/default/seed2")
    assert Experiments(conditional).teacher(run).name == "digits/edm/p_mean~-0.5/seed2"


def test_the_data_of_an_experiment():
    assert Experiments(EXPERIMENTS).data("cifar10").name == "cifar10"
    assert Experiments(EXPERIMENTS).data("cifar10_reduced").name == "cifar10"
    assert Experiments(EXPERIMENTS).splits("cifar10_reduced") == ("train", "test")
    assert Experiments(EXPERIMENTS).splits("lsun_cat") == ("train",)


def test_a_released_run_has_only_its_end(tmp_path):
    text = (ROOT / "config/suites/released.yaml").read_text()
    text = text.replace("artefacts:", "progress: [50, 100]\nexperiments: EXPERIMENTS\nartefacts:", 1)
    text = text.replace("EXPERIMENTS", str(EXPERIMENTS)).replace(
        "    kind: comparison", "    progress: [50]\n    kind: comparison"
    )
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match="is released: it has no model at 50 %"):
        config.load_suite(tmp_path / "mine.yaml")


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_shipped_suites_are_sound(path):
    suite = config.load_suite(path)
    for artefact in (*suite.artefacts.values(), *suite.ablations.values()):
        assert suite.cells(artefact) or not artefact.entries


def test_progressive_distillation_is_a_chain_of_runs():
    run, chain = Experiments(EXPERIMENTS).run("digits/pd/distance~lpips/seed1"), []
    while run is not None:
        chain.append(run.name)
        run = Experiments(EXPERIMENTS).teacher(run)
    assert chain == [
        "digits/pd/distance~lpips/seed1",
        "digits/pd/distance~lpips,steps~2/seed1",
        "digits/pd/distance~lpips,steps~4/seed1",
        "digits/pd/distance~lpips,steps~8/seed1",
        "digits/edm/default/seed1",
    ]


def test_only_what_a_run_needs_is_asked_for():
    inputs = {
        name: set(Experiments(EXPERIMENTS).inputs(Experiments(EXPERIMENTS).run(f"digits/{name}/seed0")))
        for name in (
            "edm/default",
            "ct/default",
            "ct/init~teacher",
            "cd/default",
            "cd/distance~l2",
            "cd/distance~l1",
        )
    }
    assert inputs["edm/default"] == set()
    assert "teacher" not in inputs["ct/default"]
    assert "teacher" in inputs["ct/init~teacher"]
    assert inputs["cd/default"] == {"teacher", "perceptual"}
    assert inputs["cd/distance~l2"] == {"teacher"}
    assert inputs["cd/distance~l1"] == {"teacher"}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("digits/cd/default", "not of the form"),
        ("digits/cd/default/seed007", "not of the form"),
        ("digits/cd/default/seed5000", "seed must be at most 4000"),
        ("digts/cd/default/seed0", "unknown dataset 'digts'; known: cifar10, cifar10_laptop, cifar10_reduced, digits"),
        ("cifar10/cd/released~cd-l3/seed0", "unknown released checkpoint 'cd-l3'; known: cd-l1, cd-l2, cd-lpips"),
        (
            "digits/cdd/default/seed0",
            "unknown method 'cdd'; known: cd, cd-inf, classifier, ct, ct-inf, ect, edm",
        ),
        ("digits/cd/slover~euler/seed0", "unknown setting 'slover'"),
        ("digits/cd/solver~hune/seed0", f"unknown solver 'hune'; known: {KNOWN['solver']}"),
        ("digits/cd/distance~l3/seed0", "unknown distance 'l3'"),
        ("digits/cd/steps~1/seed0", "steps must be at least 2"),
        ("digits/cd/target_mu~1.0/seed0", "target_mu must be below 1.0"),
        ("digits/cd/target_mu~-0.1/seed0", "target_mu must be at least 0"),
        ("digits/cd/steps~many/seed0", "'steps' must be a whole number, not 'many'"),
        ("digits/cd/steps~9.5/seed0", "'steps' must be a whole number, not 9.5"),
        ("digits/cd/lr~4e-4/seed0", "write 4.0e-4"),
        ("digits/cd/steps/seed0", "not of the form setting~value"),
        ("digits/cd/steps~9,solver~euler/seed0", "must be written 'solver~euler,steps~9'"),
        ("digits/cd/solver~heun/seed0", "must be written 'default'"),
        ("digits/ct/steps~10/seed0", "unknown setting 'steps'"),
        ("digits/ct/curriculum~adaptative/seed0", "unknown curriculum 'adaptative'"),
        ("digits/ct/curriculum~fixed,steps~10/seed0", "'target_mu' is missing"),
        ("digits/ct/s0~1/seed0", "s0 must be at least 2"),
        ("digits/edm/solver~heun/seed0", "unknown setting 'solver'"),
        ("digits/cd/optimiser~sgd/seed0", "unknown optimiser 'sgd'; known: adam, radam"),
    ],
)
def test_a_bad_run_is_refused_in_one_line(run, message):
    with pytest.raises(UserError) as caught:
        Experiments(EXPERIMENTS).run(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_chain_has_halvings_only():
    with pytest.raises(UserError, match="halved some times"):
        Experiments(EXPERIMENTS).teacher(Experiments(EXPERIMENTS).run("digits/pd/steps~3/seed0"))
    with pytest.raises(UserError, match="halved some times"):
        Experiments(EXPERIMENTS).teacher(Experiments(EXPERIMENTS).run("digits/pd/steps~16/seed0"))


@pytest.mark.parametrize("kind", registry.HOMES)
def test_unknown_names_list_the_known(kind):
    with pytest.raises(UserError, match=f"unknown {kind} 'nonesuch'; known: "):
        registry.get(kind, "nonesuch")
    assert registry.names(kind)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("onstep", f"unknown sampler 'onstep'; known: {KNOWN['sampler']}"),
        ("ode,solver~heun,steps~1", "steps must be at least 2"),
        ("multistep,times~0.8+2.0", "times must be positive and decrease"),
        ("multistep,times~0.0", "times must be positive"),
        ("onestep,steps~2", "unknown setting 'steps'"),
        ("ode,solver~heun", "'steps' is missing"),
        ("ode,steps~2", "'solver' is missing"),
        ("ode,solver~heun,steps~0", "steps must be at least 1"),
        ("ode,denoise_last~true,solver~heun,steps~3", "must be written 'ode,solver~heun,steps~3'"),
        ("multistep,times~0.80", "must be written 'multistep,times~0.8'"),
    ],
)
def test_a_bad_sampler_is_refused(sampler, message):
    with pytest.raises(UserError) as caught:
        config.parse_sampler(sampler)
    assert message in str(caught.value)


def refusal(folder: Path, document: dict) -> str:
    """The one line with which a suite file of these contents is refused."""
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"experiments": str(EXPERIMENTS)} | document))
    with pytest.raises(UserError) as caught:
        config.load_suite(path)
    return str(caught.value)


ENTRY = {"kind": "curves", "caption": "c", "entries": [{"method": "cd"}]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"datset": "digits"}, "unknown setting 'datset'"),
        ({"dataset": "digits", "seeds": ["a"]}, "'seeds' must be a whole number"),
        ({"dataset": "digits", "progress": [50]}, "progress must hold 100"),
        ({"dataset": "digits", "artefacts": {"t": ENTRY | {"kind": "curve"}}}, "unknown artefact 'curve'"),
        ({"dataset": "digits", "artefacts": {"t": ENTRY | {"progress": [33]}}}, "unknown progress '33'"),
        ({"dataset": "digits", "artefacts": {"t": ENTRY | {"entries": [{"methd": "cd"}]}}}, "unknown setting 'methd'"),
        ({"dataset": "digits", "artefacts": {"t": ENTRY | {"entries": [{"method": "cde"}]}}}, "unknown method 'cde'"),
        (
            {
                "dataset": "digits",
                "artefacts": {"t": ENTRY | {"entries": [{"method": "cd", "sampler": "ode,solver~euler,steps~{s}"}]}},
            },
            "no setting of the run",
        ),
        ({"dataset": "digits", "ablations": {"x": {"method": "cd", "vary": {"mu": [0.0]}}}}, "unknown setting 'mu'"),
        (
            {"dataset": "digits", "ablations": {"x": {"method": "edm", "vary": {"steps": [2]}}}},
            "unknown setting 'steps'",
        ),
        (
            {"dataset": "digits", "ablations": {"x": {"method": "cd", "vary": {"steps": [1]}}}},
            "steps must be at least 2",
        ),
        ({"dataset": "digits", "ablations": {"x": {"method": "cd"}}}, "'vary:' must name at least one setting"),
        ({"dataset": "didgits", "ablations": {"x": {"method": "cd", "vary": {"steps": [9]}}}}, "unknown dataset"),
    ],
)
def test_a_bad_suite_is_refused_when_it_is_read(tmp_path, document, message):
    assert message in refusal(tmp_path, document)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"method": "cd", "vary": {"target_mu": 0.9}}, "target_mu must be a list of values to try, not 0.9"),
        ({"method": "cd", "vary": {"solver": "euler"}}, "solver must be a list of values to try"),
        ({"method": "cd", "vary": {"solver": []}}, "solver must be a list of values to try"),
        ({"method": "cd", "variants": ["steps"]}, "'variants' must be a mapping"),
        ({"method": "cd", "samplers": [5]}, "'samplers' must be text, not 5"),
        ({"method": "cd", "vary": {"channels": [32]}}, "its network is another one"),
        ({"method": "pd", "vary": {"steps": [3]}}, "halved some times"),
    ],
)
def test_a_bad_entry_is_refused_when_the_suite_is_read(tmp_path, entry, message):
    assert message in refusal(tmp_path, {"dataset": "digits", "artefacts": {"t": ENTRY | {"entries": [entry]}}})


@pytest.mark.parametrize(
    ("artefact", "message"),
    [
        ({"kind": "samples", "options": {"colums": 1}}, "unknown option 'colums'; known: columns"),
        ({"kind": "comparison", "published": {"table": "tabel1", "dataset": "cifar10"}}, "unknown table 'tabel1'"),
    ],
)
def test_what_a_kind_cannot_draw_is_refused_when_the_suite_is_read(tmp_path, artefact, message):
    assert message in refusal(tmp_path, {"dataset": "digits", "artefacts": {"t": ENTRY | artefact}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("noise: karras", "'noise' must be a mapping of settings, not 'karras'"),
        ("chain: many", "'chain' must be a whole number"),
        ("teacher: [edm]", "'teacher' must be text"),
        ("trainign: {}", "unknown setting 'trainign'"),
    ],
)
def test_a_bad_experiment_file_is_named(tmp_path, text, message):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/base.yaml").write_text("noise: {name: karras}\n")
    (tmp_path / "digits/cd.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        Experiments(tmp_path).run("digits/cd/default/seed0")
    assert message in str(caught.value)
    assert "cd.yaml" in str(caught.value)


def test_the_sampler_of_a_run_knows_its_settings(tmp_path):
    assert config.sampler_of(Experiments(EXPERIMENTS).run("digits/pd/steps~4/seed0")).steps == 4
    assert config.sampler_of(Experiments(EXPERIMENTS).run("digits/classifier/default/seed0")) is None
    (tmp_path / "digits").mkdir()
    for path in (EXPERIMENTS / "digits").glob("*.yaml"):
        (tmp_path / "digits" / path.name).write_text(path.read_text().replace("steps~{steps}", "steps~{stepz}"))
    with pytest.raises(UserError, match="stepz"):
        config.sampler_of(Experiments(tmp_path).run("digits/pd/steps~4/seed0"))


def test_only_training_settings_make_a_run_another_one():
    run = Experiments(EXPERIMENTS).run("digits/cd/default/seed0")
    assert set(run.describe()) == set(run.recipe()) == {"objective", "training", "network", "noise"}
    assert "warmup" in run.describe()["training"]
    assert "warmup" not in run.recipe()["training"]


def test_an_ablation_is_four_lines(tmp_path):
    lines = ["ablations:", "  mu:", "    method: cd", "    vary: {target_mu: [0.0, 0.9, 0.95]}"]
    path = tmp_path / "suite.yaml"
    path.write_text("\n".join(["dataset: digits", f"experiments: {EXPERIMENTS}", *lines]))
    suite = config.load_suite(path)
    names = [cell.run.variant for cell in suite.cells(suite.find("ablation_mu"))]
    assert names == ["default", "target_mu~0.9", "target_mu~0.95"]


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_captions_say_of_how_many_samples_the_scores_are(path):
    suite = config.load_suite(path)
    for artefact in suite.all_artefacts.values():
        for count in re.findall(r"of ([\d,]+) samples", artefact.caption):
            cells = suite.cells(artefact)
            found = {cell.run.evaluation.samples or cell.protocol.total_samples for cell in cells}
            assert found == {int(count.replace(",", ""))}, artefact.name


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text("a: [1, 2")
    with pytest.raises(UserError, match="is not YAML"):
        config.load_suite(path)
    with pytest.raises(UserError, match="no file"):
        config.load_suite(tmp_path / "absent.yaml")
