"""A folder of experiment files, and the runs that they describe.

The settings of a run are those of `<dataset>/base.yaml`, then of `<dataset>/<method>.yaml`, then what its variant
changes (see `cm.config.variants`). `Experiments.variant` and `Experiments.run` are inverses.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cm import registry
from cm.config import variants
from cm.config.checking import check, make_component
from cm.config.compatibility import check_augmentation, check_sampler, check_times, has_two_times
from cm.config.documents import Document, find_method_file, merge, read_experiment
from cm.config.names import check_name, fill_template
from cm.config.protocols import PROTOCOLS, Protocol, read_protocol
from cm.config.runs import COMPONENTS, Links, Run, RunName
from cm.config.samplers import parse_sampler
from cm.config.sections import Data, Evaluation, Quantization, Released, Training, Weights
from cm.errors import UserError, unknown

EXPERIMENTS = Path("config/experiments")


class Experiments:
    """The experiment files below a folder; each file is read once, and each run is put together once."""

    def __init__(self, folder: Path | str = EXPERIMENTS) -> None:
        self.folder = Path(os.path.normpath(folder))
        self._files: dict[Path, Document] = {}
        self._methods: dict[tuple[str, str], Document] = {}
        self._variants: dict[tuple[Any, ...], str] = {}
        self._runs: dict[str, Run] = {}
        self._protocols: dict[str, Protocol] = {}

    # ---- runs ----

    def run(self, name: str) -> Run:
        """The run of that name.

        Raises UserError for a name that is not of the form of one, an unknown data set, method, setting or value, and
        for a variant that is not written as `variant` writes it, so that no run has two names.
        """
        if name not in self._runs:
            self._runs[name] = self._make_run(RunName.parse(name))
        return self._runs[name]

    def find(self, dataset: str, method: str, changes: Mapping[str, Any], seed: int) -> Run:
        """The run of a method with some settings changed."""
        return self.run(f"{dataset}/{method}/{self.variant(dataset, method, changes)}/seed{seed}")

    def variant(self, dataset: str, method: str, changes: Mapping[str, Any]) -> str:
        """The name of what `changes` changes: sorted by setting, settings at their default left out."""
        key = (dataset, method, repr(sorted(changes.items(), key=lambda change: change[0])))
        if key not in self._variants:
            where = f"{dataset}/{method}"
            document = variants.resolve(self._method(dataset, method), changes, where)
            self._variants[key] = variants.write_variant(document, changes, where)
        return self._variants[key]

    def _make_run(self, name: RunName) -> Run:
        where = f"{name.dataset}/{name.method}"
        changes = variants.parse_variant(name.variant)
        written = self.variant(name.dataset, name.method, changes)
        if written != name.variant:
            raise UserError(f"variant '{name.variant}' of {where} must be written '{written}'")
        document = variants.resolve(self._method(name.dataset, name.method), changes, where)
        document = variants.apply(document, changes, where)
        where = f"{where} {name.variant}"
        sections = {
            section: make_component(kind, document[section], f"{where}, {section}")
            for section, kind in COMPONENTS.items()
        }
        training = check(Training, document["training"], f"{where}, training")
        if training.checkpointing and not sections["objective"].allows_checkpointing:
            raise UserError(f"{where}, training: {name.method} differentiates forward, without 'checkpointing'")
        check_times(sections["network"], sections["objective"].preconditioning, where)
        check_augmentation(sections["network"], training, where)
        evaluation = check(Evaluation, document["evaluation"], f"{where}, evaluation")
        links = Links(
            **{key: document[key] for key in ("teacher", "perceptual", "sampler", "chain") if key in document}
        )
        released = _find_released(document, training.released, where)
        for protocol in evaluation.protocol:
            self.protocol(protocol)
        return Run(name, training=training, evaluation=evaluation, links=links, released=released, **sections)

    def _method(self, dataset: str, method: str) -> Document:
        """The document of a method, merged with its base.yaml."""
        if (dataset, method) not in self._methods:
            path = find_method_file(self.folder, dataset, method)
            document = merge(self._base(dataset), self._read(path), method)
            self._methods[dataset, method] = variants.complete(document, f"{dataset}/{method}")
        return self._methods[dataset, method]

    def _base(self, dataset: str) -> Document:
        return self._read(self.folder / check_name(dataset, "data set") / "base.yaml")

    def _read(self, path: Path) -> Document:
        if path not in self._files:
            self._files[path] = read_experiment(path)
        return self._files[path]

    # ---- what a run depends on ----

    def inputs(self, run: Run) -> dict[str, Run | Weights]:
        """The models that are needed before `run` is trained, by role: `teacher`, `perceptual`."""
        roles = {"teacher": self.teacher(run), "perceptual": self.perceptual(run)}
        return {role: other for role, other in roles.items() if other}

    def with_inputs(self, runs: Iterable[Run]) -> list[Run]:
        """The runs and all runs that they start from, each once, the given ones first."""
        found: dict[str, Run] = {}
        queue = list(runs)
        for run in queue:
            if run.name not in found:
                found[run.name] = run
                queue += [other for other in self.inputs(run).values() if isinstance(other, Run)]
        return list(found.values())

    def teacher(self, run: Run) -> Run | None:
        """The run whose weights `run` distils or starts from, None without one; a released run starts from nothing.

        `teacher:` of the experiment file names a method of the same data set and, after a slash, a variant of it:
        `edm`, `edm/released~edm_ema`. With a `chain:` of n, a run of fewer steps than n has the run of twice its steps
        as its teacher (progressive distillation is a chain of runs), and the run of n steps has the `teacher:` of the
        file. Raises UserError for a teacher that is no diffusion model, and for a run that is its own teacher, if only
        through others.
        """
        chain = [run]
        while (found := self._find_teacher(chain[-1])) is not None:
            if found in chain:
                circle = " <- ".join(other.name for other in (*chain, found))
                raise UserError(f"{run.name}: its teachers form a circle: {circle}")
            chain.append(found)
        return chain[1] if len(chain) > 1 else None

    def _find_teacher(self, run: Run) -> Run | None:
        """The teacher of a run, whose own teachers are not looked for."""
        if run.released or not run.objective.needs_teacher:
            return None
        chain, steps = run.links.chain, run.settings.get("steps")
        if chain and isinstance(steps, int) and steps != chain:
            changes = {**variants.parse_variant(run.variant), "steps": _double(run, steps, chain)}
            return self.find(run.dataset, run.method, changes, run.seed)
        if run.links.teacher is None:
            raise UserError(f"{run.dataset}/{run.method}: needs a 'teacher:' in its experiment file")
        method, _, variant = run.links.teacher.partition("/")
        teacher = self.run(f"{run.dataset}/{method}/{variant or 'default'}/seed{run.seed}")
        run.objective.check_teacher(f"{run.name}: {teacher.name}", teacher.objective.sampling_preconditioning)
        if run.objective.starts_from_teacher and _weight_settings(run) != _weight_settings(teacher):
            raise UserError(f"{run.name}: starts from the weights of {teacher.name}, but its network is another one")
        return teacher

    def perceptual(self, run: Run) -> Run | Weights | None:
        """The network whose features a perceptual distance compares, None for a run without such a distance.

        Raises UserError for a run that names none or no classifier, and for pretrained weights that need larger images.
        """
        if run.released or not run.objective.needs_perceptual_network:
            return None
        if run.links.perceptual is None:
            distance = run.settings["distance"]
            raise UserError(f"{run.dataset}/{run.method}: distance '{distance}' needs a 'perceptual:' in base.yaml")
        network = self.find_features(run.links.perceptual, f"{run.name}, perceptual")
        if isinstance(network, Weights):
            least = registry.get("weights", network.name).least_size
            run.objective.distance.check_size(run.network.resolution, network.name, least, run.name)
        return network

    def run_or_weights(self, name: str) -> Run | Weights:
        """The run of that name, or, for a name without slashes, pretrained weights."""
        if "/" in name:
            return self.run(name)
        registry.get("weights", name)
        return Weights(name)

    def find_features(self, name: str, where: str) -> Run | Weights:
        """The classifier, or the pretrained weights, of that name, whose features compare images.

        Raises UserError, which names `where`, for a run that is no classifier.
        """
        found = self.run_or_weights(name)
        if isinstance(found, Run) and not found.objective.has_features:
            raise UserError(f"{where}: {name} is not a classifier and has no features")
        return found

    # ---- data and scores ----

    def data(self, dataset: str) -> Data:
        """What a data set is made from, as its base.yaml says: by default the registered data set of the same name."""
        where = f"{self.folder / dataset / 'base.yaml'}, data"
        section = {"name": dataset, **self._base(dataset).get("data", {})}
        own = {key: section.pop(key) for key in ("name", "source") if key in section}
        data = check(Data, {**own, "settings": section}, where)
        check(registry.get("dataset", data.name), section, where)
        return data

    def splits(self, dataset: str) -> tuple[str, ...]:
        """The splits that a data set has, `train` among them."""
        return registry.get("dataset", self.data(dataset).name).splits

    def held_out(self, run: Run) -> tuple[str, str]:
        """The data set and the split of the images that are edited: those of training, where there are no others."""
        if run.evaluation.held_out:
            return run.evaluation.held_out, "train"
        return run.dataset, "test" if "test" in self.splits(run.dataset) else "train"

    def perceptual_of_edits(self, run: Run) -> Run | Weights:
        """The network of the perceptual distance of edited images to originals: the `perceptual:` of base.yaml.

        Raises UserError for a data set that names none.
        """
        if run.links.perceptual is None:
            raise UserError(f"{run.dataset}: edits are compared by a 'perceptual:' in base.yaml")
        return self.find_features(run.links.perceptual, f"{run.name}, perceptual")

    def mask_file(self, mask: str) -> Path | None:
        """The file of a mask, `<mask>.png` in the folder of masks beside that of the experiments; None for a pattern.

        Raises UserError for a mask that is neither.
        """
        path = self.folder.parent / "masks" / f"{mask}.png"
        if path.is_file():
            return path
        registry.get("mask", mask, f"no file {path}")
        return None

    def protocol(self, name: str) -> Protocol:
        """The protocol of that name, or of a path that ends in .yaml.

        A name is looked up in the folder of protocols beside that of the experiments, if there is one, else in
        config/protocols. Raises UserError for an unknown name, key or value.
        """
        if name not in self._protocols:
            own = self.folder.parent / PROTOCOLS.name
            self._protocols[name] = read_protocol(name, own if own.is_dir() else PROTOCOLS)
        return self._protocols[name]

    def evaluation(self, dataset: str) -> Evaluation:
        """How the samples of a data set are made and scored, as its base.yaml says."""
        where = f"{self.folder / dataset / 'base.yaml'}, evaluation"
        return check(Evaluation, self._base(dataset).get("evaluation", {}), where)

    def statistics_file(self, dataset: str, protocol: Protocol) -> Path | None:
        """The file with the mean and covariance of the reference features of a data set, None if they are computed."""
        evaluation = self.evaluation(dataset)
        if evaluation.statistics and protocol == self.protocol(evaluation.protocol[0]):
            return protocol.file.parent / evaluation.statistics
        return protocol.statistics_file

    def sample_count(self, run: Run) -> int:
        """How many samples a model of the run is scored by: the most that any of its protocols asks for."""
        return run.evaluation.samples or max(self.protocol(name).total_samples for name in run.evaluation.protocol)

    def quantization(self, run: Run) -> Quantization:
        """How the samples of a run are quantized: as those of its protocols say that prescribe it.

        Raises UserError if they do not agree: the protocols of a run score the same samples.
        """
        protocols = [self.protocol(name) for name in run.evaluation.protocol]
        wanted = {protocol.quantization: protocol.name for protocol in protocols if protocol.quantization}
        if len(wanted) > 1:
            words = " and ".join(f"'{how}' ({name})" for how, name in wanted.items())
            raise UserError(f"{run.dataset}: its protocols score the same samples, but ask for {words} quantization")
        return next(iter(wanted), "round")


def _find_released(document: Document, name: str | None, where: str) -> Released | None:
    """The entry of `released:` that a run takes its weights from, after a check of all entries."""
    entries = {}
    for key, entry in document.get("released", {}).items():
        if not isinstance(entry, dict):
            raise UserError(f"{where}, released {key}: expected a mapping of settings, not {entry!r}")
        entries[key] = check(Released, entry, f"{where}, released {key}")
    if name is not None and name not in entries:
        raise unknown("released checkpoint", name, entries, where)
    return entries[name] if name else None


def _weight_settings(run: Run) -> dict[str, Any]:
    """What the shapes of the weights of a run depend on."""
    return {key: value for key, value in run.describe()["network"].items() if key != "dropout"}


def _double(run: Run, steps: int, chain: int) -> int:
    if steps > chain or chain % steps or (chain // steps) & (chain // steps - 1):
        raise UserError(f"{run.name}: steps {steps} is not the chain's {chain} halved some times")
    return 2 * steps


def sampler_of(run: Run) -> Any:
    """The sampler that the experiment file of a run names, None if it names none."""
    template = run.links.sampler
    if template is None:
        return None
    sampler = parse_sampler(sampler_name(run, template), run.name)
    check_sampler(sampler, has_two_times(run.network), run.name)
    return sampler


def sampler_name(run: Run, template: str) -> str:
    """The name of a sampler from a template with settings of the run in braces.

    `ode,denoise_last~false,solver~euler,steps~{steps}`.
    """
    return fill_template(template, run.settings, f"{run.name}, sampler")
