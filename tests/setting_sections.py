"""The types of the sections of experiment files, protocols and suites, for tests of all of them."""

from __future__ import annotations

from cm.config.documents import ExperimentFile
from cm.config.protocols import Protocol
from cm.config.sections import Data, Evaluation, Released, Training
from cm.config.suite_files import AblationFile, ArtefactFile, Entry, SuiteFile

SECTIONS = [
    Training,
    Evaluation,
    Released,
    Data,
    Protocol,
    Entry,
    ArtefactFile,
    AblationFile,
    SuiteFile,
    ExperimentFile,
]
