"""Types of options, and groups of options that several commands share.

A group reaches its command as one argument: a frozen dataclass with a field for each of its options.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cm import api, config
from cm.cli.paths import IN_FILE, InputPath, InputText
from cm.config.suite_files import MAX_THREADS
from cm.data.encoded import is_image_file
from cm.errors import UserError
from cm.utils import gpus

if TYPE_CHECKING:
    from cm.evaluation.features import Compute
    from cm.evaluation.scoring import MakeExtractor
    from cm.training.launch import Environment

Function = Callable[..., None]
Decorator = Callable[[Function], Function]
FOLDER = click.Path(file_okay=False, path_type=Path)
# Of a folder only the images are read; beside samples in a .npy file stands how they were made.
IMAGES = InputPath(reads=lambda path: is_image_file(str(path)), beside={".npy": ".json"})
REFERENCE = InputPath(reads=lambda path: is_image_file(str(path)))
PROTOCOL = InputText(lambda text: text.endswith(".yaml"))


class WholeNumber(click.IntRange):
    """A whole number within bounds; the error names the option and the bound that is not respected."""

    def __init__(self, lowest: int, highest: int = 10**9) -> None:
        super().__init__(lowest, highest)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number that the text of an option stands for, which has ASCII digits only."""
        if isinstance(value, str) and not re.fullmatch(r"[-+]?[0-9]{1,20}", value):
            self.fail(f"{value!r} is not a valid integer.", param, ctx)
        number = int(click.INT.convert(value, param, ctx))
        name = param.name if param else "the value"
        if self.min is not None and number < self.min:
            raise click.UsageError(f"{name} must be at least {self.min:g}, not {number}", ctx)
        if self.max is not None and number > self.max:
            raise click.UsageError(f"{name} must be at most {self.max:g}, not {number}", ctx)
        return number


