"""The Python interface: `cm.load` a model and sample it, `cm.score` images, collect scores with `cm.results`.

Importing this module is quick.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import config
from cm.config.layout import Layout, check_layout, name_model
from cm.config.sections import Precision, Quantization
from cm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from pandas import DataFrame
    from torch import Tensor, nn

    Images = str | Path | np.ndarray


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How samples are computed, besides the sampler, their number and the seed.

    `quantization`: how pixels become 8 bits, `truncate` or `round`. `clamp`: clamp every estimate of the denoiser to
    [-1, 1]. `precision`: of the network. `batch`: images sampled at a time, which does not change the samples.
    """

    quantization: Quantization = "truncate"
    clamp: bool = False
    precision: Precision = "float32"
    batch: int = 256

    @classmethod
    def of_run(cls, run: config.Run, experiments: config.Experiments) -> SamplingSettings:
        """The settings by which the samples of a run are made for its scores."""
        evaluation, quantization = run.evaluation, experiments.quantization(run)
        return cls(quantization, evaluation.clamp, evaluation.precision, evaluation.batch)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained or converted model.

    `description`: what the model file says of it: its run, network, noise grid, training and origin. `settings`: how it
    is sampled by default. `module`: the torch module, without gradients, in evaluation mode, on the first of `devices`,
    which all sample.
    """

    module: nn.Module
    description: Mapping[str, Any]
    path: Path
    devices: tuple[str, ...]
    settings: SamplingSettings = SamplingSettings()

    @property
    def run(self) -> str:
        """The name of the run: `<dataset>/<method>/<variant>/seed<seed>`."""
        return self.description["run"]

    @property
    def seed(self) -> int:
        """The seed of the training, which is also the default seed of samples."""
        return config.RunName.parse(self.run).seed

    @property
    def classes(self) -> int:
        """The number of classes of a class-conditional model, 0 for any other."""
        count: int = self.description["network"].get("classes", 0)
        return count

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that it was trained with.

        Raises UserError for a model without a denoiser, such as a classifier.
        """
        from cm import build

        if self.description["preconditioning"] is None:
            raise UserError(f"{self.path} holds {self.run}, which makes no images")
        channels, height, width = build.image_shape(self.description)
        return height, width, channels

    @property
    def device(self) -> str:
        """The device that the module is on, the first of `devices`."""
        return self.devices[0]

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Denoises: the estimate D(x, t) of the clean images, f(x, t) for a consistency model, [B, C, H, W].

        `x`: images [B, C, H, W] with noise of standard deviation `t` [B], the clean images in [-1, 1]. `labels`:
        classes [B], for a class-conditional model.
        """
        return self.module(x, t, labels)

    def sample(
        self,
        sampler: str,
        *,
        count: int = 64,
        seed: int | None = None,
        settings: SamplingSettings | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Samples of the model, uint8 [count, H, W, C], written to `out` if it is given.

        `sampler`: its name, such as `onestep` or `multistep,times~0.8`. Sample i depends on `seed` and i only; by
        default the seed is that of the run. Several devices take the batches in turns, which changes no bit of the
        samples if the devices are alike. Raises UserError for an unknown sampler, a setting out of range, a model that
        cannot be sampled, and a device with too little memory.
        """
        from cm import build

        seed = self.seed if seed is None else seed
        if count < 1 or not 0 <= seed <= config.MAX_SEED:
            raise UserError(f"count must be at least 1 and seed in 0..{config.MAX_SEED}, not {count} and {seed}")
        parsed, _ = config.parse_sampler(sampler), self.image_shape
        config.check_sampler(
            parsed, self.description["network"].get("two_times", False), f"{self.path} holds {self.run}"
        )
        how = {**dataclasses.asdict(settings or self.settings), "devices": self.devices}
        return build.sample_images(self.module, self.description, parsed, count=count, seed=seed, out=out, **how)


def load(
    path_or_run: str | Path,
    *,
    device: str | None = None,
    ema_decay: float | None = None,
    experiments: Path | str = config.EXPERIMENTS,
    results: Path | str = "results",
) -> Model:
    """A model from a model file, or from a run by its name.

    The model of a run is `<results>/models/<run>/100.safetensors`. A run that takes its weights from a published
    checkpoint (`released~NAME`) is fetched and converted if that file is missing. The settings by which a run is
    sampled are those of its experiment file below `experiments`. `ema_decay`: of a training with several, the decay of
    the averaged weights, by default the first; the model file is then the one beside that path. `device`: as of
    `select_devices`; several sample together.

    Raises UserError for a file that is missing, damaged or no model of this suite, an unknown run, a run that has not
    been trained, and a device that this machine does not have.
    """
    from cm import build

    devices = select_devices(device)
    if not _is_run(path_or_run):
        path = _find_average(Path(path_or_run), ema_decay)
        return Model(*build.load_model(path, devices[0]), path, devices)
    known = config.Experiments(experiments)
    run = known.run(str(path_or_run))
    path = _find_average(find_model(run, Layout(str(results))), ema_decay)
    return Model(*build.load_model(path, devices[0]), path, devices, SamplingSettings.of_run(run, known))


