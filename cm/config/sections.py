"""What the sections of an experiment file hold, and the run that they make together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cm import registry

if TYPE_CHECKING:
    from cm.config.protocols import Protocol

MAX_SEED = 4000  # the noise of image i is seeded with 10^6 seed + i, of which generators use 32 bits
SECTIONS = ("objective", "training", "network", "noise")


@dataclasses.dataclass(frozen=True)
class Training:
    """The `training:` section. `ema`: decay of the averaged weights per iteration. `lr_decay`: `none` or `linear` to 0.

    `warmup`: iterations over which the learning rate rises linearly. `clip`: largest gradient norm, none if absent.
    `microbatch`: images at a time, whose gradients add up to those of the batch; all of them if absent. `precision`:
    `float32`, or the type of autocast. `checkpointing`: compute activations twice rather than keep them. `compile` the
    networks with torch.compile. `released`: take the weights of that entry of the experiment's `released:` in place of
    training.
    """

    iterations: int = registry.setting(dataclasses.MISSING, low=1)
    batch: int = registry.setting(dataclasses.MISSING, low=1)
    lr: float = registry.setting(dataclasses.MISSING, low=0.0)
    optimiser: str = registry.setting("radam", kind="optimiser")
    lr_decay: str = registry.setting("none", kind="lr_decay")
    warmup: int = registry.setting(0, low=0)
    clip: float | None = registry.setting(None, low=0.0)
    ema: float = registry.setting(0.999, low=0.0, below=1.0)
    flip: bool = registry.setting(False)
    microbatch: int | None = registry.setting(None, low=1)
    precision: str = registry.setting("float32", kind="precision")
    checkpointing: bool = registry.setting(False)
    compile: bool = registry.setting(False)
    released: str | None = registry.setting(None)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The `evaluation:` section. `protocol`: how samples are scored, a file of config/protocols.

    `images`: how many samples are made, if not the protocol's number. `clamp` the denoiser's estimates while sampling.
    `precision` of sampling, as in `training:`. `batch`: images at a time.
    """

    protocol: str
    images: int | None = registry.setting(None, low=2)
    clamp: bool = registry.setting(False)
    precision: str = registry.setting("float32", kind="precision")
    batch: int = registry.setting(256, low=1)


@dataclasses.dataclass(frozen=True)
class Released:
    """An entry of `released:`, a checkpoint somebody published. `size` in bytes and `sha256` where they are known.

    `weights`: which of the networks in the file, `ema` (default), `online` or `target`.
    """

    url: str = registry.setting(dataclasses.MISSING)
    licence: str = registry.setting(dataclasses.MISSING)
    size: int | None = registry.setting(None, low=1)
    sha256: str | None = registry.setting(None)
    weights: str = registry.setting("ema", kind="average")


@dataclasses.dataclass(frozen=True)
class Data:
    """The `data:` section: the registered data set `name` (by default the folder's), where it is, and its settings."""

    name: str = registry.setting(dataclasses.MISSING, kind="dataset")
    source: str | None = registry.setting(None)
    settings: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Weights:
    """A pretrained network that is fetched, not trained: it judges or compares images where a run of a suite could."""

    name: str


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, fully specified. `sections`: section name to its checked dataclass; `document`: the merged YAML."""

    dataset: str
    method: str
    variant: str
    seed: int
    sections: Mapping[str, Any] = dataclasses.field(compare=False, hash=False, repr=False)
    document: Mapping[str, Any] = dataclasses.field(compare=False, hash=False, repr=False)

    @property
    def name(self) -> str:
        """`<dataset>/<method>/<variant>/seed<seed>`, which is also its path below `results/models`."""
        return f"{self.dataset}/{self.method}/{self.variant}/seed{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of every section, by its one-word name."""
        return {key: value for section in SECTIONS for key, value in dataclasses.asdict(self.sections[section]).items()}

    def describe(self) -> dict[str, Any]:
        """What training depends on, every setting of every section, as plain data to be stored beside the weights."""
        return {key: {**self._name(key), **dataclasses.asdict(self.sections[key])} for key in SECTIONS}

    @property
    def protocol(self) -> Protocol:
        """How samples of the run are scored."""
        return self.sections["protocol"]

    @property
    def images(self) -> int:
        """How many samples a score of the run is of."""
        return self.sections["evaluation"].images or self.protocol.images

    @property
    def released(self) -> Released | None:
        """The published checkpoint that the run takes its weights from, None if it is trained."""
        name = self.sections["training"].released
        return self.sections["released"][name] if name else None

    def recipe(self) -> dict[str, Any]:
        """`describe` without what is at the code's defaults: it changes when the experiment file means another run."""
        return {key: {**self._name(key), **_changed(self.sections[key])} for key in SECTIONS}

    def _name(self, section: str) -> dict[str, str]:
        document = self.document[section]
        return {"name": document["name"]} if "name" in document else {}


def _changed(section: Any) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(section)}
    defaults = {
        name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for name, field in fields.items()
    }
    return {key: value for key, value in dataclasses.asdict(section).items() if value != defaults[key]}
