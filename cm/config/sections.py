"""The sections of an experiment file that are the same for every method."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, Literal

from cm.config.settings import at_least, at_most, below, name_of, one_or_more, plain_name
from cm.errors import UserError
from cm.utils.urls import check_url

Precision = Literal["bfloat16", "float16", "float32"]
Quantization = Literal["round", "truncate"]
# The transformations of EDM's augmentation, in its order, and the number of labels that describe each.
AUGMENTATIONS = {"yflip": 1, "scale": 1, "rotate": 2, "aniso": 2, "translate": 2}


@dataclasses.dataclass(frozen=True)
class Training:
    """The `training:` section.

    `total_steps`: optimiser steps of the whole training. `batch`: images of a step. `lr`: the learning rate after the
    warm-up. `optimiser`: Adam or RAdam with the betas 0.9 and `beta2` and the epsilon `epsilon`. `lr_decay`: the
    learning rate stays constant, falls linearly to 0, or is divided by sqrt(step / decay_from) after the step
    `decay_from`. `warmup`: steps over which the learning rate rises linearly from 0. `clip`: largest
    norm of the gradient. `ema_decay`: decay per step of the averaged weights, or several, each of which
    becomes a model; the first one is the default. `flip`: flip each image horizontally with
    probability 1/2. `augment`: the transformations of EDM's augmentation, in EDM's order; the network is conditioned on
    labels that describe them, and the flip. `augment_probability`: the probability of each of these transformations.
    `microbatch`: images of one forward and backward pass, whose gradients add up to those of the batch; by default
    all of them. `precision`: `float32`, or the type of autocast; a CPU without instructions for that type has the
    same results up to rounding, at the speed of float32. `checkpointing`: recompute activations in the backward
    pass instead of keeping them. `compile`: compile the networks, a perceptual distance, and the update of the
    weights, with torch.compile; in float16 the update is not compiled. `cuda_graphs`: replay what is compiled as
    CUDA graphs, which saves the time of starting each kernel but takes more memory. `released`: take the weights of
    that entry of the experiment's `released:` instead of training.
    """

    total_steps: Annotated[int, at_least(1), at_most(10**9)]
    batch: Annotated[int, at_least(1), at_most(10**6)]
    lr: Annotated[float, at_least(0.0), at_most(1e3)]
    optimiser: Literal["adam", "radam"] = "radam"
    beta2: Annotated[float, at_least(0.0), below(1.0)] = 0.999
    epsilon: Annotated[float, at_least(0.0), at_most(1.0)] = 1e-8
    lr_decay: Literal["inverse-sqrt", "linear", "none"] = "none"
    decay_from: Annotated[int, at_least(1), at_most(10**9)] = 2000
    warmup: Annotated[int, at_least(0), at_most(10**9)] = 0
    clip: Annotated[float, at_least(0.0), at_most(1e9)] | None = None
    ema_decay: Annotated[tuple[Annotated[float, at_least(0.0), below(1.0)], ...], one_or_more(8)] = (0.999,)
    flip: bool = False
    augment: tuple[Literal["yflip", "scale", "rotate", "aniso", "translate"], ...] = ()
    augment_probability: Annotated[float, at_least(0.0), at_most(1.0)] = 0.12
    microbatch: Annotated[int, at_least(1), at_most(10**6)] | None = None
    precision: Precision = "float32"
    checkpointing: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    released: str | None = None

    def check(self, where: str) -> None:
        """Raises UserError for CUDA graphs of what is not compiled, and for transformations in another order."""
        if self.cuda_graphs and not self.compile:
            raise UserError(f"{where}: 'cuda_graphs' needs 'compile: true'")
        ordered = [name for name in AUGMENTATIONS if name in self.augment]
        if list(self.augment) != ordered:
            raise UserError(f"{where}: augment must be written [{', '.join(ordered)}]")

    @property
    def images(self) -> int:
        """The images that a training sees, each as often as it is seen."""
        return self.total_steps * self.batch

    @property
    def compile_mode(self) -> str | None:
        """The mode of torch.compile: that which captures CUDA graphs, or its default."""
        return "reduce-overhead" if self.cuda_graphs else None

    @property
    def augment_labels(self) -> int:
        """The number of augmentation labels of an image: 0 without augmentation."""
        return int(bool(self.augment) and self.flip) + sum(AUGMENTATIONS[name] for name in self.augment)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The `evaluation:` section.

    `protocol`: how samples are scored, one or more files of config/protocols; tables show the first unless they name
    another. `samples`: how many samples are scored, if not the number of the protocol. `statistics`: a file beside the
    first protocol's with the mean and covariance of its features of this data set's reference images, where it does not
    name one itself. `clamp`: clamp the denoised images while sampling. `precision`: of the network while sampling, as
    in `training:`. `batch`: images sampled at a time. `edited_images`: how many held-out images are edited at most.
    `held_out`: the folder of experiment files whose training split is held out, for a data set without a test split.
    """

    protocol: tuple[str, ...]
    samples: Annotated[int, at_least(2), at_most(10**7)] | None = None
    statistics: Annotated[str, plain_name("statistics file")] | None = None
    clamp: bool = False
    precision: Precision = "float32"
    batch: Annotated[int, at_least(1), at_most(10**6)] = 256
    edited_images: Annotated[int, at_least(2), at_most(10**7)] = 1000
    held_out: Annotated[str, plain_name("data set")] | None = None


@dataclasses.dataclass(frozen=True)
class Released:
    """An entry of `released:`, a published checkpoint.

    `url`: where it is published, an address of HTTPS. `licence`: of the weights. `size`: in bytes, where it is known.
    `sha256`: of the file, where it is known; elsewhere that of its first use is recorded. `weights`: which of the
    networks in the file to take.
    """

    url: str
    licence: str
    size: Annotated[int, at_least(1), at_most(2**50)] | None = None
    sha256: str | None = None
    weights: Literal["ema", "online", "target"] = "ema"

    def check(self, where: str) -> None:
        """Raises UserError for an address of another scheme than HTTPS, and for what is no sha256."""
        try:
            check_url(self.url, ("https",))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise UserError(f"{where}: sha256 must be 64 digits of 0-9a-f, not '{self.sha256}'")


@dataclasses.dataclass(frozen=True)
class Data:
    """The `data:` section.

    `name`: the registered data set, by default that of the folder's name. `source`: the archive or folder to prepare it
    from; by default it is looked for in the cache, or fetched. `settings`: those of the data set, written beside these.
    """

    name: Annotated[str, name_of("dataset")]
    source: str | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Weights:
    """A pretrained network that is fetched instead of trained."""

    name: str
