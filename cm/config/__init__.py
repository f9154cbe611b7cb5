"""Configuration: what a run is, what a suite asks for, how samples are scored, and where results are."""

from cm.config.checking import check, make_component
from cm.config.compatibility import check_sampler
from cm.config.experiments import EXPERIMENTS, Experiments, sampler_name, sampler_of
from cm.config.protocols import PROTOCOLS, Protocol, read_protocol
from cm.config.runs import MAX_SEED, Run, RunName
from cm.config.samplers import is_searched, parse_edit, parse_sampler, previous_search, write_sampler
from cm.config.searches import SearchResult, read_search, read_search_of
from cm.config.sections import Data, Evaluation, Released, Training, Weights
from cm.config.suite_files import DEFAULT_THREADS, find_suite, suite_names
from cm.config.suites import Artefact, Cell, Suite, load_suite
from cm.config.variants import parse_variant
from cm.config.workflow_files import WorkflowFile

__all__ = [
    "DEFAULT_THREADS",
    "EXPERIMENTS",
    "MAX_SEED",
    "PROTOCOLS",
    "Artefact",
    "Cell",
    "Data",
    "Evaluation",
    "Experiments",
    "Protocol",
    "Released",
    "Run",
    "RunName",
    "SearchResult",
    "Suite",
    "Training",
    "Weights",
    "WorkflowFile",
    "check",
    "check_sampler",
    "find_suite",
    "is_searched",
    "load_suite",
    "make_component",
    "parse_edit",
    "parse_sampler",
    "parse_variant",
    "previous_search",
    "read_protocol",
    "read_search",
    "read_search_of",
    "sampler_name",
    "sampler_of",
    "suite_names",
    "write_sampler",
]
