"""Protocols: how images are scored, as data. A score without its protocol is no number to compare with."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from cm import registry
from cm.config.checking import check
from cm.config.documents import read_yaml
from cm.errors import UserError, unknown

PROTOCOLS = Path("config/protocols")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A file of config/protocols. `extractor`: the pretrained weights, or run of a classifier, whose features compare.

    `resizer`: how images come to the extractor's size. `rounding` of samples to eight bits: `truncate` as the official
    code, or `round` as EDM. `reference`: the split of real images compared with. `statistics`: a file with the mean and
    covariance of their features, beside the protocol's, where they need not be computed. `images`: how many samples a
    score is of. `kept`: how many reference images precision, recall and KID compare with. `metrics`: what is computed.
    """

    name: str
    extractor: str
    metrics: list[str] = registry.setting(dataclasses.MISSING, kind="metric")
    resizer: str = registry.setting("legacy_tensorflow", kind="resizer")
    rounding: str = registry.setting("truncate", kind="rounding")
    reference: str = registry.setting("train")
    statistics: str | None = registry.setting(None)
    images: int = registry.setting(50_000, low=2)
    kept: int = registry.setting(10_000, low=4)
    file: Path = dataclasses.field(default=Path(), compare=False)

    def settings(self) -> dict[str, Any]:
        """All of it as plain data, as score files carry it."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "file"}

    @property
    def statistics_file(self) -> Path | None:
        """Where `statistics` is."""
        return self.file.parent / self.statistics if self.statistics else None


@functools.cache
def protocol(name: str, experiments: Path | None = None) -> Protocol:
    """The protocol of that name, or of a path that ends in .yaml.

    It is looked for in the folder of protocols beside that of the experiments, if there is one, else in PROTOCOLS.
    UserError for a name, key or value that is not known, and for a resizer that is none of the extractor's.
    """
    path = Path(name) if name.endswith(".yaml") else _folder(experiments) / f"{name}.yaml"
    if not path.is_file():
        raise unknown("protocol", name, [known.stem for known in path.parent.glob("*.yaml")], str(path.parent))
    document = read_yaml(path)
    for key in ("name", "file"):
        if key in document:
            raise UserError(f"{path}: '{key}' is not set but taken from where the file is")
    made = check(Protocol, {"name": path.stem, **document}, str(path))
    _check_resizer(made, path)
    return dataclasses.replace(made, file=path)


def _folder(experiments: Path | None) -> Path:
    own = Path(experiments).parent / PROTOCOLS.name if experiments else PROTOCOLS
    return own if own.is_dir() else PROTOCOLS


def _check_resizer(made: Protocol, path: Path) -> None:
    if "/" in made.extractor:
        known: tuple[str, ...] = ("none",)
    else:
        known = registry.get("weights", made.extractor, str(path)).resizers
    if not known:
        raise UserError(f"{path}: '{made.extractor}' gives no features to score with")
    if made.resizer not in known:
        raise unknown("resizer", made.resizer, known, f"{path}, extractor {made.extractor}")
