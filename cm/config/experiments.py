"""Experiments, variants and runs: YAML read, checked, and merged into everything that one training needs to know.

A **run** is `<dataset>/<method>/<variant>/seed<seed>`. Its settings are `config/experiments/<dataset>/base.yaml`, then
`<method>.yaml`, then what the variant changes. A **variant** is named by what it changes and nothing else:
`solver~euler,steps~9`; `default` changes nothing. `variant` and `load` are inverses.

Settings that hang on others stand under `when:`, as `{setting: {value: {other setting: its value}}}`: with
`when: {distance: {l1: {lr: 2.0e-4}}}` the variant `distance~l1` has that rate, and its name need not say so.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cm import registry
from cm.config.checking import as_field, check
from cm.errors import UserError, unknown

EXPERIMENTS = Path("config/experiments")
MAX_SEED = 4000  # the noise of image i is seeded with 10^6 seed + i, of which generators use 32 bits
SECTIONS = ("objective", "training", "network", "noise")
_RUN = re.compile(r"(?P<dataset>[^/]+)/(?P<method>[^/]+)/(?P<variant>[^/]+)/seed(?P<seed>0|[1-9]\d*)")


@dataclasses.dataclass(frozen=True)
class Training:
    """The `training:` section. `ema`: decay of the averaged weights per iteration. `lr_decay`: `none` or `linear` to 0.

    `warmup`: iterations over which the learning rate rises linearly. `clip`: largest gradient norm, none if absent.
    `microbatch`: images at a time, whose gradients add up to those of the batch; all of them if absent. `precision`:
    `float32`, or the type of autocast. `checkpointing`: compute activations twice rather than keep them. `compile` the
    networks with torch.compile. `released`: take the weights of that entry of the experiment's `released:` in place of
    training.
    """

    iterations: int = registry.setting(dataclasses.MISSING, low=1)
    batch: int = registry.setting(dataclasses.MISSING, low=1)
    lr: float = registry.setting(dataclasses.MISSING, low=0.0)
    optimiser: str = registry.setting("radam", kind="optimiser")
    lr_decay: str = registry.setting("none", kind="lr_decay")
    warmup: int = registry.setting(0, low=0)
    clip: float | None = registry.setting(None, low=0.0)
    ema: float = registry.setting(0.999, low=0.0, below=1.0)
    flip: bool = registry.setting(False)
    microbatch: int | None = registry.setting(None, low=1)
    precision: str = registry.setting("float32", kind="precision")
    checkpointing: bool = registry.setting(False)
    compile: bool = registry.setting(False)
    released: str | None = registry.setting(None)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The `evaluation:` section. `images`: samples of a score. `extractor`: the run or weights whose features compare.

    `reference`: the split of real images compared with. `rounding` to eight bits: `truncate` as the official code, or
    `round` as EDM. `clamp` the denoiser's estimates while sampling. `precision` of sampling, as in `training:`.
    `batch`: images at a time.
    """

    extractor: str
    images: int = registry.setting(50_000, low=2)
    reference: str = registry.setting("train")
    rounding: str = registry.setting("truncate", kind="rounding")
    clamp: bool = registry.setting(False)
    precision: str = registry.setting("float32", kind="precision")
    batch: int = registry.setting(256, low=1)


@dataclasses.dataclass(frozen=True)
class Released:
    """An entry of `released:`, a checkpoint somebody published. `size` in bytes and `sha256` where they are known.

    `weights`: which of the networks in the file, `ema` (default), `online` or `target`.
    """

    url: str = registry.setting(dataclasses.MISSING)
    licence: str = registry.setting(dataclasses.MISSING)
    size: int | None = registry.setting(None, low=1)
    sha256: str | None = registry.setting(None)
    weights: str = registry.setting("ema", kind="average")


