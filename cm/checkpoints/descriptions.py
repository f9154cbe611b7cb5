"""What the description of each kind of our files must hold: the schemas by which every reader checks it.

A description is written by this suite, but it is read from a file that may come from anywhere. Entries that a later
version adds are ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cm.checkpoints.native import DamagedFile
from cm.config.checking import check_known
from cm.config.compatibility import check_times
from cm.config.runs import RunName
from cm.config.settings import at_least, at_most, component, name_of
from cm.config.suite_files import MAX_THREADS
from cm.errors import UserError

Description = Mapping[str, Any]
Object = dict[str, Any]
Seconds = Annotated[float, at_least(0.0), at_most(1e12)]
Threads = tuple[Annotated[int, at_least(1), at_most(MAX_THREADS)], ...]


@dataclasses.dataclass(frozen=True)
class _Model:
    """`network`, `noise` and `preconditioning` are what the model is built from; the rest says how it came about."""

    run: str
    progress: Annotated[int, at_least(1), at_most(100)]
    commit: str
    network: Annotated[Any, component("network")]
    noise: Annotated[Any, component("noise")]
    preconditioning: Annotated[str, name_of("preconditioning")] | None
    objective: Object = dataclasses.field(default_factory=dict)
    threads: Threads = dataclasses.field(default_factory=tuple)

    def check(self, where: str) -> None:
        """UserError for a run of no such name, and for a network that does not fit its preconditioning."""
        RunName.parse(self.run)
        check_times(self.network, self.preconditioning, where)


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """What is read of the description of pretrained weights, which `cm.evaluation.pretrained` writes and explains."""

    weights: Annotated[str, name_of("weights")]
    source_sha256: str = ""
    tensors_sha256: str = ""
    logits: bool = False


@dataclasses.dataclass(frozen=True)
class _Clock:
    wall: Seconds
    processor: Seconds


@dataclasses.dataclass(frozen=True)
class _Of:
    run: str


@dataclasses.dataclass(frozen=True)
class _Losses:
    count: Annotated[int, at_least(0), at_most(10**9)]
    sum: Annotated[float, at_least(-1e39), at_most(1e39)] | None


@dataclasses.dataclass(frozen=True)
class _State:
    """`of`: the description of the models of the training. States of earlier versions do not have the other entries."""

    of: Object
    step: Annotated[int, at_least(0), at_most(10**9)] = 0
    scaler: dict[str, Annotated[float, at_least(0.0), at_most(1e12)]] = dataclasses.field(default_factory=dict)
    seconds: _Clock | None = None
    threads: Threads = ()
    losses: _Losses | None = None
    identifier: str = ""


def check_model(description: Description, path: Path | str) -> None:
    """Raise UserError, which names the file, unless this is the description of a model that can be built."""
    if "weights" in description:
        raise UserError(f"{path} holds the pretrained weights {description['weights']}, not a model of this suite")
    if "network" not in description:
        raise UserError(f"{path} is the state of a training that is not finished, not a model")
    for field in dataclasses.fields(_Model):
        if field.default_factory is dataclasses.MISSING and field.name not in description:
            raise _outdated(path, f"it does not say its {field.name}")
    try:
        check_known(_Model, description, f"{description['run']}")
    except UserError as error:
        raise _outdated(path, str(error)) from None


def _outdated(path: Path | str, reason: str) -> UserError:
    return UserError(f"{path} was not written by this version of the suite: {reason}; train or convert it again")


def check_weights(description: Description, path: Path | str) -> PretrainedWeights:
    """The description of pretrained weights. Raises UserError, which names the file, if it is that of anything else."""
    return check_known(PretrainedWeights, description, str(path))


def check_state(description: Description, path: Path | str) -> None:
    """Raise DamagedFile, which names the file, unless this is the description of the state of a training."""
    try:
        state = check_known(_State, description, str(path))
        check_known(_Of, state.of, f"{path}, of")
    except UserError as error:
        raise DamagedFile(f"{path} is not the state of a training: {error}") from None
