"""Hyper-parameters, straight from the experiment files: Table 3 of the paper, and every run of a suite.

A setting is identified by its path, `training.lr`; a component is a setting whose value is its name, and the settings
of the component follow below it: `objective.curriculum` is `adaptive`, `objective.curriculum.s0` is 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import report
from cm.report.writing import format_setting, table

if TYPE_CHECKING:
    from pandas import DataFrame

    from cm.config import Artefact, Cell, Experiments, Run, Suite, Weights

SECTIONS = ("objective", "training", "network", "noise", "evaluation")
# The titles of the settings of the paper's Table 3, in its order, and of those that belong beside them.
TABLE3 = {
    "objective.name": "method",
    "run.variant": "variant",
    "inputs.teacher": "teacher",
    "training.lr": "learning rate",
    "training.batch": "batch size",
    "training.microbatch": "images per forward pass",
    "objective.curriculum": "curriculum",
    "objective.curriculum.target_mu": "mu",
    "objective.curriculum.mu0": "mu0",
    "objective.curriculum.s0": "s0",
    "objective.curriculum.s1": "s1",
    "objective.curriculum.steps": "N",
    "objective.steps": "sampling steps",
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
OTHERS = {
    "objective.p_mean": "P_mean",
    "objective.p_std": "P_std",
    "objective.weighting": "weighting",
    "objective.init": "initial weights",
    "objective.distance.precision": "number format of the distance",
    "objective.curriculum.mu_exponent": "exponent of mu",
    "training.checkpointing": "activation checkpointing",
    "training.compile": "compilation",
    "training.cuda_graphs": "CUDA graphs",
    "training.released": "released checkpoint",
}
TITLES = {**TABLE3, **OTHERS}

Recipe = dict[str, str]  # from the path of a setting to its value


@report.kind("recipes", form="table", needs="nothing")
def recipes(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """Table 3 of the paper: a row for each setting that any run has, a column for each run of the first seed."""
    columns = {label: _read_recipe(run, suite.experiments) for label, run in _label_runs(suite, artefact).items()}
    rows = []
    for key in _sort_settings(columns.values()):
        values = {label: recipe.get(key) for label, recipe in columns.items()}
        rows.append({"setting": _title(key), "key": key, **values})
    return table(rows, [])


@report.kind("runs", form="table", needs="nothing")
def runs(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """A row for each training of the suite, with its number of seeds and every setting in which any two differ."""
    seeds: dict[str, set[int]] = {}
    found: dict[str, Recipe] = {}
    for run in suite.all_runs():
        name = run.identity.without_seed
        seeds.setdefault(name, set()).add(run.seed)
        if name not in found:
            found[name] = _read_recipe(run, suite.experiments)
    keys = [key for key in _sort_settings(found.values()) if _is_varied(key, found.values())]
    return table([{"run": name, "seeds": len(seeds[name]), **_row(found[name], keys)} for name in found], [])


# ---- settings -------------------------------------------------------------------------------------------------------


def _read_recipe(run: Run, experiments: Experiments) -> Recipe:
    """Every setting of a run, and the runs that it starts from."""
    found: dict[str, Any] = {}
    for section, settings in run.describe().items():
        found |= flatten_settings(settings, section)
    found["run.variant"] = run.variant
    for role, other in experiments.inputs(run).items():
        found[f"inputs.{role}"] = _name_input(other, run)
    return {key: format_setting(value) for key, value in found.items()}


def flatten_settings(settings: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Every setting of a section or component by its path."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            inner = flatten_settings(value, f"{path}.{key}")
            name = inner.pop(f"{path}.{key}.name", None)
            found |= {f"{path}.{key}": name, **inner}
        else:
            found[f"{path}.{key}"] = value
    return found


def _name_input(other: Run | Weights, run: Run) -> str:
    """The name of a model that a run starts from, without the seed if that is the run's own."""
    return other.name.removesuffix(f"/seed{run.seed}")


def _sort_settings(found: Iterable[Recipe]) -> list[str]:
    """All settings of some runs: the paper's first, as in its Table 3, then section by section."""
    keys: dict[str, None] = {}
    for recipe in found:
        keys |= dict.fromkeys(recipe)
    return sorted(keys, key=_rank)


def _rank(key: str) -> tuple[int, int]:
    order, section = list(TABLE3), key.partition(".")[0]
    return (
        order.index(key) if key in order else len(order),
        SECTIONS.index(section) if section in SECTIONS else len(SECTIONS),
    )


def _is_varied(key: str, found: Iterable[Recipe]) -> bool:
    return len({recipe.get(key) for recipe in found}) > 1


def _row(recipe: Recipe, keys: Sequence[str]) -> dict[str, str | None]:
    """The settings `keys` of a run, without the method and the variant, which are in its name already."""
    return {_title(key): recipe.get(key) for key in keys if key not in ("objective.name", "run.variant")}


def _title(key: str) -> str:
    """The title of a setting: the paper's word, or what it belongs to and its name, `distance size`.

    The name of a section's component stands under that of the section: `network`.
    """
    if key in TITLES:
        return TITLES[key]
    *_, owner, name = key.split(".")
    return (owner if name == "name" else f"{owner} {name}").replace("_", " ")


# ---- runs -----------------------------------------------------------------------------------------------------------


def _label_runs(suite: Suite, artefact: Artefact) -> dict[str, Run]:
    """Each run of the first seed by its label, with its variant where several runs have the same label."""
    cells: dict[str, Cell] = {}
    for cell in suite.cells(artefact):
        if cell.run.seed == artefact.seeds[0]:
            cells.setdefault(cell.run.name, cell)
    labels = [cell.label for cell in cells.values()]
    return {_unique_label(cell, labels): cell.run for cell in cells.values()}


def _unique_label(cell: Cell, labels: Sequence[str]) -> str:
    return cell.label if labels.count(cell.label) == 1 else f"{cell.label} ({cell.run.variant})"
