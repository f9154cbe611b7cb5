"""Configuration: what a run is (`experiments`), what a suite asks for (`suites`)."""

from cm.config.checking import check
from cm.config.experiments import (
    EXPERIMENTS,
    data_of,
    inputs,
    judge,
    load,
    parse_variant,
    perceptual,
    protocol_of,
    sampler,
    sampler_of,
    splits_of,
    teacher,
    variant,
)
from cm.config.protocols import PROTOCOLS, Protocol, protocol
from cm.config.sections import MAX_SEED, Data, Evaluation, Released, Run, Training, Weights
from cm.config.suites import Artefact, Cell, Suite, load_suite, with_inputs

__all__ = [
    "EXPERIMENTS",
    "MAX_SEED",
    "PROTOCOLS",
    "Artefact",
    "Cell",
    "Data",
    "Evaluation",
    "Protocol",
    "Released",
    "Run",
    "Suite",
    "Training",
    "Weights",
    "check",
    "data_of",
    "inputs",
    "judge",
    "load",
    "load_suite",
    "parse_variant",
    "perceptual",
    "protocol",
    "protocol_of",
    "sampler",
    "sampler_of",
    "splits_of",
    "teacher",
    "variant",
    "with_inputs",
]
