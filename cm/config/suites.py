"""Suites: which tables, figures and ablations are wanted, and the runs and scores that each of them needs.

An artefact asks for **cells**: one trained model, at one percentage of its training, through one sampler. The workflow
makes the score of each cell; the report reads them. Both expand the same artefact with the same function, `cells`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cm import registry
from cm.config import experiments as exp
from cm.config.checking import check
from cm.config.documents import read_yaml
from cm.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of an artefact's `entries:`; it stands for one cell for each combination, seed and percentage.

    `vary`: setting to list of values, all combinations; `variants`: a list of combinations spelt out; `settings`: what
    all of them have in common. `sampler` may name a setting in braces: `pd,steps~{steps}`. `label`: the name in
    legends, with the same braces; without it the varied settings are.
    """

    method: str
    dataset: str | None = None
    settings: dict = dataclasses.field(default_factory=dict)
    vary: dict = dataclasses.field(default_factory=dict)
    variants: list = dataclasses.field(default_factory=lambda: [{}])
    sampler: str | None = None
    samplers: list = dataclasses.field(default_factory=list)
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """A model and a sampler that an artefact needs the score of."""

    run: exp.Run = dataclasses.field(repr=False)
    progress: int
    sampler: str
    label: str
    varied: tuple[tuple[str, Any], ...]

    @property
    def path(self) -> str:
        """`<run>/<progress>/<sampler>`: the stem of its score, preview and sample files."""
        return f"{self.run.name}/{self.progress}/{self.sampler}"


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A table or figure. `kind`: the function in cm.report that draws it. `progress`: percentages of training.

    `published`: for tables with the paper's numbers, `table` and `dataset` of published.csv.
    """

    name: str
    kind: str
    caption: str
    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]
    progress: tuple[int, ...]
    published: dict[str, str]
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Suite:
    """A suite file, read and checked. `threads`, `gpus`: what a job that computes takes of either."""

    name: str
    dataset: str
    experiments: Path
    seeds: tuple[int, ...]
    progress: tuple[int, ...]
    threads: int
    gpus: int
    artefacts: dict[str, Artefact]
    ablations: dict[str, Artefact]

    def find(self, name: str) -> Artefact:
        """The artefact or ablation (`ablation_<name>`) of that name; UserError, with the known names, otherwise."""
        known = {**self.artefacts, **self.ablations}
        if name not in known:
            raise unknown("artefact", name, known, f"suite {self.name}")
        return known[name]

    def cells(self, artefact: Artefact) -> list[Cell]:
        """Every cell the artefact needs, in the order of its file."""
        return [cell for entry in artefact.entries for cell in self._entry_cells(artefact, entry)]

    def _entry_cells(self, artefact: Artefact, entry: Entry) -> list[Cell]:
        cells = []
        for changes, seed, progress in itertools.product(_combinations(entry), artefact.seeds, artefact.progress):
            dataset = entry.dataset or self.dataset
            run = _run(dataset, entry.method, {**entry.settings, **changes}, seed, self.experiments)
            if run.released and progress != 100:
                raise UserError(f"artefact {artefact.name}: {run.name} is released: it has no model at {progress} %")
            words = {**run.settings, **changes, "method": entry.method.upper()}
            for sampler in _samplers(entry, run):
                name = _filled(sampler, words, artefact.name)
                exp.sampler(name, f"artefact {artefact.name}")
                label = _filled(entry.label or _legend(entry.method, changes), words, artefact.name)
                cells.append(Cell(run, progress, name, label, tuple(changes.items())))
        return cells


def with_inputs(runs: Iterable[exp.Run], experiments: Path) -> list[exp.Run]:
    """The runs and all runs that they start from, each once, the given ones first."""
    found, waiting = {}, list(runs)
    for run in waiting:
        if run.name not in found:
            found[run.name] = run
            waiting += [one for one in exp.inputs(run, experiments).values() if isinstance(one, exp.Run)]
    return list(found.values())


@functools.cache
def _cached_run(dataset: str, method: str, changes: tuple, seed: int, experiments: Path) -> exp.Run:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in changes}
    variant = exp.variant(dataset, method, plain, experiments)
    return exp.load(f"{dataset}/{method}/{variant}/seed{seed}", experiments)


def _run(dataset: str, method: str, changes: dict[str, Any], seed: int, experiments: Path) -> exp.Run:
    frozen = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in changes.items())
    return _cached_run(dataset, method, frozen, seed, experiments)


def _samplers(entry: Entry, run: exp.Run) -> list[str]:
    wanted = entry.samplers or [entry.sampler or run.document.get("sampler")]
    if wanted == [None]:
        raise UserError(f"{run.dataset}/{run.method}: no 'sampler:' in the experiment file or the artefact's entry")
    return wanted


def _combinations(entry: Entry) -> list[dict[str, Any]]:
    products = itertools.product(*entry.vary.values())
    grid = [dict(zip(entry.vary, values, strict=True)) for values in products]
    return [{**one, **other} for one in entry.variants for other in grid]


def _legend(method: str, changes: dict[str, Any]) -> str:
    return ", ".join([method.upper(), *(f"{key} {{{key}}}" for key in changes)])


def _filled(template: str, words: dict[str, Any], where: str) -> str:
    try:
        return template.format(**words)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"artefact {where}: '{template}' names {error}, which is no setting of the run") from None


# ---- reading the file ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _SuiteFile:
    dataset: str
    seeds: list[int] = registry.setting([0], low=0)
    progress: list[int] = registry.setting([100], low=1, below=101)
    experiments: str = registry.setting("../experiments")
    threads: int = registry.setting(1, low=1)
    gpus: int = registry.setting(0, low=0)
    artefacts: dict = dataclasses.field(default_factory=dict)
    ablations: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _ArtefactFile:
    kind: str = registry.setting(dataclasses.MISSING, kind="artefact")
    caption: str = registry.setting(dataclasses.MISSING)
    entries: list = dataclasses.field(default_factory=list)
    seeds: list[int] | None = registry.setting(None, low=0)
    progress: list[int] | None = registry.setting(None, low=1, below=101)
    published: dict = dataclasses.field(default_factory=dict)
    options: dict = dataclasses.field(default_factory=dict)


def load_suite(path: Path | str) -> Suite:
    """The suite in a YAML file; everything it asks for is expanded once, so that a mistake anywhere in it shows now.

    Raises UserError for an unknown key, kind, method, data set, setting, value or sampler, a percentage that the suite
    does not keep, and an ablation over a setting that its method does not have.
    """
    path = Path(path)
    file = check(_SuiteFile, read_yaml(path), str(path))
    if 100 not in file.progress:
        raise UserError(f"{path}: progress must hold 100, the end of training")
    folder = Path(os.path.normpath(path.parent / file.experiments))
    seeds, progress = tuple(dict.fromkeys(file.seeds)), tuple(dict.fromkeys(file.progress))
    suite = Suite(path.stem, file.dataset, folder, seeds, progress, file.threads, file.gpus, {}, {})
    for name, document in file.artefacts.items():
        suite.artefacts[name] = _artefact(name, document, suite, str(path))
    for name, document in file.ablations.items():
        suite.ablations[f"ablation_{name}"] = _ablation(name, document, suite, str(path))
    for artefact in (*suite.artefacts.values(), *suite.ablations.values()):
        for cell in suite.cells(artefact):
            _check_inputs(cell.run, folder)
    return suite


@functools.cache
def _check_inputs(run: exp.Run, experiments: Path) -> None:
    """Expand everything a run starts from and is scored with."""
    exp.judge(run.protocol.extractor, experiments)
    splits = exp.splits_of(run.dataset, experiments)
    if run.protocol.reference not in splits:
        raise unknown("split", run.protocol.reference, splits, f"{run.protocol.file}, for {run.dataset}")
    for other in exp.inputs(run, experiments).values():
        if isinstance(other, exp.Run):
            _check_inputs(other, experiments)


def _artefact(name: str, document: Any, suite: Suite, path: str) -> Artefact:
    where = f"{path}, artefact {name}"
    file = check(_ArtefactFile, _mapping(document, where), where)
    progress = tuple(dict.fromkeys(file.progress or (100,)))
    for percentage in progress:
        if percentage not in suite.progress:
            raise unknown("progress", percentage, suite.progress, where)
    entries = tuple(_entry(entry, where) for entry in file.entries)
    seeds = tuple(suite.seeds if file.seeds is None else dict.fromkeys(file.seeds))
    artefact = Artefact(name, file.kind, file.caption, entries, seeds, progress, file.published, file.options)
    registry.get("artefact", file.kind).check(artefact)
    return artefact


def _entry(document: Any, where: str) -> Entry:
    entry = check(Entry, _mapping(document, where), where)
    for setting, values in entry.vary.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}: vary: {setting} must be a list of values to try, not {values!r}")
    for changes in entry.variants:
        _mapping(changes, f"{where}, variants")
    if not all(isinstance(sampler, str) for sampler in entry.samplers):
        raise UserError(f"{where}: samplers must be names, not {entry.samplers}")
    return entry


def _ablation(name: str, document: Any, suite: Suite, path: str) -> Artefact:
    where = f"{path}, ablation {name}"
    document = dict(_mapping(document, where))
    if not document.get("vary"):
        raise UserError(f"{where}: 'vary:' must name at least one setting with the values to try")
    over = " and ".join(document["vary"])
    caption = document.pop("caption", f"Ablation over {over} of {str(document.get('method', '')).upper()}.")
    extra = {key: document.pop(key) for key in ("seeds", "progress") if key in document}
    file = {"kind": "ablation", "caption": caption, "entries": [document], **extra}
    return _artefact(f"ablation_{name}", file, suite, where)


def _mapping(document: Any, where: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise UserError(f"{where}: expected a mapping, not {document!r}")
    return document
