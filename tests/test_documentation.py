"""Public functions, classes and modules say what they are, and documented commands can be typed."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from cm.diffusion import solvers

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "cm").rglob("*.py"))
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "config/*.md", "results/*.md", "profiles/*/*.md", "reports/*/README.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Definition = ast.FunctionDef | ast.ClassDef


def public(tree: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Public functions and classes, and the methods that a public class does not inherit the meaning of."""
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def inherits_its_meaning(node: Definition, tree: ast.Module) -> bool:
    """Whether a method is one of a class with parents, which document it."""
    owners = [one for one in ast.walk(tree) if isinstance(one, ast.ClassDef) and node in one.body]
    return isinstance(node, ast.FunctionDef) and any(owner.bases for owner in owners)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_public_definitions_have_docstrings(path):
    tree = ast.parse((ROOT / path).read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    missing = [
        node.name for node in public(tree) if not ast.get_docstring(node) and not inherits_its_meaning(node, tree)
    ]
    assert not missing, f"{path}: no docstring for {missing}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_comprehension_has_one_for(path):
    comprehensions = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, comprehensions):
            inner = [one for one in ast.walk(node) if isinstance(one, comprehensions)]
            assert len(node.generators) == 1 and len(inner) == 1, f"{path}:{node.lineno} has more than one 'for'"


def test_no_target_follows_config():
    """Snakemake reads every word after `--config`, up to the next option, as KEY=VALUE."""
    paths = [path for folder in ("config", "docs", "profiles", "reports") for path in (ROOT / folder).rglob("*.*")]
    texts = {path: path.read_text() for path in [ROOT / "README.md", *paths] if path.suffix in (".md", ".yaml")}
    commands = {path: re.findall(r"--config suite=[^\s`]+ +[\w./]+", text) for path, text in texts.items()}
    assert "--config suite=" in texts[ROOT / "README.md"]
    assert not {path: found for path, found in commands.items() if found}


def test_the_readme_is_short():
    assert 700 < len((ROOT / "README.md").read_text().split()) <= 1000


def anchors(path: Path) -> set[str]:
    """The anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in LINK.findall(re.sub(BLOCK, "", path.read_text())):
        place, _, anchor = target.partition("#")
        if re.match(r"https?:", target) or (place == "settings.md" and anchor):
            continue  # the headings of settings.md are made when the site is built, which checks links to them
        linked = path.parent / place if place else path
        assert linked.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(linked), f"{place} has no heading {anchor}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_of_code_can_be_read(path):
    for language, text in BLOCK.findall(path.read_text()):
        if language == "python":
            compile(text, str(path), "exec")
        elif language == "yaml":
            assert yaml.safe_load(text)


def test_the_solver_of_the_documentation_is_the_one_of_the_suite():
    (text,) = (text for _, text in BLOCK.findall((ROOT / "docs/extending.md").read_text()) if "register_solver" in text)
    assert text.startswith('@register_solver("dpm2", order=2, evaluations=2)')
    names = {**vars(solvers), "register_solver": lambda name, **stated: lambda function: function}
    exec(textwrap.dedent(text), names)
    assert inspect.signature(names["dpm2"]) == inspect.signature(solvers.dpm2)

    def denoise(x, t):
        return x.tanh() / (1 + t.reshape(-1, 1, 1, 1))

    x, t, s = torch.randn(4, 1, 2, 2), torch.full((4,), 3.0), torch.full((4,), 1.0)
    assert torch.allclose(names["dpm2"](denoise, x, t, s), solvers.dpm2(denoise, x, t, s))


def test_the_changes_in_the_readme_are_those_of_the_demo():
    rows = {
        "exponent of mu(k)": "CT, exponent of mu(k)",
        "start of consistency training": "CT, initial weights",
        "batch on LSUN": "CD, batch (LSUN)",
        "`--loss_norm l2`": "CD, distance where l2 is asked for",
    }
    stated = table_cells(ROOT / "README.md", last=-1)
    measured = table_cells(ROOT / "reports/demo/tables/paper_vs_code.md", last=-3)
    assert {row: stated[row] for row in rows} == {row: measured[name] for row, name in rows.items()}


def table_cells(path: Path, last: int) -> dict[str, str]:
    """The first cell of each line of the tables in a file, and that at the place `last`."""
    lines = [line.strip("| ").split("|") for line in path.read_text().splitlines() if line.startswith("|")]
    return {cells[0].strip(): cells[last].strip() for cells in lines if len(cells) >= -last}


@pytest.mark.parametrize("path", ["README.md", "reports/laptop/README.md"])
def test_fid_with_intervals_are_of_committed_scores(path):
    scores = [json.loads(file.read_text()) for file in (ROOT / "reports/laptop/scores").rglob("*.json")]
    known = set()
    for score in scores:
        interval = score["uncertainty"]["fid"]
        numbers = score["metrics"]["fid"], interval["low"], interval["high"]
        known |= {"{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*numbers, d=digits) for digits in (1, 2)}
    stated = re.findall(r"\| (\d+\.\d+ \[\d+\.\d+, \d+\.\d+\]) \| \d", (ROOT / path).read_text())
    assert len(stated) >= 5 and set(stated) <= known
