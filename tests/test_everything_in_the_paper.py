"""Every table, figure and algorithm of the paper has an artefact in the suite `paper`, or code, that makes it.

The numbers are those of the paper: Tables 1 to 3, Figures 1 to 21, Algorithms 1 to 4. Figures 1 and 2 are drawings
without data, which explain the method.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from cm import registry
from cm.config import load_suite

ROOT = Path(__file__).parent.parent
DATASETS = ("cifar10", "imagenet64", "lsun_bedroom", "lsun_cat")
DRAWINGS = {"Figure 1", "Figure 2"}
# Of each table and figure, the artefacts of the suite `paper`.
ARTEFACTS: dict[str, tuple[str, ...]] = {
    "Table 1": ("table1",),
    "Table 2": tuple(f"table2_{dataset}" for dataset in DATASETS[1:]),
    "Table 3": ("table3",),
    "Figure 3": ("fig3a", "fig3b", "fig3c", "fig3d"),
    "Figure 4": tuple(f"fig4_{dataset}" for dataset in DATASETS),
    "Figure 5": tuple(f"fig5_{dataset}" for dataset in DATASETS),
    "Figure 7": ("fig7a", "fig7b"),
    **{f"Figure {number}": (f"fig{number}",) for number in (6, *range(8, 22))},
}
# Of each algorithm, and of what the appendices add to them, the module and what in it is the algorithm.
CODE: dict[str, tuple[str, str]] = {
    "Algorithm 1": ("cm.diffusion.samplers", "Multistep"),
    "Algorithm 2": ("cm.methods.cd", "ConsistencyDistillation"),
    "Algorithm 3": ("cm.methods.ct", "ConsistencyTraining"),
    "Algorithm 4": ("cm.diffusion.edits", "Iterative"),
    "Theorem 3 and 5, continuous-time distillation": ("cm.methods.continuous", "ContinuousDistillation"),
    "Theorem 6, continuous-time training": ("cm.methods.continuous", "ContinuousTraining"),
    "Appendix C, adaptive N and mu": ("cm.diffusion.curriculum", "Adaptive"),
    "Section 3, greedy search for the time points": ("cm.evaluation.ternary", "minimize"),
    "Progressive distillation (Table 1)": ("cm.methods.pd", "ProgressiveDistillation"),
    "The sampler of EDM (Table 1)": ("cm.diffusion.samplers", "ODE"),
}


@pytest.fixture(scope="module")
def paper():
    return load_suite(ROOT / "config" / "suites" / "paper.yaml")


def test_the_list_is_complete():
    numbered = {f"Table {n}" for n in range(1, 4)} | {f"Figure {n}" for n in range(1, 22)}
    assert set(ARTEFACTS) | DRAWINGS == numbered
    assert {f"Algorithm {n}" for n in range(1, 5)} <= set(CODE)


@pytest.mark.parametrize("entry", ARTEFACTS)
def test_every_table_and_figure_has_artefacts_that_say_so(entry, paper):
    missing = [name for name in ARTEFACTS[entry] if not _is_artefact(paper, name, entry)]
    assert not missing


def _is_artefact(paper, name: str, entry: str) -> bool:
    """Whether the suite has the artefact as one of the paper's, its caption names the entry, and its kind is known."""
    artefact = paper.artefacts.get(name)
    if artefact is None:
        return False
    assert artefact.kind in registry.names("artefact")
    assert artefact.paper, f"{name} is an artefact of the paper"
    assert entry in artefact.caption, f"the caption of {name} names {entry}: {artefact.caption}"
    return True


@pytest.mark.parametrize("entry", CODE)
def test_every_algorithm_has_code(entry):
    module, name = CODE[entry]
    assert _exists(module, name), f"{module}.{name}"


def _exists(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("suite", ["demo", "released"])
def test_the_numbers_in_other_suites_are_those_of_the_list(suite):
    """An artefact whose caption begins with a number of the paper has the name that the suite `paper` has for it."""
    known = {entry: {name.partition("_")[0] for name in names} for entry, names in ARTEFACTS.items()}
    for artefact in load_suite(ROOT / "config" / "suites" / f"{suite}.yaml").artefacts.values():
        for entry, names in known.items():
            if artefact.caption.startswith(f"{entry} of the paper"):
                assert artefact.name.partition("_")[0] in names
