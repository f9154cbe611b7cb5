"""The workflow as a module of another one, from a path and from a git repository, in a folder of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from jobs_support import MICRO, ROOT, call

MODULE = """configfile: "config/config.yaml"

module cm:
    snakefile:
        {source}
    config:
        config

use rule * from cm{prefix}
"""
BESIDE = repr(str(ROOT / "workflow" / "Snakefile"))


def write_module(folder: Path, *, source: str = BESIDE, prefix: str = "", suite: str = "demo") -> None:
    """A workflow that loads this one, and its configuration, as snakedeploy writes them."""
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump({"suite": suite}))
    (folder / "Snakefile").write_text(MODULE.format(source=source, prefix=prefix))


def plan(folder: Path, target: str) -> dict[str, int]:
    """The number of jobs of each rule."""
    output = call(f"snakemake {target} --cores 2 --dry-run --quiet rules", cwd=folder)
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}


def test_a_module_plans_the_same_jobs(tmp_path):
    write_module(tmp_path)
    alone = plan(ROOT, "all_tables")
    assert alone["train"] > 10
    assert plan(tmp_path, "all_tables") == alone


def test_rules_may_have_a_prefix(tmp_path):
    write_module(tmp_path, prefix=" as suite_*")
    planned = plan(tmp_path, "suite_all_tables")
    assert planned.pop("total") == sum(planned.values()) > 10
    assert all(rule.startswith("suite_") for rule in planned)


def test_a_module_of_a_repository_reads_the_copied_configuration(tmp_path):
    """Only `config` is copied, as snakedeploy does; all other files come from the repository."""
    repository, place = tmp_path / "repository", tmp_path / "place"
    for part in ("workflow", "config"):
        shutil.copytree(ROOT / part, repository / part)
    shutil.copy(ROOT / "environment.yml", repository)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", "-C", str(repository)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "workflow"]):
        subprocess.run([*git, *words], check=True)
    shutil.copytree(repository / "config", place / "config")
    write_module(place, source=f'gitfile({str(repository)!r}, path="workflow/Snakefile", ref="HEAD")')
    suite = place / "config/suites/demo.yaml"
    suite.write_text(suite.read_text().replace("seeds: [0, 1, 2]", "seeds: [0]"))
    fewer, more = plan(place, "all_tables"), plan(ROOT, "all_tables")
    assert 0 < fewer["train"] < more["train"]


@pytest.fixture
def small(tmp_path):
    """A folder with a module and a suite of one training and one table."""
    shutil.copytree(MICRO, tmp_path, dirs_exist_ok=True)
    suite = yaml.safe_load((MICRO / "micro.yaml").read_text()) | {"seeds": [0], "progress": [100], "ablations": {}}
    suite["artefacts"] = {"table1": suite["artefacts"]["table1"] | {"entries": [{"method": "edm"}]}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(suite))
    write_module(tmp_path, suite="small.yaml")
    return tmp_path


def test_a_module_makes_its_tables_and_its_report(small):
    call("snakemake --cores 2 report", cwd=small)
    assert (small / "reports/tables/table1.csv").stat().st_size
    assert "table1" in (small / "reports/report.html").read_text()


def test_a_mistake_in_the_configuration_is_one_line(small):
    (small / "config/config.yaml").write_text("suit: demo\n")
    output = call("snakemake --cores 2 --dry-run all", cwd=small, status=1)
    assert "--config: unknown setting 'suit'; known: container, suite" in output
    assert "Traceback" not in output
