"""The profiles: what a workstation and a cluster are told, and the workflow on a real Slurm of one node."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import one_node_slurm
import pytest
import yaml

ROOT = Path(__file__).parents[2]
MICRO = ROOT / "tests" / "micro"
TOOLS = Path(sys.executable).parent
PROFILE = ROOT / "profiles" / "slurm" / "config.yaml"
# Snakemake asks after that many seconds whether a job has ended, and then less and less often.
POLLING = "--slurm-init-seconds-before-status-checks 10"
README_LINE = "snakemake --profile slurm all_tables"

needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="snakemake-executor-plugin-slurm not installed: pip install -e .[dev]",
)
needs_slurm = pytest.mark.skipif(bool(one_node_slurm.missing()), reason=one_node_slurm.missing() or "Slurm is here")


def call(command: str, *options: str, cwd: Path = ROOT, programs: Path | None = None) -> str:
    """Output of a command with this environment's programs, and those of a folder, first on the path."""
    path = os.pathsep.join(map(str, filter(None, [programs, TOOLS, os.environ["PATH"]])))
    arguments = [*shlex.split(command), *options]
    done = subprocess.run(arguments, cwd=cwd, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def options_of(place: Path, suite: str) -> list[str]:
    """Options that run the workflow on a suite of a folder, with the profile that Snakemake reads always."""
    workflow = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(place)]
    return [*workflow, "--workflow-profile", str(ROOT / "profiles/default"), "--config", f"suite={suite}"]


@pytest.fixture
def place(tmp_path):
    """A folder with the micro suite, a smaller one of a single training and a table, and that with two GPUs."""
    shutil.copytree(MICRO, tmp_path, dirs_exist_ok=True)
    suite = yaml.safe_load((MICRO / "micro.yaml").read_text()) | {"seeds": [0], "progress": [100], "ablations": {}}
    suite["artefacts"] = {"table1": suite["artefacts"]["table1"] | {"entries": [{"method": "edm"}]}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(suite))
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(suite | {"gpus": 2}))
    return tmp_path


@needs_plugin
def test_the_line_of_the_readme_finds_its_profile():
    assert README_LINE in (ROOT / "README.md").read_text()
    output = call(README_LINE, "--dry-run", "--quiet", "all")
    assert "Using profiles slurm and workflow specific profile profiles/default" in output


@needs_plugin
def test_a_site_adds_its_account_and_partition(place):
    profiles = f"--profile {ROOT}/slurm --profile {ROOT}/profiles/mysite-example"
    output = call(f"snakemake {profiles} all_tables --dry-run", *options_of(place, "small.yaml"))
    train = re.search(r"rule train:.*?resources: (.*?)\n", output, re.DOTALL)[1]
    for resource in ("slurm_account=my_account", "slurm_partition=gpu", "mem_mb=32000", "runtime=1440"):
        assert resource in train


def test_the_profile_that_wins_everywhere_leaves_resources_to_the_others():
    default = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    assert set(default) == {"cores", "rerun-triggers", "rerun-incomplete", "keep-going"}


def test_retries_stand_in_the_profile_and_in_no_rule():
    assert yaml.safe_load(PROFILE.read_text())["retries"] > 0
    assert not [path for path in (ROOT / "workflow").rglob("*.smk") if "retries:" in path.read_text()]


def test_the_profile_quotes_the_resources_of_the_rules():
    block = re.search(r"^# set-resources:\n(?:#   .*\n)+", PROFILE.read_text(), re.MULTILINE)[0]
    quoted = yaml.safe_load(block.replace("# ", "", 1).replace("\n# ", "\n"))["set-resources"]
    rules = "".join((ROOT / f"workflow/rules/{name}.smk").read_text() for name in ("models", "scores"))
    rules = rules.replace('f"evaluate_{protocol}"', "evaluate_cifar10")
    assert quoted.keys() == {
        "prepare",
        "train",
        "train_curve",
        "sample",
        "evaluate_cifar10",
        "featurize",
        "score",
        "baseline",
    }
    for name, resources in quoted.items():
        written = re.split(rf"rule {name.removesuffix('_curve')}:|name:\s+{name}\n", rules)[1]
        for key in ("mem_mb", "runtime"):
            assert int(re.search(rf"{key}=([\d_]+)", written)[1]) == resources[key], (name, key)


def test_the_gpus_of_a_suite_arrive_at_every_command_that_computes(place):
    output = call("snakemake all_tables --dry-run --printshellcmds", *options_of(place, "two.yaml"))
    commands = re.findall(r"cm (?:train|evaluate|featurize|score|sample) .*", output)
    assert len(commands) == 5
    assert all("--gpus 2 " in command for command in commands)
    assert output.count("gpu=2") == 5


def test_commas_of_names_survive_the_way_to_another_machine(place):
    """What Snakemake tells another machine about a job is read back as it was, which is not so without remote.smk."""
    job = "evaluate_offline:run=digits/edm/default/seed0,progress=100,sampler=ode%2Csolver~heun%2Csteps~4"
    output = call("snakemake --dry-run --force --target-jobs", job, *options_of(place, "small.yaml"))
    assert "results/scores/digits/edm/default/seed0/100/ode,solver~heun,steps~4/offline.json" in output


def test_one_rule_may_have_other_gpus(place):
    change = "--set-resources train:gpu=4"
    output = call(f"snakemake all_tables --dry-run --printshellcmds {change}", *options_of(place, "two.yaml"))
    assert set(re.findall(r"cm (\w+) .*--gpus 4 ", output)) == {"train"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The folder of the commands of a running Slurm with two simulated GPUs."""
    with one_node_slurm.run_slurm(tmp_path_factory.mktemp("slurm")) as programs:
        yield programs


@needs_plugin
@needs_slurm
def test_tables_made_on_slurm_are_those_made_here(place, slurm, tmp_path_factory):
    here = tmp_path_factory.mktemp("here")
    shutil.copytree(place, here, dirs_exist_ok=True)
    call("snakemake all_tables --cores 2", *options_of(here, "small.yaml"), cwd=here)
    # Each job of Slurm takes seconds, so that some results are taken from here.
    for results in ("data", "features", "models/digits/classifier"):
        shutil.copytree(here / "results" / results, place / "results" / results)
    command = f"snakemake --profile {ROOT}/slurm all_tables {POLLING}"
    output = call(command, *options_of(place, "small.yaml"), cwd=place, programs=slurm)
    assert len(re.findall("has been submitted with SLURM jobid", output)) == 3
    tables = sorted(path.relative_to(here) for path in (here / "reports/tables").iterdir())
    assert len(tables) == 3
    for table in tables:
        assert (place / table).read_text() == (here / table).read_text()


@needs_plugin
@needs_slurm
def test_two_gpus_arrive_as_two(tmp_path, slurm):
    (tmp_path / "Snakefile").write_text(
        'rule both:\n    output: "gpus"\n    resources: gpu=2, mem_mb=100, runtime=5\n'
        '    shell: "echo {resources.gpu} $CUDA_VISIBLE_DEVICES > {output}"\n'
    )
    profiles = f"--profile {ROOT}/slurm --workflow-profile {ROOT}/profiles/default"
    call(f"snakemake {profiles} {POLLING}", cwd=tmp_path, programs=slurm)
    assert (tmp_path / "gpus").read_text() == "2 0,1\n"
