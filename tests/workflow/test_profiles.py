"""The profiles: what a workstation and a cluster are told."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml
from jobs_support import MICRO, ROOT, call, needs_plugin, options_of

PROFILE = ROOT / "profiles" / "slurm" / "config.yaml"
README_LINE = "snakemake all_tables --profile slurm --config suite=paper"


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
        "preview",
        "evaluate_cifar10",
        "search",
        "featurize",
        "score",
        "baseline",
    }
    for name, resources in quoted.items():
        written = re.split(rf"rule {name.removesuffix('_curve')}:|name:\s+{name}\n", rules)[1]
        for key in resources.keys() - {"gpu", "cpus_per_task"}:
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
    assert set(re.findall(r"cm (train|evaluate|featurize|score|sample) .*--gpus 4 ", output)) == {"train"}
