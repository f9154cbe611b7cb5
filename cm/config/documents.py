"""Experiment files as plain mappings: read, and merged from what base.yaml and the method's file say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cm.config.checking import check
from cm.config.runs import SECTIONS
from cm.config.settings import at_least, at_most, plain_name
from cm.config.yaml_reader import read_yaml
from cm.errors import unknown

Document = dict[str, Any]
LONGEST_CHAIN = 1 << 20  # steps of the first stage of progressive distillation
MERGED = (*SECTIONS, "evaluation")  # sections in which the method's file changes single settings of base.yaml


@dataclasses.dataclass(frozen=True)
class ExperimentFile:
    """The keys of an experiment file; base.yaml of a data set and the file of a method add up.

    `objective`: settings of the method. `training`: settings of the training. `network`: the network and its settings.
    `noise`: the noise grid and its settings. `evaluation`: how samples are made and scored. `data`: what the data set
    is made from. `released`: published checkpoints by name. `when`: settings that depend on the value of another one,
    see `cm.config.variants`. `teacher`: the method, and optionally after a slash the variant, whose weights are
    distilled. `perceptual`: the run, or the pretrained weights, whose features a perceptual distance compares.
    `sampler`: the sampler of the run, which may name settings in braces. `chain`: the steps of the first stage of
    progressive distillation.
    """

    objective: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    noise: dict[str, Any] = dataclasses.field(default_factory=dict)
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    released: dict[Annotated[str, plain_name("released checkpoint")], Any] = dataclasses.field(default_factory=dict)
    when: dict[str, Any] = dataclasses.field(default_factory=dict)
    teacher: str | None = None
    perceptual: str | None = None
    sampler: str | None = None
    chain: Annotated[int, at_least(1), at_most(LONGEST_CHAIN)] | None = None


def read_experiment(path: Path) -> Document:
    """One experiment file; UserError for a key that is unknown or of another type."""
    document = read_yaml(path)
    check(ExperimentFile, document, str(path))
    return document


def merge(base: Mapping[str, Any], own: Mapping[str, Any], method: str) -> Document:
    """The document of a method: what its file says, over what base.yaml says.

    Sections merge setting by setting, unless the method's file names another component: then its section stands alone.
    """
    merged: Document = {**base, **own}
    for section in MERGED:
        ours, theirs = own.get(section, {}), base.get(section, {})
        replaced = ours.get("name", theirs.get("name")) != theirs.get("name")
        merged[section] = dict(ours) if replaced else {**theirs, **ours}
    merged["objective"]["name"] = method
    return merged


def find_method_file(folder: Path, dataset: str, method: str) -> Path:
    """The file of a method; UserError, with the known ones, for an unknown data set or method."""
    datasets = sorted(path.parent.name for path in folder.glob("*/base.yaml"))
    if dataset not in datasets:
        raise unknown("dataset", dataset, datasets, str(folder))
    methods = sorted(path.stem for path in (folder / dataset).glob("*.yaml") if path.stem != "base")
    if method not in methods:
        raise unknown("method", method, methods, f"{folder}/{dataset}")
    return folder / dataset / f"{method}.yaml"
