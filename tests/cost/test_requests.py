"""What profiles of Snakemake request, against what Snakemake prints and against rules made for the purpose."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from cm.cli import main
from cm.cost.requests import Plan, Request, describe_plan, plan_jobs
from cm.errors import UserError

pytest.importorskip("snakemake_executor_plugin_slurm", reason="not installed: pip install -e .[dev]")

ROOT = Path(__file__).parents[2]
MICRO = "tests/micro/micro.yaml"
SITE = {
    "default-resources": {"runtime": 15, "slurm_account": "mine"},
    "set-resources": {"train": {"gpu": 2, "runtime": "2d", "mem_mb": 5000}, "evaluate_offline": {"cpus_per_task": 6}},
    "jobs": 7,
}
# `launch` runs where Snakemake runs and submits a job of its own; `draw` and `all` do not.
RULES = """
rule all:
    input: expand("made/{i}", i=range(4)), expand("launched/{i}", i=range(2)), "drawn"
    localrule: True
rule make:
    output: "made/{i}"
    resources: gpu=2, cpus_per_task=3, mem_mb=500, runtime=30
    shell: "touch {output}"
rule launch:
    input: "made/{i}"
    output: "launched/{i}"
    localrule: True
    resources: gpu=4, cpus_per_task=8, mem_mb=1000, runtime=60, nodes=2, tasks=4
    shell: "touch {output}"
rule draw:
    output: "drawn"
    localrule: True
    shell: "touch {output}"
"""
SLURM = {"executor": "slurm", "jobs": 3, "retries": 1}
MADE = Request("make", False, True, 1, gpus=2, nodes=1, tasks=1, cores=3, memory=500, minutes=30)


def write_profile(folder: Path, name: str, document: dict) -> None:
    (folder / name).mkdir()
    (folder / name / "config.yaml").write_text(yaml.safe_dump(document))


def make_file(path: Path) -> None:
    path.parent.mkdir()
    path.touch()


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """A folder with the rules above, where Snakemake is asked."""
    (tmp_path / "Snakefile").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- against Snakemake ----


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    """That of Slurm and one of a site, as paths."""
    folder = tmp_path_factory.mktemp("profiles")
    write_profile(folder, "site", SITE)
    return [str(ROOT / "profiles/slurm"), str(folder / "site")]


@pytest.fixture(scope="module")
def plan(profiles):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return plan_jobs(MICRO, profiles, "all")


def test_requests_are_those_of_a_dry_run(plan, profiles):
    command = ["snakemake", "all", "--dry-run", "--forceall", "--nolock", "--config", f"suite={MICRO}"]
    command += [part for profile in profiles for part in ("--profile", profile)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    output = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
    )
    text = output.stdout + output.stderr
    printed = re.findall(r"^(?:local)?rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", text, re.MULTILINE)
    expected = Counter(
        (name, *map(resource_reader(resources), ("gpu", "mem_mb", "runtime"))) for name, resources in printed
    )
    found = Counter((one.rule, one.gpus, one.memory or 0, one.minutes or 0) for one in plan.requests)
    assert found == expected
    assert sum(found.values()) > 40


def resource_reader(text: str):
    return lambda name: int((re.search(rf"\b{name}=(\d+)", text) or [0, 0])[1])


def test_profiles_change_what_the_rules_say(plan):
    """`set-resources` of the site's profile, its `default-resources`, and `jobs`, in which the later profile wins."""
    requests = {request.rule: request for request in plan.requests}
    assert (requests["train"].gpus, requests["train"].minutes, requests["train"].memory) == (2, 2 * 1440, 5000)
    assert requests["evaluate_offline"].cores == 6
    assert requests["train"].retries == yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["retries"]
    assert plan.jobs == 7


def test_only_what_computes_is_submitted(plan):
    here = {request.rule for request in plan.requests if not request.submitted}
    assert here == {"all", "table", "figure", "ablation"}
    # A training runs where Snakemake does, and submits a job of its own.
    assert {request.rule for request in plan.requests if request.local} - here == {"train", "train_curve"}


# ---- rules made for the purpose ----


def test_local_rules_that_submit_jobs_are_counted_and_others_are_not(rules):
    """Neither the defaults of a profile nor files that exist make a difference."""
    write_profile(rules, "p", SLURM | {"default-resources": {"gpu": 1, "runtime": 10}, "resources": {"gpu": 5}})
    make_file(rules / "made/0")
    plan = plan_jobs("unread", ["p"], "all")
    found = Counter(plan.requests)
    assert found[MADE] == 4
    assert found[Request("launch", True, True, 1, gpus=4, nodes=2, tasks=4, cores=8, memory=1000, minutes=60)] == 2
    local = {request.rule: request.submitted for request in found if request.local}
    assert local == {"all": False, "launch": True, "draw": False}
    assert plan.gpus_at_a_time(found.elements()) == plan.gpus == 5
    assert not (rules / "drawn").exists()


def test_what_a_profile_sets_for_a_rule_is_requested(rules):
    """A run time for a local rule, a model of GPU without their number, memory of each core."""
    changes = {"draw": {"gpu_model": "a100", "runtime": 5}, "make": {"mem_mb_per_cpu": 100}}
    write_profile(rules, "p", SLURM | {"set-resources": changes})
    requests = {request.rule: request for request in plan_jobs("unread", ["p"], "all").requests}
    assert requests["draw"].submitted and requests["draw"].gpus == 1
    assert requests["make"].memory == 3 * 100


