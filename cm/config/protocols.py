"""Protocols: how samples are scored, as data. Scores of different protocols do not compare."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from cm import registry
from cm.config.checking import check, to_plain
from cm.config.names import check_name
from cm.config.runs import RunName
from cm.config.sections import Precision, Quantization
from cm.config.settings import at_least, at_most, name_of, plain_name
from cm.config.yaml_reader import read_yaml
from cm.errors import UserError, unknown

PROTOCOLS = Path("config/protocols")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A file of config/protocols.

    `name`: of the file. `extractor`: the pretrained network, or the run of a classifier, whose features are compared.
    `resizer`: how images are resized for the extractor. `quantization` of samples to 8 bits: `truncate` as the official
    code, or `round` as EDM; without it, samples of either are scored. `reference`: the split of real images that
    samples are compared with. `statistics`: a file, beside the protocol's, with the mean and covariance of the
    reference features, which are then not computed. `samples`: how many samples a score is of. `reference_images`: how
    many reference images the metrics that compare single images compare with. `blocks`: how many blocks of `samples`
    samples are scored one by one; the score is their mean and has the value of each, whose minimum EDM reports of 3.
    `precision` of the extractor's network: `float32`, or the type of autocast, whose features compare only with each
    other. `metrics`: what is computed. `file`: the path of the file.
    """

    name: str
    extractor: str
    metrics: tuple[Annotated[str, name_of("metric")], ...]
    resizer: Annotated[str, name_of("resizer")] = "legacy_tensorflow"
    quantization: Quantization | None = None
    reference: str = "train"
    statistics: Annotated[str, plain_name("statistics file")] | None = None
    samples: Annotated[int, at_least(2), at_most(10**7)] = 50_000
    reference_images: Annotated[int, at_least(4), at_most(10**7)] = 10_000
    blocks: Annotated[int, at_least(1), at_most(100)] = 1
    precision: Precision = "float32"
    file: Path = dataclasses.field(default=Path(), compare=False)

    def settings(self) -> dict[str, Any]:
        """All settings as plain data, as score files carry them; a single block, the default, is left out."""
        omitted = ("file", "blocks") if self.blocks == 1 else ("file",)
        return {key: value for key, value in to_plain(self).items() if key not in omitted}

    @property
    def total_samples(self) -> int:
        """The samples of all blocks together."""
        return self.samples * self.blocks

    @property
    def statistics_file(self) -> Path | None:
        """The path of `statistics`."""
        return self.file.parent / self.statistics if self.statistics else None


def read_protocol(name: str, folder: Path = PROTOCOLS) -> Protocol:
    """The protocol of that name in a folder, or in a file if the name ends in .yaml.

    Raises UserError for an unknown name, key or value, for a name that cannot be a part of a path, and for a resizer
    that the extractor does not take.
    """
    path = Path(name) if name.endswith(".yaml") else folder / f"{check_name(name, 'protocol')}.yaml"
    check_name(path.stem, "protocol", str(path))
    if not path.is_file():
        raise unknown("protocol", name, [known.stem for known in path.parent.glob("*.yaml")], str(path.parent))
    document = read_yaml(path)
    for key in ("name", "file"):
        if key in document:
            raise UserError(f"{path}: '{key}' cannot be set: it follows from the path of the file")
    protocol = check(Protocol, {"name": path.stem, **document}, str(path))
    _check_resizer(protocol, path)
    return dataclasses.replace(protocol, file=path)


def _check_resizer(protocol: Protocol, path: Path) -> None:
    if "/" in protocol.extractor:
        RunName.parse(protocol.extractor)
        known: tuple[str, ...] = ("none",)
    else:
        known = registry.get("weights", protocol.extractor, str(path)).resizers
    if not known:
        raise UserError(f"{path}: '{protocol.extractor}' gives no features to score with")
    if protocol.resizer not in known:
        raise unknown("resizer", protocol.resizer, known, f"{path}, extractor {protocol.extractor}")