@dataclasses.dataclass(frozen=True)
class Data:
    """The `data:` section: the registered data set `name` (by default the folder's), where it is, and its settings."""

    name: str = registry.setting(dataclasses.MISSING, kind="dataset")
    source: str | None = registry.setting(None)
    settings: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Weights:
    """A pretrained network that is fetched, not trained: it judges or compares images where a run of a suite could."""

    name: str


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, fully specified. `sections`: section name to its checked dataclass; `document`: the merged YAML."""

    dataset: str
    method: str
    variant: str
    seed: int
    sections: Mapping[str, Any] = dataclasses.field(compare=False, hash=False, repr=False)
    document: Mapping[str, Any] = dataclasses.field(compare=False, hash=False, repr=False)

    @property
    def name(self) -> str:
        """`<dataset>/<method>/<variant>/seed<seed>`, which is also its path below `results/models`."""
        return f"{self.dataset}/{self.method}/{self.variant}/seed{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of every section, by its one-word name."""
        return {key: value for section in SECTIONS for key, value in dataclasses.asdict(self.sections[section]).items()}

    def describe(self) -> dict[str, Any]:
        """What training depends on, every setting of every section, as plain data to be stored beside the weights."""
        return {key: {**self._name(key), **dataclasses.asdict(self.sections[key])} for key in SECTIONS}

    @property
    def released(self) -> Released | None:
        """The published checkpoint that the run takes its weights from, None if it is trained."""
        name = self.sections["training"].released
        return self.sections["released"][name] if name else None

    def recipe(self) -> dict[str, Any]:
        """`describe` without what is at the code's defaults: it changes when the experiment file means another run."""
        return {key: {**self._name(key), **_changed(self.sections[key])} for key in SECTIONS}

    def _name(self, section: str) -> dict[str, str]:
        document = self.document[section]
        return {"name": document["name"]} if "name" in document else {}


def _changed(section: Any) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(section)}
    defaults = {
        name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for name, field in fields.items()
    }
    return {key: value for key, value in dataclasses.asdict(section).items() if value != defaults[key]}


def load(run: str, experiments: Path = EXPERIMENTS) -> Run:
    """The run of that name.

    Raises UserError for a name that is not of the form above, an unknown data set, method, setting or value, and for
    a variant that is not written as `variant` writes it (so that one run never has two names).
    """
    match = _RUN.fullmatch(run)
    if not match:
        raise UserError(f"run '{run}' is not of the form <dataset>/<method>/<variant>/seed<seed>")
    dataset, method, text, seed = match["dataset"], match["method"], match["variant"], int(match["seed"])
    if seed > MAX_SEED:
        raise UserError(f"run '{run}': seed must be at most {MAX_SEED}")
    changes = parse_variant(text)
    written = variant(dataset, method, changes, experiments)
    if written != text:
        raise UserError(f"variant '{text}' of {dataset}/{method} must be written '{written}'")
    document = _changed_document(_resolved(dataset, method, changes, Path(experiments)), changes, f"{dataset}/{method}")
    return Run(dataset, method, text, seed, _check_sections(document, f"{dataset}/{method} {text}"), document)


def variant(dataset: str, method: str, changes: Mapping[str, Any], experiments: Path = EXPERIMENTS) -> str:
    """The name of what `changes` changes: sorted by setting, settings at their default left out."""
    where = f"{dataset}/{method}"
    document = _resolved(dataset, method, changes, Path(experiments))
    homes = {key: _section_of(key, where, document) for key in changes}
    written = {}
    for section in set(homes.values()):
        cls = _section_class(section, document, where)
        default = check(cls, _settings_of(document[section]), f"{where} {section}")
        own = {key: as_field(cls, key, value) for key, value in changes.items() if homes[key] == section}
        changed = check(cls, {**_settings_of(document[section]), **own}, f"{where} {section}")
        written |= {key: getattr(changed, key) for key in own if getattr(changed, key) != getattr(default, key)}
    return ",".join(f"{key}~{_write(written[key])}" for key in sorted(written)) or "default"


def _resolved(dataset: str, method: str, changes: Mapping[str, Any], experiments: Path) -> dict[str, Any]:
    """The document of a method with the settings that its `when:` gives to these changes."""
    document, where, chosen = _merged(dataset, method, experiments), f"{dataset}/{method}", {}
    rules = document.get("when", {})
    for key, cases in rules.items():
        section = _section_of(key, where, document)
        value = changes.get(key, _default(key, section, document, where))
        chosen |= _mapping(_mapping(cases, f"{where}, when {key}").get(value, {}), f"{where}, when {key} is {value}")
    for key in chosen:
        if key in rules:
            raise UserError(f"{where}: 'when:' gives {key}, which it also asks for")
    return _changed_document(document, chosen, where)


def _default(key: str, section: str, document: Mapping[str, Any], where: str) -> Any:
    fields = {field.name: field.default for field in dataclasses.fields(_section_class(section, document, where))}
    return document[section].get(key, fields[key])


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a mapping of settings, not {value!r}")
    return value


