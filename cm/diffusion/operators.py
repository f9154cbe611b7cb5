"""What is known of images that are edited, and how it is put back into an estimate of them.

In Algorithm 4 of the paper an invertible linear map A and a binary mask Omega (0 where A y is known) say what is known
of an image y, and every estimate x has it replaced:

    x <- A^-1[(A y) (1 - Omega) + (A x) Omega]

For the orthogonal A of the paper this is P y + (x - P x) with the orthogonal projection P = A^-1 (1 - Omega) A, so an
operator is stated by P. Images are [B, C, H, W] in [-1, 1].
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cm.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    Draw = Callable[[], Tensor]


class Operator(abc.ABC):
    """What is known of images, as a map from the images to what is given of them."""

    @abc.abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """P x, [B, C, H, W]: the part of the images that is known."""

    def observe(self, images: Tensor, draw: Draw) -> Tensor:
        """What is given of the images, [B, C, H, W]. `draw()` returns unit noise of their shape."""
        return self.project(images)

    def replace(self, given: Tensor, x: Tensor) -> Tensor:
        """P y + (x - P x), where `given` is P y: the images `x` with what is known, [B, C, H, W]."""
        return given + (x - self.project(x))

    def measure(self, x: Tensor) -> Tensor | None:
        """The quantities of images that are known, [B, ...] on the scale of pixels; None if none is kept."""
        return None

    def show(self, given: Tensor) -> Tensor:
        """What is given as a picture, [B, C, H, W]."""
        return given

    @abc.abstractmethod
    def baselines(self, given: Tensor) -> dict[str, Tensor]:
        """From the name of a simple method without a model to its images, [B, C, H, W]."""


@dataclass(frozen=True, eq=False)
class KnownPixels(Operator):
    """Inpainting: A = I. `mask`: [H, W], 1 where a pixel is known and 0 where it is not."""

    mask: Tensor

    def project(self, x: Tensor) -> Tensor:
        """The images with zeros in place of the unknown pixels."""
        return x * self.mask.to(x)

    def measure(self, x: Tensor) -> Tensor:
        """The known pixels, [B, C K]."""
        return x[:, :, self.mask.to(x.device) > 0].flatten(1)

    def show(self, given: Tensor) -> Tensor:
        """The images with black in place of the unknown pixels, as the official code returns them."""
        return given + self.mask.to(given) - 1

    def baselines(self, given: Tensor) -> dict[str, Tensor]:
        """The unknown pixels filled with the mean of the known ones of each image and channel, or with grey."""
        mask = self.mask.to(given)
        mean = given.sum((2, 3), keepdim=True) / mask.sum()
        return {"mean fill": given + (1 - mask) * mean, "grey fill": given}


@dataclass(frozen=True, eq=False)
class KnownGrey(Operator):
    """Colorization: A multiplies the channels by an orthogonal matrix whose first column is w / |w|.

    P x = u (u . x) with u = w / |w| at each pixel. `weights`: w, of the red, green and blue channel in a grey value.
    """

    weights: tuple[float, float, float]

    def project(self, x: Tensor) -> Tensor:
        """The component of each pixel along w."""
        w = x.new_tensor(self.weights)
        return self._multiply(x) * (w / w.square().sum()).reshape(1, 3, 1, 1)

    def measure(self, x: Tensor) -> Tensor:
        """The grey values w . x / sum(w), [B, 1, H, W]."""
        return self._multiply(x) / sum(self.weights)

    def show(self, given: Tensor) -> Tensor:
        """The grey images, with three equal channels."""
        return self.measure(given).expand(-1, 3, -1, -1)

    def baselines(self, given: Tensor) -> dict[str, Tensor]:
        """The grey images themselves."""
        return {"grey image": self.show(given)}

    def _multiply(self, x: Tensor) -> Tensor:
        # Not a product of matrices, which autocast would compute in lower precision.
        return (x * x.new_tensor(self.weights).reshape(-1, 1, 1)).sum(1, keepdim=True)


@dataclass(frozen=True, eq=False)
class KnownBlockMeans(Operator):
    """Super-resolution: A multiplies each block of pixels by an orthogonal matrix whose first column is constant.

    P x replaces every pixel by the mean of its block. `patch`: the height and width of a block.
    """

    patch: int

    def project(self, x: Tensor) -> Tensor:
        """The images with every pixel replaced by the mean of its block."""
        return self.measure(x).repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)

    def measure(self, x: Tensor) -> Tensor:
        """The means of the blocks: the images of low resolution, [B, C, H / patch, W / patch]."""
        return torch.nn.functional.avg_pool2d(x, self.patch)

    def baselines(self, given: Tensor) -> dict[str, Tensor]:
        """The images of low resolution, enlarged by bicubic interpolation and by repeating their pixels."""
        low = self.measure(given)
        size = given.shape[-2:]
        bicubic = torch.nn.functional.interpolate(low, size=size, mode="bicubic", align_corners=False)
        return {"bicubic upsampling": bicubic, "block means": given}


class NothingKept(Operator):
    """P = 0: what is given is where the edit starts, and no part of it is put back."""

    def project(self, x: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(x)


@dataclass(frozen=True, eq=False)
class NoisyImages(NothingKept):
    """Denoising: the images with noise. `sigma`: its standard deviation."""

    sigma: float

    def observe(self, images: Tensor, draw: Draw) -> Tensor:
        """y + sigma z."""
        return images + self.sigma * draw()

    def baselines(self, given: Tensor) -> dict[str, Tensor]:
        """The noisy images themselves."""
        return {"noisy image": given}


@dataclass(frozen=True, eq=False)
class StrokePaintings(NothingKept):
    """Stroke-guided generation: paintings of a few strokes of colour.

    They are made of images as SDEdit does (Meng et al. 2022, Appendix C.2): a median filter, and a palette of few
    colours. `median`: the width of the filter in pixels, odd; 1 for none. `colours`: of the palette of an image; 0
    takes the images themselves for paintings.
    """

    median: int
    colours: int

    def observe(self, images: Tensor, draw: Draw) -> Tensor:
        """The paintings of the images."""
        if self.colours == 0:
            return images
        levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
        paintings = torch.stack([self._paint(image) for image in levels])
        return (paintings.to(images) / 127.5 - 1).expand_as(images)

    def baselines(self, given: Tensor) -> dict[str, Tensor]:
        """The paintings themselves."""
        return {"stroke painting": given}

    def _paint(self, image: Tensor) -> Tensor:
        """The painting of one image, uint8 [C, H, W] both."""
        import numpy as np
        from PIL import Image, ImageFilter

        grey = len(image) == 1
        picture = Image.fromarray(image[0].numpy() if grey else image.permute(1, 2, 0).numpy())
        picture = picture.filter(ImageFilter.MedianFilter(self.median)).convert("RGB")
        painted = picture.quantize(self.colours, dither=Image.Dither.NONE).convert("L" if grey else "RGB")
        return torch.from_numpy(np.array(painted).reshape(*image.shape[1:], len(image))).permute(2, 0, 1)
