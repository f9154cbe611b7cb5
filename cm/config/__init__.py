"""Configuration: what a run is (`experiments`), what a suite asks for (`suites`)."""

from cm.config.checking import check
from cm.config.experiments import (
    EXPERIMENTS,
    MAX_SEED,
    Evaluation,
    Run,
    Training,
    evaluation_of,
    inputs,
    load,
    parse_variant,
    perceptual,
    sampler,
    sampler_of,
    teacher,
    variant,
)
from cm.config.suites import Artefact, Cell, Suite, load_suite

__all__ = [
    "EXPERIMENTS",
    "MAX_SEED",
    "Artefact",
    "Cell",
    "Evaluation",
    "Run",
    "Suite",
    "Training",
    "check",
    "evaluation_of",
    "inputs",
    "load",
    "load_suite",
    "parse_variant",
    "perceptual",
    "sampler",
    "sampler_of",
    "teacher",
    "variant",
]