def test_a_group_of_jobs_is_requested_as_one(rules):
    """What runs one after the other in it needs the resources of the larger job, and the run times of both."""
    write_profile(rules, "p", SLURM | {"groups": {"make": "g", "launch": "g"}})
    make_file(rules / "made/0")
    requests = [one for one in plan_jobs("unread", ["p"], "all").requests if not one.local]
    found = Counter((one.rule, one.gpus, one.cores, one.minutes) for one in requests)
    assert found == {("g (launch, make)", 4, 8, 90): 2, ("g (make)", 2, 3, 30): 2}


def test_a_target_needs_no_more_than_its_jobs(rules):
    write_profile(rules, "p", SLURM)
    assert plan_jobs("unread", ["p"], "made/1").requests == [MADE]


# ---- mistakes ----


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, r"profile p submits no jobs: it states no executor for a cluster"),
        ({"executor": "slrum", "jobs": 1}, r"invalid choice: 'slrum' \(choose from .*'slurm'"),
        ({"executor": "slurm"}, r"maximum number of parallel jobs/used nodes has to be specified"),
    ],
)
def test_mistakes_of_a_profile_are_one_line(rules, document, message):
    write_profile(rules, "p", document)
    with pytest.raises(UserError, match=message) as raised:
        plan_jobs("unread", ["p"], "all")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("snakemake: ")


def test_a_profile_that_is_no_yaml_is_one_line(rules):
    (rules / "p").mkdir()
    (rules / "p/config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"^snakemake: Couldn't parse config file: .*p/config.yaml.*$"):
        plan_jobs("unread", ["p"], "all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--profile", "nowhere"], r"profile directory given \(nowhere\), but no profile.yaml"),
        (["demo", "--profile", "slurm", "--target", "all_tabels"], "No rule to produce all_tabels"),
        (["deom", "--profile", "slurm"], "'deom' is neither a run, .* known suites: demo, laptop"),
        (["digits/cd/default/seed0", "--profile", "slurm"], "'digits/cd/default/seed0' is a run"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["describe", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.startswith("cm describe: error: ") and error.count("\n") == 1


def test_a_mistake_of_a_profile_does_not_wait_for_torch():
    check = "from cm import cost, errors\nimport sys\ntry: cost.describe('demo', profiles=['nowhere'])\n"
    check += "except errors.UserError: pass\nassert not {'torch', 'snakemake'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


# ---- text ----


def made_plan(**changes) -> Plan:
    big = Request("train", False, True, 3, gpus=4, nodes=2, tasks=1, cores=8, memory=64_000, minutes=600)
    small = Request("score", False, True, 3, gpus=1, nodes=1, tasks=1, cores=4, memory=None, minutes=None)
    table = Request("table", True, False, 3, gpus=0, nodes=1, tasks=1, cores=1, memory=None, minutes=None)
    fields = {"command": "snakemake all", "target": "all", "jobs": 3, "gpus": None}
    return Plan(**fields | changes, requests=[small, big, small, table, big, table, small])


def test_requests_are_summed():
    page = describe_plan(made_plan(), estimate=3600 * 10)
    rows = [re.split(" {2,}", line.strip()) for line in page.splitlines() if line.startswith("  ")]
    assert rows[1:] == [
        ["train, 2 nodes", "2", "4", "8", "64,000", "10.0", "8", "20.0", "80.0"],
        ["score", "3", "1", "4", "-", "-", "3", "0", "0"],
        ["sum", "5", "9", "20.0", "80.0"],
    ]
    assert "Run where Snakemake runs: table 2." in page
    assert "at most: 3 jobs (`jobs`)." in page
    assert "without those of 3 jobs that state no run time" in page
    assert "GPU hours requested: 80.0 at most, or 320 if all jobs use all `retries`." in page
    assert "for the whole suite: 10.0." in page
    assert "not all jobs can finish" not in page


@pytest.mark.parametrize(("target", "hours", "warns"), [("all", 321, True), ("all", 319, False), ("table", 321, False)])
def test_an_estimate_above_what_can_be_requested_is_pointed_out(target, hours, warns):
    page = describe_plan(made_plan(target=target), estimate=3600 * hours)
    assert ("not all jobs can finish" in page) == warns


def test_no_more_jobs_and_gpus_than_the_profile_allows():
    plan = made_plan()
    assert plan.gpus_at_a_time(plan.requests) == 4 + 4 + 1
    assert made_plan(jobs=1).gpus_at_a_time(plan.requests) == 4
    assert made_plan(gpus=6).gpus_at_a_time(plan.requests) == 6
    page = describe_plan(made_plan(jobs=sys.maxsize, gpus=6), estimate=0)
    assert "at most: 6 GPUs (`resources`)." in page


def test_a_suite_without_gpus_says_so():
    cheap = Request("score", False, True, 3, gpus=0, nodes=1, tasks=1, cores=4, memory=1, minutes=60)
    assert "No job requests a GPU." in describe_plan(Plan("snakemake", "all", 1, None, [cheap]), estimate=1)


def test_a_suite_is_described_with_its_requests(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["describe", MICRO, "--profile", "slurm", "--target", "reports/tables/table1.csv"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("suite micro: ")
    command = f"snakemake reports/tables/table1.csv --profile slurm --config suite={MICRO}"
    assert f"What `{command}` requests if no file exists yet" in page
    assert re.search(r"\n  train +\d+ +0 +\d+ +32,000 +24.0 +0 +[\d.,]+ +0\n", page)