def _changed_document(document: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The document with every change in its section."""
    changed = dict(document)
    for key, value in changes.items():
        section = _section_of(key, where, document)
        cls = _section_class(section, document, where)
        changed[section] = {**changed[section], key: as_field(cls, key, value)}
    return changed


def parse_variant(text: str) -> dict[str, Any]:
    """`solver~euler,steps~9` to `{"solver": "euler", "steps": 9}`; a list, `4+8`, is text still."""
    if text == "default":
        return {}
    pairs = [part.partition("~") for part in text.split(",")]
    if any(not (key and tilde and value) for key, tilde, value in pairs):
        raise UserError(f"'{text}' is not of the form setting~value,setting~value")
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def _write(value: Any) -> str:
    """A value as `parse_variant` and `as_field` read it."""
    if isinstance(value, list | tuple):
        return "+".join(map(_write, value)) or "[]"
    if isinstance(value, float):
        mantissa, exponent, power = repr(value).partition("e")
        return mantissa + (".0" if exponent and "." not in mantissa else "") + exponent + power
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))


def evaluation_of(dataset: str, experiments: Path = EXPERIMENTS) -> Evaluation:
    """How samples of a data set are scored, as its base.yaml says."""
    path = Path(experiments) / dataset / "base.yaml"
    return check(Evaluation, _document(path).get("evaluation", {}), str(path))


def data_of(dataset: str, experiments: Path = EXPERIMENTS) -> Data:
    """What a data set is made from, as its base.yaml says: by default the registered data set of the same name."""
    path = Path(experiments) / dataset / "base.yaml"
    section = {"name": dataset, **_document(path).get("data", {})}
    own = {key: section.pop(key) for key in ("name", "source") if key in section}
    found = check(Data, {**own, "settings": section}, f"{path}, data")
    check(registry.get("dataset", found.name), section, f"{path}, data")
    return found


def splits_of(dataset: str, experiments: Path = EXPERIMENTS) -> tuple[str, ...]:
    """The splits that a data set has, `train` among them."""
    return registry.get("dataset", data_of(dataset, experiments).name).splits


def judge(name: str, experiments: Path = EXPERIMENTS) -> Run | Weights:
    """What gives features of images: the run of that name, or, for a name without slashes, pretrained weights."""
    if "/" in name:
        return load(name, experiments)
    registry.get("weights", name)
    return Weights(name)


def teacher(run: Run, experiments: Path = EXPERIMENTS) -> Run | None:
    """The run whose weights `run` distils or starts from, or None; a released run starts from nothing.

    `teacher:` names a method of the same data set and, behind a slash, a variant of it: `edm`, `edm/released~edm_ema`.

    With a `chain:` of n in the experiment, a run of fewer steps than n has the run of twice its steps as its teacher
    (progressive distillation is a chain of runs), and the run of n steps has the `teacher:` of the file.
    """
    if run.released or not run.sections["objective"].wants_teacher():
        return None
    chain, steps = run.document.get("chain"), run.settings.get("steps")
    if chain and steps != chain:
        changes = {**parse_variant(run.variant), "steps": _doubled(run, steps, chain)}
        name = variant(run.dataset, run.method, changes, experiments)
        return load(f"{run.dataset}/{run.method}/{name}/seed{run.seed}", experiments)
    if "teacher" not in run.document:
        raise UserError(f"{run.dataset}/{run.method}: needs a 'teacher:' in its experiment file")
    method, _, text = run.document["teacher"].partition("/")
    found = load(f"{run.dataset}/{method}/{text or 'default'}/seed{run.seed}", experiments)
    if getattr(run.sections["objective"], "init", "teacher") == "teacher" and _weights(run) != _weights(found):
        raise UserError(f"{run.name}: starts from the weights of {found.name}, but its network is another one")
    return found


def _weights(run: Run) -> dict[str, Any]:
    """What the shapes of the weights of a run depend on."""
    return {key: value for key, value in run.describe()["network"].items() if key != "dropout"}


def _doubled(run: Run, steps: int, chain: int) -> int:
    if steps > chain or chain % steps or (chain // steps) & (chain // steps - 1):
        raise UserError(f"{run.name}: steps {steps} is not a halving of the chain's {chain}")
    return 2 * steps


def perceptual(run: Run, experiments: Path = EXPERIMENTS) -> Run | Weights | None:
    """What gives the features that the `distance` of `run` compares, or None if it compares pixels."""
    name = run.settings.get("distance")
    if run.released or name is None or not getattr(registry.get("distance", name), "perceptual", False):
        return None
    if "perceptual" not in run.document:
        raise UserError(f"{run.dataset}/{run.method}: distance '{name}' needs a 'perceptual:' in base.yaml")
    return judge(run.document["perceptual"], experiments)


def inputs(run: Run, experiments: Path = EXPERIMENTS) -> dict[str, Run | Weights]:
    """The models that there must be before `run` is trained, by role: `teacher`, `perceptual`."""
    roles = {"teacher": teacher(run, experiments), "perceptual": perceptual(run, experiments)}
    return {role: other for role, other in roles.items() if other}


def sampler(text: str, where: str = "") -> Any:
    """The sampler that `onestep` or `multistep,times~0.8+2.0` names, with its settings checked."""
    name, _, rest = text.partition(",")
    cls = registry.get("sampler", name, where)
    changes = parse_variant(rest) if rest else {}
    made = check(cls, {key: as_field(cls, key, value) for key, value in changes.items()}, f"sampler '{text}'")
    written = ",".join([name, *(f"{key}~{_write(value)}" for key, value in sorted(dataclasses.asdict(made).items()))])
    if written != text:
        raise UserError(f"sampler '{text}' must be written '{written}'")
    return made


def sampler_of(run: Run) -> Any:
    """The sampler that the experiment file of a run names, None if it names none."""
    template = run.document.get("sampler")
    try:
        return sampler(template.format(**run.settings), run.name) if template else None
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{run.name}: sampler '{template}' names {error}, which is no setting of the run") from None


_KEYS = {
    **dict.fromkeys((*SECTIONS, "evaluation", "data", "when", "released"), dict),
    **dict.fromkeys(("teacher", "perceptual", "sampler"), str),
    "chain": int,
}
_WORDS = {dict: "a mapping of settings", str: "text", int: "a whole number"}


def _merged(dataset: str, method: str, experiments: Path) -> dict[str, Any]:
    own = _method_document(dataset, method, experiments)
    base = _document(experiments / dataset / "base.yaml")
    merged = {**base, **own}
    for section in (*SECTIONS, "evaluation"):
        ours, theirs = own.get(section) or {}, base.get(section) or {}
        other_thing = ours.get("name", theirs.get("name")) != theirs.get("name")
        merged[section] = dict(ours) if other_thing else {**theirs, **ours}
    merged["objective"]["name"] = method
    return merged


def _method_document(dataset: str, method: str, experiments: Path) -> dict[str, Any]:
    datasets = sorted(path.parent.name for path in experiments.glob("*/base.yaml"))
    if dataset not in datasets:
        raise unknown("dataset", dataset, datasets, str(experiments))
    methods = sorted(path.stem for path in (experiments / dataset).glob("*.yaml") if path.stem != "base")
    if method not in methods:
        raise unknown("method", method, methods, f"{experiments}/{dataset}")
    return _document(experiments / dataset / f"{method}.yaml")


@functools.cache
def _document(path: Path) -> dict[str, Any]:
    document = read_yaml(path)
    for key, value in document.items():
        if key not in _KEYS:
            raise unknown("section", key, _KEYS, str(path))
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise UserError(f"{path}: '{key}' must be {_WORDS[_KEYS[key]]}, not {value!r}")
    return document


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; UserError with the line if it is not one, or not there."""
    try:
        document = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected a mapping of settings")
    return document


def _section_class(section: str, document: Mapping[str, Any], where: str) -> type:
    kinds = {"objective": "method", "network": "network", "noise": "schedule"}
    if section not in kinds:
        return {"training": Training, "evaluation": Evaluation}[section]
    if "name" not in document[section]:
        raise UserError(f"{where}: '{section}:' needs a 'name'; known: {', '.join(registry.names(kinds[section]))}")
    return registry.get(kinds[section], document[section]["name"], f"{where} {section}")


def _settings_of(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != "name"}


def _section_of(key: str, where: str, document: Mapping[str, Any]) -> str:
    homes = {name: [f.name for f in dataclasses.fields(_section_class(name, document, where))] for name in SECTIONS}
    found = [name for name, keys in homes.items() if key in keys]
    if not found:
        raise unknown("setting", key, {key for keys in homes.values() for key in keys}, where)
    return found[0]


def _check_sections(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    sections = {
        name: check(_section_class(name, document, where), _settings_of(document[name]), f"{where}, {name}")
        for name in (*SECTIONS, "evaluation")
    }
    entries = {
        name: check(Released, _mapping(entry, f"{where}, released {name}"), f"{where}, released {name}")
        for name, entry in document.get("released", {}).items()
    }
    wanted = sections["training"].released
    if wanted is not None and wanted not in entries:
        raise unknown("released checkpoint", wanted, entries, where)
    return {**sections, "released": entries}
