"""The claims of the paper, and the scores of a suite that decide them.

A claim compares the runs of one side with those of another side, or with a published number. Its sides are written as
the entries of artefacts are, but they select scores that the artefacts of the suite need anyway: claims add no training
and no score. So one file serves all suites, whose data sets, seeds and time points differ.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cm.config.checking import check
from cm.config.experiments import sampler_name
from cm.config.names import check_name, fill_template
from cm.config.samplers import parse_sampler
from cm.config.settings import above, at_least, at_most, below, name_of, plain_name
from cm.config.yaml_reader import read_yaml
from cm.errors import UserError, unknown

if TYPE_CHECKING:
    from cm.config.suites import Cell, Suite

FILE = "claims.yaml"
_WORD = re.compile(r"\{(\w+)\}")
Index = Mapping[tuple[str, int], "Sequence[Cell]"]  # cells by run without its seed, and percentage of training


@dataclasses.dataclass(frozen=True)
class Side:
    """The runs on one side of a claim: one model through one sampler, of all seeds that the suite has.

    `method`: the experiment file. `dataset`: the folder of experiment files, by default the suite's. `settings`: what
    differs from the experiment file. `sampler`: by default that of the experiment file; it may name settings in
    braces. `evaluations`: in place of a sampler, the number of evaluations of the network (NFE); it stands for the
    first sampler of the suite with as many. `progress`: percentage of training.
    """

    method: Annotated[str, plain_name("method")]
    dataset: Annotated[str, plain_name("data set")] | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    sampler: str | None = None
    evaluations: Annotated[int, at_least(1), at_most(10**6)] | None = None
    progress: Annotated[int, at_least(1), at_most(100)] = 100

    def check(self, where: str) -> None:
        """UserError for both a sampler and a number of evaluations."""
        if self.sampler and self.evaluations:
            raise UserError(f"{where}: give 'sampler' or 'evaluations', not both")


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """A row of published.csv: its `table`, `dataset` and `method`, and `nfe`, the evaluations of the network."""

    table: str
    dataset: str
    method: str
    nfe: Annotated[int, at_least(1), at_most(10**6)]


@dataclasses.dataclass(frozen=True)
class Claim:
    """An entry of `claims:`.

    `statement`: the claim in words. `source`: where the paper states it. `runs`: what the claim is about. `relation`:
    `better` than the reference, `similar` to it within the margin, or `equal` to the published number. `reference`: the
    runs that it is compared with. `published`: in place of a reference, the published number that it is compared with.
    `metrics`: each is tested on its own. `margin` of `similar`, a fraction of the reference. `protocol`: by default the
    first of the runs whose scores the suite has for both sides. `suites` that must have the runs. A claim about a
    published number is tested in no other suite; any other claim also in all suites that have the runs. `cases`: words
    in braces to a value, or to a list of values; the claim is made for each combination, and `<claim>_<value>_<value>`
    is its name, with - for spaces.
    """

    statement: str
    source: str
    runs: Side
    relation: Literal["better", "similar", "equal"]
    reference: Side | None = None
    published: PublishedRow | None = None
    metrics: tuple[Annotated[str, name_of("metric")], ...] = ("fid",)
    margin: Annotated[float, above(0.0), below(1.0)] | None = None
    protocol: Annotated[str, plain_name("protocol")] | None = None
    suites: tuple[Annotated[str, plain_name("suite")], ...] = ("paper",)
    cases: tuple[dict[str, Any], ...] = ({},)

    def check(self, where: str) -> None:
        """UserError unless the claim has what its relation needs, and nothing else."""
        if (self.reference is None) == (self.published is None):
            raise UserError(f"{where}: needs a 'reference' or a 'published' number to compare with, and not both")
        if self.relation == "equal" and self.published is None:
            raise UserError(f"{where}: 'equal' compares with a 'published' number")
        if self.relation == "similar" and self.reference is None:
            raise UserError(f"{where}: 'similar' compares with the runs of a 'reference'")
        if (self.margin is not None) != (self.relation == "similar"):
            raise UserError(f"{where}: 'similar' needs a 'margin', and no other relation has one")


@dataclasses.dataclass(frozen=True)
class ClaimsFile:
    """The file of claims. `claims`: by name."""

    claims: dict[Annotated[str, plain_name("claim")], Claim]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A claim and the cells that decide it, by increasing seed.

    Those of the reference have the same seeds as those of the runs; there are none where a published number takes its
    place.
    """

    name: str
    claim: Claim
    runs: tuple[Cell, ...]
    reference: tuple[Cell, ...]


# ---- reading the file -----------------------------------------------------------------------------------------------


def read_claims(path: Path) -> dict[str, Claim]:
    """The claims in a YAML file by name, one for each case.

    Raises UserError for unknown keys, metrics and suites, for words without a case, and for two claims of one name.
    """
    document = read_yaml(path)
    if document.keys() != {"claims"} or not isinstance(document["claims"], dict):
        raise UserError(f"{path}: expected 'claims:' with a mapping from names to claims, and nothing else")
    found: dict[str, Claim] = {}
    for written, values in document["claims"].items():
        where = f"{path}, claim {written}"
        check_name(written, "claim", str(path))
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected a mapping, not {values!r:.60}")
        for words in _combine_cases(values.get("cases", [{}]), where):
            name = check_name("_".join([written, *map(_name, words.values())]), "claim", str(path))
            if name in found:
                raise UserError(f"{path}: two claims are called '{name}'")
            found[name] = check(Claim, _fill({**values, "cases": [{}]}, words, where), f"{path}, claim {name}")
            _check_suites(found[name], path.parent / "suites", f"{path}, claim {name}")
    return found


