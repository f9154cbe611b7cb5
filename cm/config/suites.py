"""Suites: which tables, figures and ablations are wanted, and the runs and scores that each of them needs.

An artefact asks for **cells**: one trained model, at one percentage of its training, through one sampler. The workflow
makes the score of each cell; the report reads them. Both expand the same artefact with the same function, `cells`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

from cm import registry
from cm.config.checking import check
from cm.config.claims import FILE, Claim, Comparison, compare, read_claims
from cm.config.compatibility import check_sampler, has_two_times
from cm.config.experiments import Experiments
from cm.config.layout import name_model
from cm.config.names import fill_template
from cm.config.protocols import Protocol
from cm.config.runs import Run
from cm.config.samplers import parse_edit, parse_sampler
from cm.config.suite_files import ArtefactFile, Entry, SuiteFile
from cm.config.yaml_reader import read_yaml
from cm.errors import UserError, unknown

MOST_CELLS = 10_000  # scores of an artefact
EDIT_NEEDS = ("edit previews", "edit scores")  # what kinds of artefact need that show edits


@dataclasses.dataclass(frozen=True)
class Cell:
    """A score that an artefact needs: of a model at a percentage of its training, through a sampler, by a protocol.

    `edit`: of edited images instead of samples; the sampler is then empty.
    """

    run: Run = dataclasses.field(repr=False)
    progress: int
    sampler: str
    protocol: Protocol
    label: str
    varied: tuple[tuple[str, Any], ...]
    edit: str = ""
    ema_decay: float | None = None  # of the averaged weights, if not the first of the run

    @property
    def samples(self) -> tuple[str, str, str]:
        """Which samples are scored: the name of the run, that of its model, and the sampler."""
        return self.run.name, name_model(self.progress, self.ema_decay), self.sampler

    @property
    def edited(self) -> tuple[str, str, str]:
        """Which images are edited: the name of the run, that of its model, and the edit."""
        return self.run.name, name_model(self.progress, self.ema_decay), self.edit

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        count: int = (parse_edit(self.edit) if self.edit else parse_sampler(self.sampler)).evaluations
        return count


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A table or figure. `kind`: the function in cm.report that draws it. `progress`: percentages of training.

    `protocol`: the protocol whose scores it shows, None for the first of each run. `paper`: whether the paper has it.
    `published`: for artefacts with published numbers, `table`, `dataset` and, for a part of them, `group` of
    published.csv. `words`: what else labels and samplers may have in braces. `claims`: of the kind that judges claims.
    """

    name: str
    kind: str
    caption: str
    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]
    progress: tuple[int, ...]
    protocol: str | None
    paper: bool
    published: dict[str, str]
    options: dict[str, Any]
    words: dict[str, str] = dataclasses.field(default_factory=dict)
    claims: dict[str, Claim] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Suite:
    """A suite file, read and checked. `threads`, `gpus`: what each job that computes takes of either."""

    name: str
    dataset: str
    experiments: Experiments
    seeds: tuple[int, ...]
    progress: tuple[int, ...]
    threads: int
    gpus: int
    artefacts: dict[str, Artefact]
    ablations: dict[str, Artefact]
    _cells: dict[str, list[Cell]] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @property
    def all_artefacts(self) -> dict[str, Artefact]:
        """Artefacts and ablations by name; that of an ablation is `ablation_<name>`."""
        return {**self.artefacts, **self.ablations}

    def find(self, name: str) -> Artefact:
        """The artefact or ablation of that name; UserError, with the known names, otherwise."""
        if name not in self.all_artefacts:
            raise unknown("artefact", name, self.all_artefacts, f"suite {self.name}")
        return self.all_artefacts[name]

    def cells(self, artefact: Artefact) -> list[Cell]:
        """Every cell the artefact needs, in the order of its file."""
        if artefact.name not in self._cells:
            sides = itertools.chain.from_iterable((one.runs, one.reference) for one in self.comparisons(artefact))
            entries = (self._cells_of_entry(artefact, entry) for entry in artefact.entries)
            self._cells[artefact.name] = list(itertools.chain.from_iterable([*entries, *sides]))
        return self._cells[artefact.name]

    def comparisons(self, artefact: Artefact) -> list[Comparison]:
        """The claims of an artefact that this suite decides, with the cells of its other artefacts that decide them."""
        if not artefact.claims:
            return []
        others = [self.cells(other) for other in self.all_artefacts.values() if not other.claims]
        return compare(self, artefact.claims, itertools.chain.from_iterable(others))

    def all_cells(self) -> list[Cell]:
        """The cells of all artefacts and ablations."""
        return list(itertools.chain.from_iterable(map(self.cells, self.all_artefacts.values())))

    def required_cells(self) -> list[Cell]:
        """The cells whose files the artefacts read, one for each set of samples."""
        cells: dict[tuple[str, ...], Cell] = {}
        for artefact in self.all_artefacts.values():
            if registry.get("artefact", artefact.kind).needs != "nothing":
                cells |= {(*cell.samples, cell.edit): cell for cell in self.cells(artefact)}
        return list(cells.values())

    def required_runs(self) -> list[Run]:
        """The runs of these cells, those whose features score them, and all that they start from."""
        cells = self.required_cells()
        extractors = [self.experiments.run_or_weights(cell.protocol.extractor) for cell in cells]
        runs = [cell.run for cell in cells] + [model for model in extractors if isinstance(model, Run)]
        return self.experiments.with_inputs(runs)

    def all_runs(self) -> list[Run]:
        """The runs of all artefacts and those that they start from, each once, by method in the order of the suite."""
        found = self.experiments.with_inputs(cell.run for cell in self.all_cells())
        methods = list(dict.fromkeys(run.method for run in found))
        return sorted(found, key=lambda run: methods.index(run.method))

    def _cells_of_entry(self, artefact: Artefact, entry: Entry) -> list[Cell]:
        cells = []
        for changes, seed, progress in itertools.product(_combinations(entry), artefact.seeds, artefact.progress):
            settings = {**entry.settings, **changes}
            run = self.experiments.find(entry.dataset or self.dataset, entry.method, settings, seed)
            if run.released and progress != 100:
                raise UserError(f"artefact {artefact.name}: {run.name} is released: it has no model at {progress} %")
            where = f"artefact {artefact.name}"
            decay, default = _find_average(entry, run, where), run.training.ema_decay[0]
            words = {**run.settings, **changes, "ema_decay": decay or default, **artefact.words}
            words["method"] = entry.method.upper()
            label = fill_template(entry.label or _legend(entry.method, changes), words, where)
            protocol = self._protocol(artefact, run)
            varied = tuple(changes.items())
            for edit in entry.edits:
                self._check_edit(edit, run, where)
                cells.append(Cell(run, progress, "", protocol, label, varied, edit, decay))
            for sampler in () if entry.edits else _samplers(entry, run):
                name = fill_template(sampler, words, where)
                check_sampler(parse_sampler(name, where), has_two_times(run.network), f"{where}, {run.name}")
                cells.append(Cell(run, progress, name, protocol, label, varied, ema_decay=decay))
        return cells

    def _check_edit(self, edit: str, run: Run, where: str) -> None:
        """UserError for an edit that images of the run do not admit, and for one whose mask or distance is unknown."""
        parsed, network = parse_edit(edit, where), run.network
        parsed.check_images((network.image_channels, network.resolution, network.resolution), f"{where}, {run.name}")
        self.experiments.perceptual_of_edits(run)
        if parsed.needs_mask:
            self.experiments.mask_file(parsed.mask)

    def _protocol(self, artefact: Artefact, run: Run) -> Protocol:
        """The protocol of a cell; UserError if the run is not scored by the one that the artefact shows."""
        known = run.evaluation.protocol
        if artefact.protocol not in (None, *known):
            raise unknown("protocol", artefact.protocol, known, f"artefact {artefact.name}, {run.name}")
        return self.experiments.protocol(artefact.protocol or known[0])