def _find_average(path: Path, ema_decay: float | None) -> Path:
    """The model file beside `path` with the averages of a decay, `path` itself for None; UserError if there is none."""
    found = path if ema_decay is None else path.with_stem(name_model(path.stem, ema_decay))
    if found != path and not found.is_file():
        raise UserError(
            f"no file {found}: the training has no averaged weights of decay {ema_decay} besides its default"
        )
    return found


def _is_run(path_or_run: str | Path) -> bool:
    return isinstance(path_or_run, str) and not path_or_run.endswith(".safetensors") and not os.path.exists(path_or_run)


def select_devices(names: str | None = None) -> tuple[str, ...]:
    """The devices of these names, such as `cuda:0,cuda:1`, or by default a GPU if there is one.

    Raises UserError for a device that this machine does not have, and for devices of different types, whose results
    would differ.
    """
    devices = tuple(map(select_device, names.split(",") if names is not None else [None]))
    if len({device.partition(":")[0] for device in devices}) > 1:
        raise UserError(f"the devices must be of one type, not {', '.join(devices)}: their results would differ")
    return devices


def select_device(name: str | None = None) -> str:
    """The device of that name, or by default a GPU if there is one.

    Raises UserError for a device that this machine does not have.
    """
    import torch

    device = ("cuda" if torch.cuda.is_available() else "cpu") if name is None else name
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{device}' cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def find_model(run: config.Run, layout: Layout) -> Path:
    """The model file of a run at the end of its training; that of a released run is made if it is missing.

    Raises UserError for a run that has not been trained, and for results of an earlier version.
    """
    check_layout(layout)
    path = Path(layout.model(run.name, 100))
    if path.is_file():
        return path
    if run.released is None:
        raise UserError(f"{run.name} has not been trained: there is no {path}; train it with `snakemake {path}`")
    from cm import build
    from cm.checkpoints import native

    native.save(path, *build.import_released(run))
    return path


def score(
    images: Images,
    reference: Images,
    protocol: str | Path | config.Protocol,
    *,
    extractor: str | Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """The score of images by a protocol, as a score file has it: `metrics`, `uncertainty`, and all they depend on.

    `images`: uint8 [N, H, W, C], or the path of a folder, a zip, a .npz or a .npy of 8-bit images. `reference`: the
    same of real images, or the path of their summary or of published statistics. `protocol`: a name in config/protocols
    or a .yaml file. `extractor`: the file of the protocol's extractor; by default pretrained weights, which are
    fetched. `device`: as of `select_devices`; several compute features together.

    Raises UserError for an unknown protocol, and for images, a reference or an extractor that do not fit together.
    """
    if not isinstance(protocol, config.Protocol):
        protocol = config.read_protocol(str(protocol))
    from cm import build
    from cm.evaluation.features import Compute
    from cm.evaluation.scoring import score_images

    make_extractor = functools.partial(build.load_extractor, protocol, Path(extractor) if extractor else None)
    compute = Compute(workers=4, devices=select_devices(device))
    with _as_path(images) as samples, _as_path(reference) as real:
        return score_images(samples, real, protocol=protocol, make_extractor=make_extractor, compute=compute)


def results(
    paths: str | Path | Iterable[str | Path],
    *,
    protocol: str | None = None,
    mixed: bool = False,
    origin: str | None = None,
) -> DataFrame:
    """Scores as one table: a row for each score, with its run, sampler, protocol, metrics and commit.

    `paths`: one or several folders of results, zips of such folders, score files, and tables that `cm results` wrote.
    `protocol`: take the scores by the protocol of that name. `mixed`: admit several protocols and several numbers of
    samples for one data set, which do not compare. `origin`: whose scores they are, by default the path that they were
    read from.

    Raises UserError for a file that is no score, for protocols of one name that differ, and, without `mixed`, for
    several protocols or numbers of samples for one data set.
    """
    from cm.report import results as tables

    listed = [paths] if isinstance(paths, str | Path) else paths
    return tables.collect(listed, protocol=protocol, mixed=mixed, origin=origin)


def published(table: str | None = None, dataset: str | None = None) -> DataFrame:
    """The published numbers of the paper and its successors, with the columns of `results`.

    `table`: `table1`, `table2` or `successors`. `dataset`: such as `cifar10`. Raises UserError for unknown ones.
    """
    from cm.report import published as tables

    return tables.collect(table, dataset)


@contextlib.contextmanager
def _as_path(images: Images) -> Iterator[Path]:
    """The path of images; an array is written to a temporary file."""
    if isinstance(images, str | Path):
        yield Path(images)
        return
    if images.dtype != "uint8" or images.ndim != 4:
        raise UserError(f"images must be uint8 [N, H, W, C], not {images.dtype} {list(images.shape)}")
    from cm.utils import files

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "array" / "images.npy"
        files.write_array(path, images)
        yield path
