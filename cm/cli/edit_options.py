"""The groups of options of the command `edit`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cm import config
from cm.cli.options import IMAGES, PROTOCOL, REFERENCE, WholeNumber, group
from cm.cli.paths import IN_FILE, OUT_FILE, InputText
from cm.cli.sampling import PREVIEW
from cm.config.layout import EDIT_PREVIEW_COUNT
from cm.errors import UserError

if TYPE_CHECKING:
    from cm.diffusion.operators import Operator
    from cm.evaluation.edit_scores import Scorer

LABELS = InputText(lambda text: text.endswith(".npy"))


@dataclasses.dataclass(frozen=True)
class EditRequest:
    """Which edit is made of which images."""

    edit: str
    images: Path | None
    mask: Path | None
    labels: str | None
    count: int | None
    seed: int | None

    def check(self) -> Any:
        """The edit. Raises UserError if it has no images, or is an interpolation, which has none, and has some."""
        found = config.parse_edit(self.edit)
        needs_images = self.edit.partition(",")[0] != "interpolation"
        if needs_images and self.images is None:
            raise UserError(f"edit '{self.edit}' needs the images that are edited (--images)")
        if not needs_images and self.images is not None:
            raise UserError(f"edit '{self.edit}' is between noises and takes no images")
        if self.mask is not None and not getattr(found, "needs_mask", False):
            raise UserError(f"edit '{self.edit}' takes no mask")
        return found


request_options = group(
    "request",
    EditRequest,
    click.option(
        "--edit", required=True, help="inpainting,mask~half, colorization, superresolution,patch~4, stroke, ..."
    ),
    click.option("--images", type=IMAGES, help="originals: a folder, a zip, a .npz or a .npy of 8-bit images"),
    click.option("--mask", type=IN_FILE, help="image file whose white pixels are known, for inpainting"),
    click.option("--labels", type=LABELS, help="class of all images, or a .npy file with one for each"),
    click.option("--count", type=WholeNumber(1), help="number of images, the first ones  [default: all; 16 pairs]"),
    click.option("--seed", type=WholeNumber(0, config.MAX_SEED), help="of the noise; by default the run's"),
)


@dataclasses.dataclass(frozen=True)
class EditingChanges:
    """How the network is called."""

    precision: str | None
    batch: int | None


computing_options = group(
    "changes",
    EditingChanges,
    click.option(
        "--precision", type=click.Choice(["bfloat16", "float16", "float32"]), help="of the network  [default: float32]"
    ),
    click.option("--batch", type=WholeNumber(1), help="images at a time  [default: 256]"),
)


@dataclasses.dataclass(frozen=True)
class EditFiles:
    """What the command writes, at least one of it."""

    out: Path | None
    preview: Path | None
    score: Path | None

    def check(self) -> None:
        """UserError if nothing is to be written."""
        if not (self.out or self.preview or self.score):
            raise UserError("nothing is to be written: give --out, --preview or --score")


output_options = group(
    "outputs",
    EditFiles,
    click.option("--out", type=OUT_FILE, help=".npy file for the edited images"),
    click.option(
        "--preview",
        type=PREVIEW,
        help=f".npy file for the first {EDIT_PREVIEW_COUNT} with what was given and the originals; a .png beside it",
    ),
    click.option("--score", type=OUT_FILE, help=".json file for the scores of the edit and of simple baselines"),
)


@dataclasses.dataclass(frozen=True)
class EditScoring:
    """How edited images are scored."""

    protocol: str | None
    reference: Path | None
    extractor: Path | None
    perceptual: Path | None

    def make_scorer(self, operator: Operator, shape: tuple[int, int, int], devices: tuple[str, ...]) -> Scorer:
        """The scorer of images of `shape` (C, H, W); UserError for options that are missing or do not fit."""
        if self.protocol is None or self.reference is None:
            raise UserError("--score needs the real images (--reference) and how to compare with them (--protocol)")
        from cm import build
        from cm.cli.options import Comparison
        from cm.evaluation.edit_scores import Scorer
        from cm.evaluation.features import Compute

        comparison = Comparison(self.protocol, self.extractor, self.reference)
        protocol = comparison.read()
        distance = build.load_perceptual_distance(self.perceptual, shape)[0] if self.perceptual else None
        make_extractor = comparison.make_extractor(protocol)
        return Scorer(operator, distance, self.reference, protocol, make_extractor, Compute(devices=devices))

    def describe(self) -> dict[str, str | None]:
        """The network of the perceptual distance."""
        from cm.checkpoints import native

        if self.perceptual is None:
            return {"perceptual": None}
        description = native.description(self.perceptual)
        return {"perceptual": description.get("weights") or description.get("run")}


edit_scoring_options = group(
    "scoring",
    EditScoring,
    click.option("--protocol", type=PROTOCOL, help=f"with --score: a name in {config.PROTOCOLS}, or a .yaml file"),
    click.option("--reference", type=REFERENCE, help="with --score: real images, their summary or their statistics"),
    click.option("--extractor", type=IN_FILE, help="with --score: file of the protocol's extractor"),
    click.option("--perceptual", type=IN_FILE, help="with --score: weights of LPIPS, or a classifier"),
)
