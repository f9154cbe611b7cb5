"""What a suite file may hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from cm.config.names import fill_template
from cm.config.runs import MAX_SEED
from cm.config.settings import at_least, at_most, below, name_of, plain_name
from cm.errors import UserError, unknown

SUITES = Path("config/suites")
Seed = Annotated[int, at_least(0), at_most(MAX_SEED)]
Percentage = Annotated[int, at_least(1), at_most(100)]
DEFAULT_THREADS = 1  # of the processor for each job, and for a training that is started by hand
MAX_THREADS = 4096


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of an artefact's `entries:`; it stands for one score for each combination, seed and percentage.

    `method`: the experiment file. `dataset`: the folder of experiment files, by default the suite's. `vary`: setting to
    list of values, all combinations; `variants`: a list of combinations spelt out; `settings`: what all of them have in
    common. `sampler` and `samplers` may name settings in braces: `ode,solver~heun,steps~{steps}`. `edits`: edits of
    held-out images, in place of samples, for the kinds of artefact that show them. `label`: the name in legends, with
    the same braces; by default the varied settings. `ema_decay`: whose averaged weights are sampled, of a training with
    several; by default the first.
    """

    method: Annotated[str, plain_name("method")]
    dataset: Annotated[str, plain_name("data set")] | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    vary: dict[str, Any] = dataclasses.field(default_factory=dict)
    variants: tuple[dict[str, Any], ...] = ({},)
    sampler: str | None = None
    samplers: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()
    label: str | None = None
    ema_decay: Annotated[float, at_least(0.0), below(1.0)] | None = None

    def check(self, where: str) -> None:
        """UserError for a varied setting without a list of values, and for both samples and edits."""
        if self.edits and (self.sampler or self.samplers):
            raise UserError(f"{where}: an entry has samplers or edits, not both")
        for setting, values in self.vary.items():
            if not isinstance(values, list) or not values:
                raise UserError(f"{where}: vary: {setting} must be a list of values to try, not {values!r}")


@dataclasses.dataclass(frozen=True)
class ArtefactFile:
    """An entry of `artefacts:`.

    `kind`: how it is drawn. `caption`: the sentences below it. `entries`: what it shows. `paper`: whether it is one of
    the paper's tables and figures; others are not part of `all_tables` and `all_figures`. `seeds` and `progress`
    (percentages of training), by default the suite's seeds and the end of training. `protocol`: the protocol whose
    scores it shows, by default the first of each run. `published`: `table`, `dataset` and, for a part of them, `group`
    of the published numbers to show beside them. `options`: of the kind. `datasets`: make the artefact once for each of
    these folders of experiment files, as `<artefact>_<data set>`, with words of its own that stand in braces in the
    caption, in labels, samplers and `published`; `{dataset}` is the folder.
    """

    kind: Annotated[str, name_of("artefact")]
    caption: str
    entries: tuple[Entry, ...] = ()
    seeds: tuple[Seed, ...] | None = None
    progress: tuple[Percentage, ...] | None = None
    protocol: Annotated[str, plain_name("protocol")] | None = None
    paper: bool = True
    published: dict[str, str] = dataclasses.field(default_factory=dict)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    datasets: dict[Annotated[str, plain_name("data set")], dict[str, str]] = dataclasses.field(default_factory=dict)

    def expand(self, name: str, where: str) -> dict[str, tuple[ArtefactFile, dict[str, str]]]:
        """The artefacts that it stands for, by name, each with its words; UserError for a word that is none of them."""
        if not self.datasets:
            return {name: (self, {})}
        return {f"{name}_{dataset}": self._for_dataset(dataset, where) for dataset in self.datasets}

    def _for_dataset(self, dataset: str, where: str) -> tuple[ArtefactFile, dict[str, str]]:
        words = {"dataset": dataset, **self.datasets[dataset]}
        caption = fill_template(self.caption, words, where)
        published = {key: fill_template(text, words, where) for key, text in self.published.items()}
        entries = tuple(dataclasses.replace(entry, dataset=entry.dataset or dataset) for entry in self.entries)
        return dataclasses.replace(self, caption=caption, published=published, entries=entries, datasets={}), words


@dataclasses.dataclass(frozen=True)
class AblationFile(Entry):
    """An entry of `ablations:`: a line of an artefact's `entries:` that varies something, and is drawn on its own.

    `caption`: the sentences below it, by default which settings are varied. `seeds`: by default the suite's.
    `progress`: percentages of training, by default the end. `protocol`: the protocol whose scores it shows, by default
    the first of each run.
    """

    caption: str | None = None
    seeds: tuple[Seed, ...] | None = None
    progress: tuple[Percentage, ...] | None = None
    protocol: Annotated[str, plain_name("protocol")] | None = None

    def check(self, where: str) -> None:
        """UserError if nothing is varied."""
        super().check(where)
        if not self.vary:
            raise UserError(f"{where}: 'vary:' must name at least one setting with the values to try")

    def artefact(self) -> ArtefactFile:
        """The artefact that the ablation stands for."""
        entry = Entry(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Entry)})
        caption = self.caption or f"Ablation over {' and '.join(self.vary)} of {self.method.upper()}."
        return ArtefactFile("ablation", caption, (entry,), self.seeds, self.progress, self.protocol, paper=False)


@dataclasses.dataclass(frozen=True)
class SuiteFile:
    """A suite file.

    `dataset`: the folder of experiment files that entries refer to by default. `seeds`: of the trainings that entries
    refer to by default. `progress`: percentages of training at
    which models are kept. `experiments`: the folder of experiment files, from the suite's folder. `threads`, `gpus`:
    what each job
    that computes takes of either. `artefacts`: tables and figures by name. `ablations`: ablations by name.
    """

    dataset: Annotated[str, plain_name("data set")]
    seeds: tuple[Seed, ...] = (0,)
    progress: tuple[Percentage, ...] = (100,)
    experiments: str = "../experiments"
    threads: Annotated[int, at_least(1), at_most(MAX_THREADS)] = DEFAULT_THREADS
    gpus: Annotated[int, at_least(0), at_most(1024)] = 0
    artefacts: dict[Annotated[str, plain_name("artefact")], ArtefactFile] = dataclasses.field(default_factory=dict)
    ablations: dict[Annotated[str, plain_name("ablation")], AblationFile] = dataclasses.field(default_factory=dict)

    def check(self, where: str) -> None:
        """UserError unless models are kept at the end of training."""
        if 100 not in self.progress:
            raise UserError(f"{where}: progress must hold 100, the end of training")


def suite_names(folder: Path = SUITES) -> list[str]:
    """The names of the suites in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_suite(name: str, folder: Path = SUITES) -> Path:
    """The file of a suite: itself, or that of the suite of this name in a folder.

    Raises UserError for an unknown name; whether a file exists shows when it is read.
    """
    if name.endswith(".yaml"):
        return Path(name)
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise unknown("suite", name, suite_names(folder), str(folder))
    return path
