"""Public functions, classes and modules say what they are, and documented commands can be typed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "cm").rglob("*.py"))
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