def _samplers(entry: Entry, run: Run) -> tuple[str, ...]:
    if entry.samplers:
        return entry.samplers
    sampler = run.links.sampler if entry.sampler is None else entry.sampler
    if sampler is None:
        raise UserError(f"{run.dataset}/{run.method}: no 'sampler:' in the experiment file or the artefact's entry")
    return (sampler,)


def _find_average(entry: Entry, run: Run, where: str) -> float | None:
    """The decay whose averages an entry asks for, None for the first; UserError if the run does not have it."""
    first, *others = run.training.ema_decay
    if entry.ema_decay not in (None, first, *others):
        raise unknown("ema_decay", entry.ema_decay, run.training.ema_decay, f"{where}, {run.name}")
    return entry.ema_decay if entry.ema_decay in others else None


def _combinations(entry: Entry) -> list[dict[str, Any]]:
    products = itertools.product(*entry.vary.values())
    grid = [dict(zip(entry.vary, values, strict=True)) for values in products]
    return [{**variant, **varied} for variant, varied in itertools.product(entry.variants, grid)]


def _legend(method: str, changes: dict[str, Any]) -> str:
    return ", ".join([method.upper(), *(f"{key} {{{key}}}" for key in changes)])


# ---- reading the file ---------------------------------------------------------------------------------------------


