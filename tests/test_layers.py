"""Imports point down, and what must start quickly does not import torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the bottom up. A package stands for all its modules that are not named themselves.
LAYERS = [
    {"errors", "lazy", "registry", "config", "utils"},
    {
        "diffusion",
        "data",
        "report",
        "evaluation.gaussian",
        "evaluation.metrics",
        "evaluation.moments",
        "evaluation.reference",
        "evaluation.ternary",
        "evaluation.uncertainty",
        "evaluation.imagesets",
        "evaluation.resizers",
    },
    {"diffusion.denoiser", "diffusion.sampling", "networks", "methods", "checkpoints", "evaluation.extractors"},
    {"training", "evaluation"},
    {"build", "cost", "jobs", "status"},
    {"api", "cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TORCH_FREE = {
    "config",
    "errors",
    "registry",
    "report",
    "status",
    "utils",
    "evaluation.gaussian",
    "evaluation.imagesets",
    "evaluation.metrics",
    "evaluation.moments",
    "evaluation.reference",
    "evaluation.resizers",
    "evaluation.ternary",
    "evaluation.uncertainty",
}
MODULES = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "cm").rglob("*.py")
    if path.name != "__init__.py" or path.parent.name != "cm"
)


def part(path: Path) -> str:
    """`cm/methods/cd.py` to `methods`, the longest name that has a level."""
    return named(".".join(path.with_suffix("").parts[1:]))


def named(dotted: str) -> str:
    """`methods.cd.ConsistencyDistillation` to `methods`."""
    parts = dotted.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in LEVEL), "")


def imported(path: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever in it, but for type checking."""
    names = set()
    for node in ast.walk(_without_type_checking(ast.parse((ROOT / path).read_text()))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _without_type_checking(tree: ast.Module) -> ast.Module:
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    return tree


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_down(path):
    own = LEVEL[part(path)]
    parts = {named(name.removeprefix("cm.")) for name in imported(path) if name.startswith("cm.")}
    above = {name for name in parts & set(LEVEL) if LEVEL[name] > own}
    assert not above, f"{path} (layer {own}) imports {sorted(above)}"


@pytest.mark.parametrize("path", [path for path in MODULES if part(path) in TORCH_FREE], ids=str)
def test_the_quick_ones_never_import_torch(path):
    assert not {name for name in imported(path) if name.split(".")[0] in ("torch", "torchvision")}


@pytest.mark.parametrize(
    "statement",
    ["from cm import config; config.load_suite('config/suites/demo.yaml')", "import cm.cli", "import cm.report"],
)
def test_reading_the_configuration_does_not_import_torch(statement):
    slow = "{'torch', 'pandas', 'matplotlib', 'sklearn'}"
    check = f"{statement}\nimport sys\nassert not {slow} & set(sys.modules), {slow} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
