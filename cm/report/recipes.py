"""Hyper-parameters, straight from the experiment files: the paper's Table 3, and every run of a suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cm import report
from cm.config.runs import flatten
from cm.report.writing import table, text

if TYPE_CHECKING:
    from pandas import DataFrame

    from cm.config import Artefact, Experiments, Run, Suite

RECIPE = {
    "objective.name": "method",
    "run.variant": "variant",
    "inputs.teacher": "teacher",
    "training.lr": "learning rate",
    "training.batch": "batch size",
    "training.microbatch": "images at a time",
    "objective.target_mu": "mu",
    "objective.mu0": "mu0",
    "objective.s0": "s0",
    "objective.s1": "s1",
    "objective.steps": "N",
    "objective.solver": "ODE solver",
    "objective.distance": "distance d",
    "inputs.perceptual": "network of the distance",
    "training.ema_decay": "EMA decay rate",
    "training.total_steps": "training steps",
    "training.precision": "precision",
    "network.dropout": "dropout probability",
    "training.optimiser": "optimiser",
    "training.lr_decay": "learning rate decay",
    "training.warmup": "warm-up steps",
    "training.clip": "gradient clipping",
    "training.flip": "horizontal flips",
}


@report.kind("recipes", form="table", needs="nothing")
def recipes(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """Table 3 of the paper: a row per setting that any run has, a column per run of the first seed."""
    runs = _named_runs(suite, artefact)
    recipes = {name: _recipe(run, suite.experiments) for name, run in runs.items()}
    keys = list(dict.fromkeys(key for recipe in recipes.values() for key in recipe))
    keys.sort(key=_rank)
    rows = [{"setting": _setting(key), "key": key, **{run: recipes[run].get(key) for run in recipes}} for key in keys]
    return table(rows, [])


@report.kind("runs", form="table", needs="nothing")
def runs(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """Every training that the suite asks for, a row each with its seeds; the settings in which any of them differ."""
    seeds: dict[str, set[int]] = {}
    recipes: dict[str, dict[str, str]] = {}
    for run in _every_run(suite):
        name = run.name.rpartition("/")[0]
        seeds.setdefault(name, set()).add(run.seed)
        recipes.setdefault(name, _recipe(run, suite.experiments))
    keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe)
    differ = [key for key in sorted(keys, key=_rank) if len({recipe.get(key) for recipe in recipes.values()}) > 1]
    return table([{"run": name, "seeds": len(seeds[name])} | _row(recipes[name], differ) for name in recipes], [])


def _row(recipe: Mapping[str, str], keys: Sequence[str]) -> dict[str, str | None]:
    """The settings `keys` of a run; the method and the variant are in its name already."""
    return {_setting(key): recipe.get(key) for key in keys if key not in ("objective.name", "run.variant")}


def _every_run(suite: Suite) -> list[Run]:
    """The runs of all artefacts and those they start from, each once, by method in the order of the suite."""
    cells = (cell for one in suite.all_artefacts.values() for cell in suite.cells(one))
    found = suite.experiments.with_inputs(cell.run for cell in cells)
    methods = list(dict.fromkeys(run.method for run in found))
    return sorted(found, key=lambda run: methods.index(run.method))


def _named_runs(suite: Suite, artefact: Artefact) -> dict[str, Run]:
    """Each run of the first seed once, by its label; with the variant where a label has more than one."""
    cells = {cell.run.name: cell for cell in reversed(suite.cells(artefact)) if cell.run.seed == artefact.seeds[0]}
    cells = dict(reversed(cells.items()))
    labels = [cell.label for cell in cells.values()]
    return {
        cell.label if labels.count(cell.label) == 1 else f"{cell.label} ({cell.run.variant})": cell.run
        for cell in cells.values()
    }


def _recipe(run: Run, experiments: Experiments) -> dict[str, str]:
    """`section.setting` to value, of every setting; and the runs it starts from."""
    flat = {
        f"{name}.{key}": value for name, section in run.describe().items() for key, value in flatten(section).items()
    }
    others = {f"inputs.{role}": _without_seed(other, run) for role, other in experiments.inputs(run).items()}
    return {key: text(value) for key, value in {**flat, "run.variant": run.variant, **others}.items()}


def _without_seed(other: Run, run: Run) -> str:
    return other.name.removesuffix(f"/seed{run.seed}")


def _rank(key: str) -> tuple[int, int]:
    """The paper's settings first, as in its Table 3; then section by section."""
    order, sections = list(RECIPE), ["objective", "training", "network", "noise", "evaluation"]
    section = key.partition(".")[0]
    return (
        order.index(key) if key in order else len(order),
        sections.index(section) if section in sections else len(sections),
    )


def _setting(key: str) -> str:
    section, _, name = key.partition(".")
    return RECIPE.get(key, section if name == "name" else f"{section} {name}".replace("_", " "))