def load_suite(path: Path | str) -> Suite:
    """The suite in a YAML file; everything it asks for is expanded once, so that a mistake anywhere in it shows now.

    Raises UserError for an unknown key, kind, method, data set, setting, value or sampler, a percentage that the suite
    does not keep, and an ablation over a setting that its method does not have.
    """
    path = Path(path)
    file = check(SuiteFile, read_yaml(path), str(path))
    seeds, progress = tuple(dict.fromkeys(file.seeds)), tuple(dict.fromkeys(file.progress))
    experiments = Experiments(path.parent / file.experiments)
    suite = Suite(path.stem, file.dataset, experiments, seeds, progress, file.threads, file.gpus, {}, {})
    for written, artefact in file.artefacts.items():
        for name, (one, words) in artefact.expand(written, f"{path}, artefact {written}").items():
            where = f"{path}, artefact {name}"
            if name in suite.artefacts:
                raise UserError(f"{where}: two artefacts have this name")
            suite.artefacts[name] = dataclasses.replace(_artefact(name, one, suite, where), words=words)
    for name, ablation in file.ablations.items():
        whole = _artefact(f"ablation_{name}", ablation.artefact(), suite, f"{path}, ablation {name}")
        suite.ablations[whole.name] = whole
    for run in experiments.with_inputs(cell.run for cell in suite.all_cells()):
        _check_scores(run, experiments)
    return suite


def _check_scores(run: Run, experiments: Experiments) -> None:
    """UserError if the run could not be scored: an unknown extractor or reference split, or contradictory protocols."""
    experiments.quantization(run)
    for name in run.evaluation.protocol:
        protocol = experiments.protocol(name)
        experiments.find_features(protocol.extractor, f"{protocol.file}, extractor")
        splits = experiments.splits(run.dataset)
        if protocol.reference not in splits:
            raise unknown("split", protocol.reference, splits, f"{protocol.file}, for {run.dataset}")


def _artefact(name: str, file: ArtefactFile, suite: Suite, where: str) -> Artefact:
    progress = tuple(dict.fromkeys(file.progress or (100,)))
    for percentage in progress:
        if percentage not in suite.progress:
            raise unknown("progress", percentage, suite.progress, where)
    seeds = tuple(suite.seeds if file.seeds is None else dict.fromkeys(file.seeds))
    kind = registry.get("artefact", file.kind)
    claims = suite.experiments.folder.parent / FILE
    artefact = Artefact(
        name=name,
        kind=file.kind,
        caption=file.caption,
        entries=file.entries,
        seeds=seeds,
        progress=progress,
        protocol=file.protocol,
        paper=file.paper,
        published=file.published,
        options=file.options,
        claims=read_claims(claims) if kind.needs == "claims" else {},
    )
    kind.check(artefact)
    _check_edits(artefact, shows_edits=kind.needs in EDIT_NEEDS, where=where)
    _check_size(artefact, where)
    return artefact


def _check_edits(artefact: Artefact, *, shows_edits: bool, where: str) -> None:
    """UserError for entries without edits in an artefact that shows them, and with edits in any other."""
    for entry in artefact.entries:
        if bool(entry.edits) != shows_edits:
            needed = "needs 'edits:' in its entries" if shows_edits else "shows no edits: it takes samplers"
            raise UserError(f"{where}: kind '{artefact.kind}' {needed}")


def _check_size(artefact: Artefact, where: str) -> None:
    """UserError for an artefact of more cells than `MOST_CELLS`, before any of them is made."""
    each = len(artefact.seeds) * len(artefact.progress)
    count = sum(
        each * _count_combinations(entry) * max(1, len(entry.samplers), len(entry.edits)) for entry in artefact.entries
    )
    if count > MOST_CELLS:
        raise UserError(f"{where}: its entries ask for {count} scores, more than {MOST_CELLS}")


def _count_combinations(entry: Entry) -> int:
    return len(entry.variants) * math.prod(map(len, entry.vary.values()))