def _name(word: Any) -> str:
    """A word as a part of the name of a claim."""
    return str(word).replace(" ", "-")


def _combine_cases(cases: Any, where: str) -> Iterable[dict[str, Any]]:
    """Each combination of the values of each case."""
    for case in cases if isinstance(cases, list) else [cases]:
        if not isinstance(case, dict):
            raise UserError(f"{where}: a case must be a mapping from words to values, not {case!r:.60}")
        lists = [values if isinstance(values, list) else [values] for values in case.values()]
        for values in itertools.product(*lists):
            yield dict(zip(case, values, strict=True))


def _fill(value: Any, words: Mapping[str, Any], where: str) -> Any:
    """A plain value with the words in braces of its texts replaced; a text that is one word becomes that value.

    Samplers keep their braces, which stand for settings of the runs.
    """
    if isinstance(value, dict):
        return {key: part if key == "sampler" else _fill(part, words, where) for key, part in value.items()}
    if isinstance(value, list):
        return [_fill(part, words, where) for part in value]
    if not isinstance(value, str):
        return value
    whole = _WORD.fullmatch(value)
    return words[whole[1]] if whole and whole[1] in words else fill_template(value, words, where)


def _check_suites(claim: Claim, folder: Path, where: str) -> None:
    for suite in claim.suites:
        if not (folder / f"{suite}.yaml").is_file():
            raise unknown("suite", suite, [path.stem for path in folder.glob("*.yaml")], where)


# ---- the scores that decide a claim ---------------------------------------------------------------------------------


def compare(suite: Suite, claims: Mapping[str, Claim], cells: Iterable[Cell]) -> list[Comparison]:
    """The claims that a suite decides with its cells, in their order.

    Raises UserError for a claim that names the suite, but whose runs, sampler, protocol or metric the suite does not
    have. A claim that names other suites only is left out where this one does not have its runs.
    """
    index: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        if not cell.edit and cell.ema_decay is None:
            index.setdefault((cell.run.identity.without_seed, cell.progress), []).append(cell)
    found = []
    for name, claim in claims.items():
        named = suite.name in claim.suites
        if claim.published and not named:
            continue
        try:
            found.append(_compare(suite, index, name, claim))
        except UserError:
            if named:
                raise
    return found


def _compare(suite: Suite, index: Index, name: str, claim: Claim) -> Comparison:
    where = f"claim {name}"
    sides = [side for side in (claim.runs, claim.reference) if side]
    first, *others = (_find_cells(suite, index, side, where) for side in sides)
    known = first[0].run.evaluation.protocol
    if claim.protocol not in (None, *known):
        raise unknown("protocol", claim.protocol, known, f"{where}, {first[0].run.name}")
    for protocol in (claim.protocol,) if claim.protocol else known:
        chosen = [_by_seed(side, protocol) for side in (first, *others)]
        seeds = sorted(set.intersection(*map(set, chosen)))
        if seeds:
            _check_metrics(claim, chosen[0][seeds[0]], where)
            runs, *reference = (tuple(map(side.__getitem__, seeds)) for side in chosen)
            return Comparison(name, claim, runs, *reference or [()])
    raise UserError(f"{where}: suite {suite.name} has no scores of both sides by one protocol and of the same seed")


def _by_seed(cells: Iterable[Cell], protocol: str) -> dict[int, Cell]:
    return {cell.run.seed: cell for cell in cells if cell.protocol.name == protocol}


def _find_cells(suite: Suite, index: Index, side: Side, where: str) -> list[Cell]:
    """The cells of a side, of every seed and protocol; UserError if the suite has none."""
    run = suite.experiments.find(side.dataset or suite.dataset, side.method, side.settings, suite.seeds[0])
    cells = index.get((run.identity.without_seed, side.progress), [])
    if side.evaluations:
        wanted = f"{side.evaluations} evaluations"
        cells = [cell for cell in cells if cell.evaluations == side.evaluations]
    else:
        wanted = sampler_name(run, side.sampler or run.links.sampler or "")
        parse_sampler(wanted, where)
        cells = [cell for cell in cells if cell.sampler == wanted]
    if not cells:
        model = f"{run.identity.without_seed} at {side.progress} %"
        raise UserError(f"{where}: no artefact of suite {suite.name} has scores of {model} through {wanted}")
    return [cell for cell in cells if cell.sampler == cells[0].sampler]


def _check_metrics(claim: Claim, cell: Cell, where: str) -> None:
    for metric in claim.metrics:
        if metric not in cell.protocol.metrics:
            raise unknown("metric", metric, cell.protocol.metrics, f"{where}, protocol {cell.protocol.name}")
