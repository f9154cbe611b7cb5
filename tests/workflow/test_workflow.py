"""The whole workflow on a micro suite, and its style: lint, format, dry runs of every shipped suite."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cm import build, config, registry
from cm.checkpoints.openai_names import openai_state_dict
from cm.config import Experiments
from cm.config.layout import Layout
from cm.utils import fetch

ROOT = Path(__file__).parents[2]
MICRO = ROOT / "tests" / "micro"
TOOLS = Path(sys.executable).parent
MAKERS = {"train", "train_curve", "release"}
LAYOUT = Layout()
SUITES = sorted((ROOT / "config" / "suites").glob("*.yaml"))
WORKFLOW_FILES = [ROOT / "workflow/Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]
HOSTILE = "it's $(touch x) `touch x` ;touch x; here"

ATTACK = """</script><script>attack()</script>

.. raw:: html

   <script>attack()</script>

.. csv-table::
   :file: secret.csv
"""


def call(*command: str, cwd: Path = ROOT, check: bool = True) -> str:
    """Output of a command with this environment's tools first on the path."""
    environment = os.environ | {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return f"{done.stdout}\n{done.stderr}\nexit status {done.returncode}"


def snakemake(place: Path, *arguments: str, suite: str = "micro.yaml", check: bool = True) -> str:
    options = [
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(place),
        "--cores",
        "2",
        "--config",
        f"suite={suite}",
    ]
    profile = ["--workflow-profile", str(ROOT / "profiles" / "default")]
    return call("snakemake", *arguments, *options, *profile, cwd=place, check=check)


def jobs(output: str) -> dict[str, int]:
    """Rule to number of jobs, from Snakemake's table."""
    return {rule: int(count) for rule, count in re.findall(r"^(\w+)\s+(\d+)$", output, re.MULTILINE)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A clean folder in which the micro suite has been made, all of it, once."""
    folder = tmp_path_factory.mktemp("micro")
    shutil.copytree(MICRO, folder, dirs_exist_ok=True)
    snakemake(folder, "all")
    return folder


def test_every_artefact_exists_with_finite_numbers(place):
    suite = config.load_suite(place / "micro.yaml")
    suffixes = {"table": ("tables", "csv", "md", "tex"), "figure": ("figures", "svg", "png")}
    for name, artefact in {**suite.artefacts, **suite.ablations}.items():
        form = registry.get("artefact", artefact.kind).form
        for folder, *endings in [suffixes[one] for one in suffixes if form in (one, "both")]:
            assert all((place / f"reports/{folder}/{name}.{ending}").stat().st_size > 0 for ending in endings)
    with open(place / "reports/tables/table1.csv") as file:
        measured = [row for row in csv.DictReader(file) if row["samples"]]
    floor = ["real images (test split)", "real images (split halves)"]
    assert [row["Method"] for row in measured] == [*floor, "EDM", "PD", "PD", "CD", "CD", "CT"]
    for row in measured:
        assert all(math.isfinite(float(value)) for name, value in row.items() if "digits" in name and value)
    scores = [json.loads(path.read_text()) for path in (place / "results/scores").rglob("*.json")]
    assert len(scores) > 15
    for score in scores:
        assert set(score["metrics"]) == {"fid", "kid", "inception_score", "precision", "recall"}
        assert all(math.isfinite(value) for value in score["metrics"].values())
        assert score["samples"] and score["extractor"]["sha256"] and score["versions"]["torch"] and score["commit"]
        assert score["seconds"]["scoring"] > 0


def test_every_run_leaves_a_grid_and_no_pile_of_images(place):
    runs = {path.parent for path in (place / "results/models").rglob("100.safetensors")}
    assert len(runs) > 10
    assert {run for run in runs if "classifier" not in run.parts} == {
        run for run in runs if (run / "samples.png").exists()
    }
    paths = [str(path.relative_to(place)) for path in (place / "results/scores").rglob("seed*/*/*/*.json")]
    scores = [LAYOUT.parse(path) for path in paths]
    assert len(scores) > 10
    for score in scores:
        preview = LAYOUT.preview(score["run"], score["progress"], score["sampler"], ".png")
        assert (place / preview).stat().st_size > 0
    assert not list((place / "results/samples").rglob("*.npy"))


def test_claims_are_a_target_of_their_own_and_change_with_their_file(place):
    with open(place / "reports/tables/claims.csv") as file:
        assert [row["claim"] for row in csv.DictReader(file)] == ["two_steps_better", "heun_better"]
    assert "Nothing to be done" in snakemake(place, "claims", "--dry-run")
    text = (place / "claims.yaml").read_text()
    (place / "claims.yaml").write_text(text.replace("source: a test", "source: Table 1"))
    assert jobs(snakemake(place, "claims", "--dry-run")) == {"ablation": 1, "claims": 1, "total": 2}
    (place / "claims.yaml").write_text(text)


def test_a_second_call_does_nothing(place):
    assert "Nothing to be done" in snakemake(place, "all")


def test_files_that_no_command_reads_decide_nothing(place):
    folders = {path.name for path in (place / "results").iterdir()}
    assert folders <= {"data", "models", "samples", "previews", "edits", "searches", "features", "scores", "logs"}
    shutil.rmtree(place / "results/logs")
    assert "Nothing to be done" in snakemake(place, "all", "--dry-run")


def test_a_deleted_score_remakes_only_what_hangs_on_it(place):
    score = place / LAYOUT.score("digits/ct/default/seed0", 100, "onestep", "offline")
    score.unlink()
    planned = jobs(snakemake(place, "all", "--dry-run"))
    assert planned == {"evaluate_offline": 1, "table": 1, "all": 1, "total": 3}
    snakemake(place, "all")
    assert score.exists()


def test_an_added_ablation_trains_only_the_new_runs(place):
    suite = yaml.safe_load((place / "micro.yaml").read_text())
    suite["ablations"]["mu"] = {"method": "cd", "seeds": [0], "vary": {"target_mu": [0.0, 0.5]}}
    (place / "more.yaml").write_text(yaml.safe_dump(suite))
    planned = jobs(snakemake(place, "ablation_mu", "--dry-run", suite="more.yaml"))
    assert planned == {"ablation_mu": 1, "ablation": 1, "train": 1, "evaluate_offline": 1, "total": 4}
    snakemake(place, "ablation_mu", suite="more.yaml")
    assert (place / "reports/tables/ablation_mu.csv").exists()
    assert (place / "reports/figures/ablation_mu.png").exists()


def test_a_changed_experiment_file_trains_that_run_anew(place):
    path = place / "experiments/digits/ct.yaml"
    text = path.read_text()
    path.write_text(text.replace("s1: 10", "s1: 12"))
    assert jobs(snakemake(place, "all", "--dry-run"))["train"] == 2
    path.write_text(text + "# a comment changes nothing\n")
    assert "Nothing to be done" in snakemake(place, "all", "--dry-run")


def test_the_report_holds_every_artefact(place):
    snakemake(place, "report")
    text = (place / LAYOUT.page).read_text()
    for name in ("table1", "fig3a", "ablation_solver"):
        assert name in text
    assert "Figure 3a, in miniature" in text
    assert f'href="{Path(LAYOUT.workflow_report).name}"' in text and "Not drawn yet" not in text
    text = (place / LAYOUT.workflow_report).read_text()
    assert "Figure 3a" in text
    for section in ("Measured beside published", "Course of training", "Ablations and differences"):
        assert section in text


def test_a_data_set_of_ones_own_needs_no_code(tmp_path):
    shutil.copytree(MICRO, tmp_path, dirs_exist_ok=True)
    home, pictures = tmp_path / "experiments" / "pets", tmp_path / HOSTILE
    shutil.copytree(tmp_path / "experiments" / "digits", home)
    pictures.mkdir()
    for index in range(3):
        Image.new("RGB", (20 + index, 30), (80 * index, 10, 200)).save(pictures / f"{index}.png")
    base = yaml.safe_load((home / "base.yaml").read_text())
    data = {"name": "folder", "source": str(pictures), "resolution": 16}
    (home / "base.yaml").write_text(yaml.safe_dump(base | {"data": data}))
    snakemake(tmp_path, "results/data/pets/manifest.json")
    manifest = json.loads((tmp_path / "results/data/pets/manifest.json").read_text())
    assert (manifest["dataset"], manifest["resolution"], manifest["images"]) == ("folder", 16, 3)
    images = np.load(tmp_path / "results/data/pets/train/images.npy")
    assert [image[8, 8, 0] for image in images] == [0, 80, 160]
    assert not list(tmp_path.glob("x*"))


def shell_lines() -> list[str]:
    """The shell line of each rule of the workflow."""
    text = "\n".join(path.read_text() for path in WORKFLOW_FILES)
    blocks = re.findall(r"shell:\n((?:\s+\".*\"\n)+)", text)
    return ["".join(re.findall(r"\"(.*)\"\n", block)) for block in blocks]


def test_every_value_in_a_shell_line_is_quoted():
    lines = shell_lines()
    assert len(lines) == sum(path.read_text().count("shell:") for path in WORKFLOW_FILES) > 10
    fields = [field for line in lines for field in re.findall(r"{(.*?)}", line)]
    assert {field for field in fields if not field.endswith(":q")} == {
        f"params.{options}:u"
        for options in ("launch", "data", "models", "evaluation", "search", "previous", "options", "statistics")
    }


def test_paths_and_captions_are_data(tmp_path):
    """Paths reach the commands, and captions the report, as they are, and nothing in them is executed or read."""
    folder, place = tmp_path / HOSTILE, tmp_path / "place"
    shutil.copytree(MICRO, folder)
    place.mkdir()
    (place / "secret.csv").write_text("secret")
    suite = {"dataset": "digits", "experiments": "experiments", "seeds": [0]}
    table = {"kind": "comparison", "caption": "Scores.", "entries": [{"method": "ct"}]}
    artefacts = {"table1": table, "runs": {"kind": "runs", "caption": ATTACK}}
    (folder / "hostile.yaml").write_text(yaml.safe_dump(suite | {"artefacts": artefacts}))
    snakemake(place, "report", suite=f"../{HOSTILE}/hostile.yaml")
    assert len(list(csv.DictReader((place / "reports/tables/table1.csv").open()))) == 3
    for report in (LAYOUT.page, LAYOUT.workflow_report):
        text = (place / report).read_text()
        assert ".. raw:: html" in text
        assert "<script>attack" not in text and "secret<" not in text
    assert not list(tmp_path.rglob("x"))


def test_a_released_run_is_fetched_and_converted_in_place_of_training(tmp_path, monkeypatch):
    shutil.copytree(MICRO, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "experiments/digits/ct.yaml"
    network = {"name": "adm", "resolution": 8, "image_channels": 1, "channels": 32, "multipliers": [1], "blocks": 1}
    network |= {"attention": [], "head_channels": 32}
    theirs = {"url": "https://example.invalid/home.pt", "licence": "none"}
    document = yaml.safe_load(path.read_text()) | {"network": network, "released": {"theirs": theirs}}
    path.write_text(yaml.safe_dump(document))
    run = Experiments(tmp_path / "experiments").run("digits/ct/released~theirs/seed0")
    description = build.run_description(run)
    state = build.build_model(description).state_dict()
    weights = {name.removeprefix("network."): part for name, part in state.items()}
    in_cache = fetch.place_of(theirs["url"])
    in_cache.parent.mkdir(parents=True)
    torch.save(openai_state_dict(weights, run.network), in_cache)
    target = LAYOUT.preview(run.name, 100, "onestep")
    planned = jobs(snakemake(tmp_path, target, "--dry-run"))
    assert planned == {"release": 1, "preview": 1, "total": 2}
    snakemake(tmp_path, target)
    assert (tmp_path / target).with_suffix(".png").exists()
    _, description = build.load_model(tmp_path / f"results/models/{run.name}/100.safetensors")
    assert description["made_from"]["url"] == theirs["url"]


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_a_dry_run_of_every_shipped_suite(tmp_path, suite):
    output = snakemake(tmp_path, "all", "--dry-run", suite=str(suite))
    planned, loaded = jobs(output), config.load_suite(suite)
    wanted = {**loaded.artefacts, **loaded.ablations}
    cells = [cell for artefact in wanted.values() for cell in loaded.cells(artefact)]
    of_one_protocol = {cell.samples for cell in cells if len(cell.run.evaluation.protocol) == 1}
    evaluated = [count for rule, count in planned.items() if rule.startswith("evaluate_")]
    assert min(1, len(of_one_protocol)) <= sum(evaluated) <= len(of_one_protocol)
    of_several = any(len(cell.run.evaluation.protocol) > 1 for cell in cells)
    assert ("score" in planned) == ("sample" in planned) == of_several  # of others, only previews are sampled alone
    assert ("gpu=1" in output) == (loaded.gpus == 1) == (suite.stem in {"paper", "reduced", "released", "successors"})
    makers = planned.keys() & MAKERS
    assert makers == {"release"} if suite.stem == "released" else "train" in makers


@pytest.mark.parametrize(
    ("suite", "target", "message"),
    [
        ("dmeo", "all", "unknown suite 'dmeo'; known: "),
        (
            "micro.yaml",
            "results/models/digits/cd/solver~rk4/seed0/100.safetensors",
            "unknown solver 'rk4'",
        ),
        (str(ROOT / "config/suites/released.yaml"), "claims", "suite released has no artefact of the kind 'claims'"),
        ("micro.yaml", "ablation_nu", "ablation_nu"),
        (
            "micro.yaml",
            "results/scores/digits/cd/default/seed0/100/onestp/offline.json",
            "unknown sampler 'onestp'",
        ),
        (
            "micro.yaml",
            "results/scores/digits/cd/default/seed0/100/onestep/ofline.json",
            "unknown protocol 'ofline'",
        ),
        ("bad.yaml", "all", "unknown setting 'solvr'"),
    ],
)
def test_a_mistake_is_told_before_any_job_starts(tmp_path, suite, target, message):
    shutil.copytree(MICRO, tmp_path, dirs_exist_ok=True)
    text = (MICRO / "micro.yaml").read_text()
    (tmp_path / "bad.yaml").write_text(text.replace("vary: {solver:", "vary: {solvr:"))
    output = snakemake(tmp_path, target, suite=suite, check=False)
    assert message in output
    assert "exit status 1" in output
    assert "Traceback" not in output
    assert not (tmp_path / "results" / "models").exists()


def test_weights_that_nobody_can_fetch_are_told_before_any_job_starts(tmp_path, monkeypatch):
    shutil.copytree(MICRO, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "protocols/vit.yaml").write_text("{extractor: dinov2, resizer: bicubic, metrics: [fid]}")
    base = tmp_path / "experiments/digits/base.yaml"
    base.write_text(base.read_text().replace("protocol: offline", "protocol: vit"))
    output = snakemake(tmp_path, "reports/tables/table1.csv", check=False)
    file = "dinov2_vitl14_pretrain.pth"
    assert f"download https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{file} and put it there" in output
    assert str(tmp_path / "cache" / file) in output
    assert "exit status 1" in output
    assert not (tmp_path / "results" / "data").exists()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / file).touch()
    assert jobs(snakemake(tmp_path, "reports/tables/table1.csv", "--dry-run"))["weights"] == 1


def test_a_changed_protocol_scores_anew_and_trains_nothing(place):
    path = place / "protocols/offline.yaml"
    text = path.read_text()
    path.write_text(text.replace("reference_images: 100", "reference_images: 90"))
    planned = jobs(snakemake(place, "reports/tables/table1.csv", "--dry-run"))
    path.write_text(text)
    assert {"featurize", "evaluate_offline", "baseline", "table"} <= planned.keys()
    assert not {"train", "train_curve", "prepare"} & planned.keys()


def test_an_added_protocol_scores_again_and_trains_nothing(place):
    """Both protocols score the same samples, which are kept until both have, and an artefact shows the one it names."""
    second = (place / "protocols/offline.yaml").read_text().replace("samples: 60", "samples: 30")
    (place / "protocols/fewer.yaml").write_text(second)
    base = place / "experiments/digits/base.yaml"
    text, suite = base.read_text(), yaml.safe_load((place / "micro.yaml").read_text())
    base.write_text(text.replace("protocol: offline", "protocol: [offline, fewer]"))
    suite["artefacts"] = {"fewer": suite["artefacts"]["fig4"] | {"kind": "comparison", "protocol": "fewer"}}
    (place / "several.yaml").write_text(yaml.safe_dump({**suite, "ablations": {}}))
    planned = jobs(snakemake(place, "all", "--dry-run", suite="several.yaml"))
    assert not MAKERS & planned.keys()
    assert planned["sample"] == planned["score"] == 4
    snakemake(place, "all", suite="several.yaml")
    base.write_text(text)
    score = json.loads((place / LAYOUT.score("digits/cd/default/seed0", 100, "onestep", "fewer")).read_text())
    assert (score["protocol"]["name"], score["samples"]) == ("fewer", 30)
    assert "Protocol fewer:" in (place / "reports/tables/fewer.md").read_text()
    assert not list((place / "results/samples").rglob("*.npy"))


def test_results_of_the_old_layout_are_refused(tmp_path):
    shutil.copytree(MICRO, tmp_path, dirs_exist_ok=True)
    old = tmp_path / "results/scores/digits/ct/default/seed0/100/onestep.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    output = snakemake(tmp_path, "all", "--dry-run", check=False)
    assert "results/ was written by an earlier version" in output
    assert "Traceback" not in output
    assert old.read_text() == "{}"


def test_the_root_has_the_same_default_target(tmp_path):
    shutil.copytree(MICRO, tmp_path, dirs_exist_ok=True)
    default, everything = (jobs(snakemake(tmp_path, *target, "--dry-run")) for target in ((), ("all",)))
    assert {**default, "all": 1} == {**everything, "default": 1}


def test_ruff_check():
    call("ruff", "check", ".")


def test_ruff_format():
    call("ruff", "format", "--check", ".")


def test_snakefmt():
    call("snakefmt", "--check", "Snakefile", "workflow")


def test_types():
    assert "Success" in call(sys.executable, "-m", "mypy")


def test_lint():
    assert "Congratulations" in call("snakemake", "--lint")
