"""Zero-shot edits of images with a consistency model (paper, Section 6.3 and Appendix D).

An edit is a frozen dataclass whose fields are its settings, and its name states those that are not at their default,
as that of a sampler does: `inpainting,mask~half`, `superresolution,patch~4,times~5.0+1.0`. What is known of the images
is said by its operator (`cm.diffusion.operators`), and

    edit(denoise, operator, given, noise, draw) -> x [B, C, H, W]

makes images of what is given of them. `denoise(x, t)` estimates the clean images at times t [B]; `draw()` returns unit
noise of the shape of the images, each image from a random stream of its own.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from cm.config.settings import above, at_least, at_most, plain_name
from cm.diffusion.operators import (
    KnownBlockMeans,
    KnownGrey,
    KnownPixels,
    NoisyImages,
    Operator,
    StrokePaintings,
)
from cm.errors import UserError
from cm.lazy import torch
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from cm.diffusion.noise import KarrasNoise
    from cm.diffusion.operators import Draw
    from cm.diffusion.solvers import Denoise

Shape = tuple[int, int, int]  # C, H, W
Time = Annotated[float, at_least(0.0), at_most(1e6)]
Weight = Annotated[float, at_least(0.0), at_most(1.0)]


@dataclass(frozen=True)
class Edit(abc.ABC):
    """An edit of images. `shown`: the words for what is given and for the result. `needs_mask`: of known pixels."""

    shown: ClassVar[tuple[str, str]]
    needs_mask: ClassVar[bool] = False
    results: ClassVar[int] = 1  # of different noise, that a picture shows of each image

    @property
    @abc.abstractmethod
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""

    def check_images(self, shape: Shape, where: str) -> None:
        """Raises UserError, which names `where`, for images of a `shape` that cannot be edited so."""
        return

    @abc.abstractmethod
    def operator(self, shape: Shape, mask: Tensor | None = None) -> Operator:
        """What is known of images of `shape`.

        `mask`: [H, W], 1 where a pixel is known, for an edit that needs one.
        """

    @abc.abstractmethod
    def __call__(self, denoise: Denoise, operator: Operator, given: Tensor, noise: KarrasNoise, draw: Draw) -> Tensor:
        """The images [B, C, H, W] for what is `given` of them."""


@dataclass(frozen=True)
class Iterative(Edit):
    """Algorithm 4 of the paper.

        x ~ N(y, t_1^2 I);  x <- R(f(x, t_1));  for n = 2, 3, ...:  x <- R(f(x + sqrt(t_n^2 - eps^2) z, t_n))

    where y is what is given and R puts what is known back. `times`: t_1 > t_2 > ...; a time outside of [eps, T] is
    clipped to it. Without any, they are those of the noise grid of `steps` times but for the last, eps: the official
    code's functions take indices of that grid and state no others. `start`: `given` as in the algorithm, or `noise`
    for x = t_1 z, with which the official code's functions are meant to be called. `clamp`: clamp every estimate to
    [-1, 1] before R, as the official code does.
    """

    steps: Annotated[int, at_least(2), at_most(10**5)] = 40
    times: tuple[Time, ...] = ()
    start: Literal["given", "noise"] = "given"
    clamp: bool = False

    def check(self, where: str) -> None:
        """Raises UserError unless the times decrease and are positive."""
        if any(not t > 0 for t in self.times) or sorted(set(self.times), reverse=True) != list(self.times):
            raise UserError(f"{where}: times must be positive and decrease, not {list(self.times)}")

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        return len(self.times) or self.steps - 1

    def __call__(self, denoise: Denoise, operator: Operator, given: Tensor, noise: KarrasNoise, draw: Draw) -> Tensor:
        times = self._grid(noise)
        x = times[0] * draw() + (given if self.start == "given" else 0)
        for index, t in enumerate(times):
            if index:
                x = x + (t**2 - noise.sigma_min**2) ** 0.5 * draw()
            x = denoise(x, _times(t, x))
            x = operator.replace(given, x.clamp(-1, 1) if self.clamp else x)
        return x

    def _grid(self, noise: KarrasNoise) -> list[float]:
        times = self.times or noise.times(self.steps)[:-1]
        return [min(max(float(t), noise.sigma_min), noise.sigma_max) for t in times]


@register("edit", "inpainting")
@dataclass(frozen=True)
class Inpainting(Iterative):
    """Fill unknown pixels (Figure 10). `mask`: a pattern of `cm.data.masks`, or the name of the file that is given."""

    shown: ClassVar[tuple[str, str]] = ("masked", "inpainted")
    needs_mask: ClassVar[bool] = True
    mask: Annotated[str, plain_name("mask")] = "letter"

    def operator(self, shape: Shape, mask: Tensor | None = None) -> KnownPixels:
        """The known pixels; ValueError without a mask of the size of the images."""
        if mask is None or tuple(mask.shape) != shape[1:]:
            raise ValueError(f"inpainting needs a mask of {shape[1]}x{shape[2]} pixels")
        return KnownPixels(mask)


@register("edit", "colorization")
@dataclass(frozen=True)
class Colorization(Iterative):
    """Colour grey images (Figures 6a and 8). `weights`: of the red, green and blue channel in a grey value."""

    shown: ClassVar[tuple[str, str]] = ("grey", "colorized")
    weights: tuple[Weight, Weight, Weight] = (0.2989, 0.5870, 0.1140)

    def check(self, where: str) -> None:
        """Raises UserError for times that do not decrease, and for weights of which none is positive."""
        super().check(where)
        if not any(self.weights):
            raise UserError(f"{where}: one of the weights must be positive")

    def check_images(self, shape: Shape, where: str) -> None:
        """Raises UserError for images without three channels."""
        if shape[0] != 3:
            raise UserError(f"{where}: colorization needs images of 3 channels, not {shape[0]}")

    def operator(self, shape: Shape, mask: Tensor | None = None) -> KnownGrey:
        """The grey values."""
        return KnownGrey(self.weights)


@register("edit", "superresolution")
@dataclass(frozen=True)
class Superresolution(Iterative):
    """Enlarge images of low resolution (Figures 6b and 9). `patch`: the width of a block whose mean is known."""

    shown: ClassVar[tuple[str, str]] = ("low-res.", "enlarged")
    patch: Annotated[int, at_least(2), at_most(4096)] = 8

    def check_images(self, shape: Shape, where: str) -> None:
        """Raises UserError for images that the blocks do not tile, or that are a single block."""
        _, height, width = shape
        if height % self.patch or width % self.patch or max(height, width) <= self.patch:
            raise UserError(f"{where}: blocks of patch {self.patch} do not tile images of {height}x{width} pixels")

    def operator(self, shape: Shape, mask: Tensor | None = None) -> KnownBlockMeans:
        """The block means."""
        return KnownBlockMeans(self.patch)


@register("edit", "stroke")
@dataclass(frozen=True)
class Stroke(Iterative):
    """Stroke-guided generation as in SDEdit (Figures 6c and 13): Algorithm 4 where nothing is put back.

    The default times are the paper's. `median` and `colours`: of the paintings that are made of images, see
    `StrokePaintings`; with `colours` 0 the images are paintings.
    """

    shown: ClassVar[tuple[str, str]] = ("strokes", "generated")
    results: ClassVar[int] = 4
    times: tuple[Time, ...] = (5.38, 2.24)
    median: Annotated[int, at_least(1), at_most(255)] = 23
    colours: Annotated[int, at_least(0), at_most(256)] = 6

    def check(self, where: str) -> None:
        """Raises UserError for times that do not decrease, an even filter, and a start without the painting."""
        super().check(where)
        if self.median % 2 == 0:
            raise UserError(f"{where}: median must be odd, not {self.median}")
        if self.start == "noise":
            raise UserError(f"{where}: with start 'noise' nothing of the painting is used")

    def operator(self, shape: Shape, mask: Tensor | None = None) -> StrokePaintings:
        """The paintings."""
        return StrokePaintings(self.median, self.colours)


@register("edit", "denoising")
@dataclass(frozen=True)
class Denoising(Edit):
    """Remove noise of a known level in one evaluation, f(y + sigma z, sigma) (Figure 12).

    `sigma`: the standard deviation of the noise.
    """

    shown: ClassVar[tuple[str, str]] = ("noisy", "denoised")
    sigma: Annotated[float, above(0.0), at_most(1e6)] = 0.5

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        return 1

    def operator(self, shape: Shape, mask: Tensor | None = None) -> NoisyImages:
        """The noisy images."""
        return NoisyImages(self.sigma)

    def __call__(self, denoise: Denoise, operator: Operator, given: Tensor, noise: KarrasNoise, draw: Draw) -> Tensor:
        return denoise(given, _times(self.sigma, given))


@register("edit", "interpolation")
@dataclass(frozen=True)
class Interpolation:
    """Samples between two samples, f(T slerp(z_1, z_2, alpha), T) (Figure 11). `points`: values of alpha in [0, 1]."""

    needs_mask: ClassVar[bool] = False
    points: Annotated[int, at_least(2), at_most(64)] = 8

    def check_images(self, shape: Shape, where: str) -> None:
        """Samples of any shape can be interpolated."""

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        return 1

    def __call__(self, denoise: Denoise, first: Tensor, last: Tensor, noise: KarrasNoise) -> Tensor:
        """The samples [B, points, C, H, W] between those of unit noise `first` and `last` [B, C, H, W]."""
        alphas = [index / (self.points - 1) for index in range(self.points)]
        at_t = _times(noise.sigma_max, first)
        rows = [denoise(noise.sigma_max * slerp(first, last, alpha), at_t) for alpha in alphas]
        return torch.stack(rows, dim=1)


def slerp(first: Tensor, last: Tensor, alpha: float) -> Tensor:
    """Spherical linear interpolation of each image, [B, C, H, W] (Appendix D of the paper).

    (sin((1 - alpha) psi) z_1 + sin(alpha psi) z_2) / sin(psi), where psi is the angle between z_1 and z_2.
    """
    a, b = first.flatten(1).double(), last.flatten(1).double()
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    psi = cosine.clamp(-1, 1).acos().reshape(-1, 1)
    mixed = (((1 - alpha) * psi).sin() * a + (alpha * psi).sin() * b) / psi.sin()
    return mixed.reshape(first.shape).to(first)


def _times(t: float, x: Tensor) -> Tensor:
    """The time `t` for each image of `x`, [B], float64."""
    return x.new_full((len(x),), float(t), dtype=torch.float64)