class Number(click.FloatRange):
    """A number within bounds that is finite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number that the text of an option stands for."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def group(parameter: str, cls: type, *options: Decorator) -> Decorator:
    """A decorator that adds options to a command, which receives their values as `parameter`, an instance of `cls`."""
    names = [field.name for field in dataclasses.fields(cls)]

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def wrapper(**arguments: Any) -> None:
            values = {name: arguments.pop(name) for name in names}
            function(**arguments, **{parameter: cls(**values)})

        command: Function = wrapper
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


experiments_option = click.option(
    "--experiments", type=FOLDER, default=config.EXPERIMENTS, show_default=True, help="folder of experiment files"
)
THREADS = WholeNumber(1, MAX_THREADS)  # of processors, or workers: so many start, or have work waiting for them
threads_option = click.option("--threads", type=THREADS, help="processor threads that torch may use")
gpus_option = click.option(
    "--gpus",
    type=WholeNumber(0),
    default=1,
    show_default=True,
    help="without --device: GPUs to take; waits until so many are free; with 0, or without a GPU, computes on the CPU",
)


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What a command computes on: `device`, or `gpus` GPUs that nobody else has taken; `threads` of the processor.

    `device`: one or several, separated by commas.
    """

    threads: int | None
    device: str | None
    gpus: int

    def select_devices(self) -> tuple[str, ...]:
        """The devices, after the GPUs have been taken and the number of threads of torch has been set.

        Raises UserError for a device that this machine does not have, for devices of different types, and for more
        GPUs than it has.
        """
        return self._prepare(self.device or self._take_gpus())

    def _prepare(self, names: str | None) -> tuple[str, ...]:
        """The devices of these names, after the number of threads of torch has been set."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        return api.select_devices(names)

    def _take_gpus(self) -> str | None:
        """The names of the default devices; None is the GPU that torch finds, or the CPU if it finds none."""
        if self.gpus == 0:
            return "cpu"
        taken = gpus.take_gpus(self.gpus)
        return ",".join(f"cuda:{index}" for index in range(self.gpus)) if self.gpus > 1 and taken else None


hardware = (
    threads_option,
    click.option("--device", help="cpu, cuda, or several: cuda:0,cuda:1; by default the GPUs that are taken"),
    gpus_option,
)


@dataclasses.dataclass(frozen=True)
class Machine(Hardware):
    """What a training computes on, in how many processes, and how often it saves its state.

    Devices, threads and processes change the weights by rounding, the intervals of saving do not change them.
    """

    processes: int | None
    save_seconds: float
    save_steps: int | None

    def __post_init__(self) -> None:
        if self.device and "," in self.device:
            raise UserError(f"a process trains on one device, not on {self.device}; --gpus trains on several")

    def count_processes(self) -> int:
        """The processes that train together: by default one for each GPU that is asked for, else a single one."""
        return self.processes or (1 if self.device else max(1, min(self.gpus, len(gpus.visible_gpus()))))

    def take_gpus_of_processes(self) -> None:
        """Take a GPU for each of the processes that this one starts, unless they compute elsewhere."""
        if self.gpus and not self.device:
            gpus.take_gpus(self.count_processes())

    def select_device_of(self, environment: Environment) -> str:
        """The device of this process; of several on one machine each has a GPU of its own.

        Their GPUs are those that are visible, since whatever started the processes has taken them.
        """
        if environment.count == 1:
            return self.select_devices()[0]
        import torch

        count = torch.cuda.device_count() if self.gpus else 0
        name = self.device or (f"cuda:{environment.local_rank % count}" if count else "cpu")
        return self._prepare(name)[0]

    def settings(self) -> dict[str, Any]:
        """The settings of a plan that the machine decides. Slurm kills a job some time after it sent SIGTERM."""
        saving = {"save_seconds": self.save_seconds, "save_steps": self.save_steps}
        return saving | {"continue_on_sigterm": "SLURM_JOB_ID" in os.environ}


machine_options = group(
    "machine",
    Machine,
    click.option(
        "--threads",
        type=THREADS,
        default=config.DEFAULT_THREADS,
        show_default=True,
        help="processor threads that torch may use; their number changes the weights by rounding",
    ),
    click.option("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one"),
    gpus_option,
    click.option(
        "--processes",
        type=WholeNumber(1),
        help="processes on this machine that train together; by default one for a GPU",
    ),
    click.option(
        "--save-seconds",
        type=Number(0),
        default=60.0,
        show_default=True,
        help="time after which the state is saved again",
    ),
    click.option("--save-steps", type=WholeNumber(1), help="steps after which the state is saved again, if sooner"),
)


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How images are scored."""

    protocol: str
    extractor: Path | None

    def read(self) -> config.Protocol:
        """The protocol; UserError for an unknown one."""
        return config.read_protocol(self.protocol)

    def make_extractor(self, protocol: config.Protocol) -> MakeExtractor:
        """A function that loads the extractor for images of a shape."""
        from cm import build

        return functools.partial(build.load_extractor, protocol, self.extractor)


@dataclasses.dataclass(frozen=True)
class Comparison(Scoring):
    """How images are scored, and what they are compared with."""

    reference: Path


_scoring = (
    click.option(
        "--protocol", type=PROTOCOL, required=True, help=f"how to score: a name in {config.PROTOCOLS}, or a .yaml file"
    ),
    click.option(
        "--extractor", type=IN_FILE, help="file of the protocol's extractor; by default pretrained weights, fetched"
    ),
)
_reference = click.option(
    "--reference",
    type=REFERENCE,
    required=True,
    help="real images, their summary (`cm featurize`), or published statistics",
)
scoring_options = group("scoring", Scoring, *_scoring)
comparison_options = group("comparison", Comparison, *_scoring, _reference)


@dataclasses.dataclass(frozen=True)
class ExtractionOptions(Hardware):
    """How features are computed, which changes them by rounding only."""

    batch: int
    workers: int

    def select(self) -> Compute:
        """The batch, the workers and the devices; UserError as `select_devices` raises it."""
        devices = self.select_devices()
        from cm.evaluation.features import Compute

        return Compute(self.batch, self.workers, devices)


extraction_options = group(
    "extraction",
    ExtractionOptions,
    click.option("--batch", type=WholeNumber(1), default=64, show_default=True, help="images at a time"),
    click.option("--workers", type=THREADS, default=4, show_default=True, help="threads that decode and resize images"),
    *hardware,
)
