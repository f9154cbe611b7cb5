"""A run: one training, fully specified."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from cm.config.checking import plain_component, to_plain
from cm.config.names import check_name
from cm.config.sections import Evaluation, Released, Training
from cm.errors import UserError

MAX_SEED = 4000  # the noise of image i is seeded with 10^6 seed + i, of which generators use 32 bits
COMPONENTS = {
    "objective": "method",
    "network": "network",
    "noise": "noise",
}  # sections that are components, and of which kind
SECTIONS = ("objective", "training", "network", "noise")  # what a training depends on
_NAME = re.compile(r"([^/]+)/([^/]+)/([^/]+)/seed(0|[1-9][0-9]*)")


@dataclasses.dataclass(frozen=True)
class RunName:
    """The name of a run: `<dataset>/<method>/<variant>/seed<seed>`, which is also its path below results/models."""

    dataset: str
    method: str
    variant: str
    seed: int

    @classmethod
    def parse(cls, text: str) -> RunName:
        """The name with its parts separated.

        Raises UserError for text of another form, for a part that cannot be a part of a path, and for a seed that is
        too large.
        """
        match = _NAME.fullmatch(text)
        if not match:
            raise UserError(f"run '{text}' is not of the form <dataset>/<method>/<variant>/seed<seed>")
        dataset, method, variant, seed = match.groups()
        for part, what in ((dataset, "data set"), (method, "method"), (variant, "variant")):
            check_name(part, what, f"run '{text}'")
        if len(seed) > len(str(MAX_SEED)) or int(seed) > MAX_SEED:
            raise UserError(f"run '{text}': seed must be at most {MAX_SEED}")
        return cls(dataset, method, variant, int(seed))

    def __str__(self) -> str:
        return f"{self.without_seed}/seed{self.seed}"

    @property
    def without_seed(self) -> str:
        """`<dataset>/<method>/<variant>`."""
        return f"{self.dataset}/{self.method}/{self.variant}"


@dataclasses.dataclass(frozen=True)
class Links:
    """What an experiment file says of other models and of sampling, as text.

    `teacher`: a method of the same data set, optionally with a slash and a variant. `perceptual`: a run, or pretrained
    weights, whose features a perceptual distance compares. `sampler`: the sampler of the run, which may name settings
    in braces. `chain`: the number of steps of the first stage of progressive distillation.
    """

    teacher: str | None = None
    perceptual: str | None = None
    sampler: str | None = None
    chain: int | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, fully specified: two runs are equal if their names are.

    `objective`, `network` and `noise` are registered components: the method with its settings, the description of the
    network, and the noise grid.
    """

    identity: RunName
    objective: Any = dataclasses.field(compare=False, repr=False)
    training: Training = dataclasses.field(compare=False, repr=False)
    network: Any = dataclasses.field(compare=False, repr=False)
    noise: Any = dataclasses.field(compare=False, repr=False)
    evaluation: Evaluation = dataclasses.field(compare=False, repr=False)
    links: Links = dataclasses.field(compare=False, repr=False)
    released: Released | None = dataclasses.field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """`<dataset>/<method>/<variant>/seed<seed>`."""
        return str(self.identity)

    @property
    def dataset(self) -> str:
        """The folder of experiment files that the run belongs to."""
        return self.identity.dataset

    @property
    def method(self) -> str:
        """The method's name, `cd` for example."""
        return self.identity.method

    @property
    def variant(self) -> str:
        """What the run changes: `solver~euler,steps~9`, or `default`."""
        return self.identity.variant

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.identity.seed

    @property
    def classes(self) -> int:
        """The number of classes of a class-conditional run; 0 for any other."""
        count: int = self.describe()["network"].get("classes", 0)
        return count

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting by its own name, components by theirs; their settings follow, `curriculum` and then `s0`.

        Of two settings of the same name, the one that is nearer to its section, as in the name of a variant.
        """
        settings: dict[str, Any] = {}
        for section in self.describe().values():
            settings = {**{key: value for key, value in section.items() if key != "name"}, **settings}
        return flatten(settings)

    def describe(self) -> dict[str, Any]:
        """What training depends on, every setting of every section, as plain data to be stored beside the weights."""
        return {section: self._plain(section, changed_only=False) for section in SECTIONS}

    def recipe(self) -> dict[str, Any]:
        """`describe` without settings at the code's defaults: it changes when the experiment file means another run."""
        return {section: self._plain(section, changed_only=True) for section in SECTIONS}

    def _plain(self, section: str, *, changed_only: bool) -> dict[str, Any]:
        value = getattr(self, section)
        if section not in COMPONENTS:
            return to_plain(value, changed_only=changed_only)
        plain = plain_component(COMPONENTS[section], value, changed_only=changed_only)
        return {"name": plain} if isinstance(plain, str) else plain


def flatten(plain: dict[str, Any]) -> dict[str, Any]:
    """Settings of nested mappings by their own names; those of an outer mapping take precedence."""
    inner: dict[str, Any] = {}
    outer: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            inner = {**flatten({name: part for name, part in value.items() if name != "name"}), **inner}
            outer |= {key: value["name"]} if "name" in value else {}
        else:
            outer[key] = value
    return {**inner, **outer}
