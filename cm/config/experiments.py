"""Experiments, variants and runs: YAML read, checked, and merged into everything that one training needs to know.

A **run** is `<dataset>/<method>/<variant>/seed<seed>`. Its settings are `config/experiments/<dataset>/base.yaml`, then
`<method>.yaml`, then what the variant changes. A **variant** is named by what it changes and nothing else:
`solver~euler,steps~9`; `default` changes nothing. `variant` and `load` are inverses.

Settings that hang on others stand under `when:`, as `{setting: {value: {other setting: its value}}}`: with
`when: {distance: {l1: {lr: 2.0e-4}}}` the variant `distance~l1` has that rate, and its name need not say so.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cm import registry
from cm.config.checking import as_field, check
from cm.config.documents import (
    check_sections,
    document_of,
    resolved,
    section_class,
    section_of,
    settings_of,
    with_changes,
)
from cm.config.protocols import Protocol, protocol
from cm.config.sections import MAX_SEED, Data, Evaluation, Run, Weights
from cm.errors import UserError

EXPERIMENTS = Path("config/experiments")
_RUN = re.compile(r"(?P<dataset>[^/]+)/(?P<method>[^/]+)/(?P<variant>[^/]+)/seed(?P<seed>0|[1-9]\d*)")


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
    document = with_changes(resolved(dataset, method, changes, Path(experiments)), changes, f"{dataset}/{method}")
    sections = check_sections(document, f"{dataset}/{method} {text}")
    scoring = protocol(sections["evaluation"].protocol, experiments)
    return Run(dataset, method, text, seed, {**sections, "protocol": scoring}, document)


def variant(dataset: str, method: str, changes: Mapping[str, Any], experiments: Path = EXPERIMENTS) -> str:
    """The name of what `changes` changes: sorted by setting, settings at their default left out."""
    where = f"{dataset}/{method}"
    document = resolved(dataset, method, changes, Path(experiments))
    homes = {key: section_of(key, where, document) for key in changes}
    written = {}
    for section in set(homes.values()):
        cls = section_class(section, document, where)
        default = check(cls, settings_of(document[section]), f"{where} {section}")
        own = {key: as_field(cls, key, value) for key, value in changes.items() if homes[key] == section}
        changed = check(cls, {**settings_of(document[section]), **own}, f"{where} {section}")
        written |= {key: getattr(changed, key) for key in own if getattr(changed, key) != getattr(default, key)}
    return ",".join(f"{key}~{_write(written[key])}" for key in sorted(written)) or "default"


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


def protocol_of(dataset: str, experiments: Path = EXPERIMENTS) -> Protocol:
    """How samples of a data set are scored, as its base.yaml says."""
    path = Path(experiments) / dataset / "base.yaml"
    evaluation = check(Evaluation, document_of(path).get("evaluation", {}), str(path))
    return protocol(evaluation.protocol, experiments)


def data_of(dataset: str, experiments: Path = EXPERIMENTS) -> Data:
    """What a data set is made from, as its base.yaml says: by default the registered data set of the same name."""
    path = Path(experiments) / dataset / "base.yaml"
    section = {"name": dataset, **document_of(path).get("data", {})}
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
