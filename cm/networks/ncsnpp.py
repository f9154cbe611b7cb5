"""The networks of score SDE (Song et al., 2021): NCSN++ and DDPM++, as jcm and EDM train them on CIFAR-10.

The defaults describe jcm's NCSN++ (56,395,523 parameters). EDM's DDPM++ is the preset `cm.networks.ddpmpp`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

from cm.config.settings import at_least, at_most, below
from cm.errors import UserError
from cm.networks.plan import Block, UNet
from cm.registry import register

if TYPE_CHECKING:
    import torch

Coefficient = Annotated[int, at_least(-(10**6)), at_most(10**6)]


@register("network", "ncsnpp")
@dataclasses.dataclass(frozen=True)
class NCSNpp(UNet):
    """A U-Net of residual blocks with additive time conditioning and single-head attention.

    `resolution`: height and width of the images in pixels. `image_channels`: channels of the images. `channels`: width
    of the first level. `multipliers`: the width of each level as a multiple of `channels`, from the highest resolution
    to the lowest. `blocks`: residual blocks of a level in the encoder. `attention`: the resolutions that have
    attention. `dropout`: probability that an activation of a residual block is dropped. `embedding`: of the noise
    level, random Fourier features or sinusoidal. `fourier_scale`: standard deviation of the Fourier frequencies.
    `encoder`: `residual` adds the downsampled input image at each level, `standard` does not. `resample_filter`:
    coefficients of the separable resampling filter. `classes`: number of class labels, 0 for an unconditional network.
    `augment_dim`: length of the augmentation labels, 0 for none. `noise_channels`: width of the noise embedding as a
    multiple of `channels`. `patch`: side of the square patches of pixels that become the channels of one place before
    the first convolution; 2 makes all levels half as wide and high. `double_norm`: whether the noise embedding scales
    and shifts the normalised activations, with scales and shifts that are normalised too, instead of being added.
    `two_times`: whether the network is conditioned on two times, as methods need that learn the way from one time to
    another; both have the same embedding.
    """

    resolution: Annotated[int, at_least(1), at_most(8192)] = 32
    image_channels: Annotated[int, at_least(1), at_most(1024)] = 3
    channels: Annotated[int, at_least(4), at_most(16384)] = 128
    multipliers: tuple[Annotated[int, at_least(1), at_most(64)], ...] = (2, 2, 2)
    blocks: Annotated[int, at_least(1), at_most(100)] = 4
    attention: tuple[Annotated[int, at_least(1), at_most(8192)], ...] = (16,)
    dropout: Annotated[float, at_least(0.0), below(1.0)] = 0.0
    embedding: Literal["fourier", "positional"] = "fourier"
    fourier_scale: Annotated[float, at_least(0.0), at_most(1e6)] = 16.0
    encoder: Literal["residual", "standard"] = "residual"
    resample_filter: tuple[Coefficient, ...] = (1, 3, 3, 1)
    classes: Annotated[int, at_least(0), at_most(10**6)] = 0
    augment_dim: Annotated[int, at_least(0), at_most(10**4)] = 0
    noise_channels: Annotated[int, at_least(1), at_most(64)] = 2
    patch: Annotated[int, at_least(1), at_most(256)] = 1
    double_norm: bool = False
    two_times: bool = False

    def build(self) -> torch.nn.Module:
        """The module, freshly initialised from torch's global generator."""
        self.check()
        from cm.networks.modules.song_unet import SongUNet

        return SongUNet(self)

    def check(self, where: str = "network") -> None:
        """UserError for values that no network can have."""
        self._check_filter(where)
        if self.channels * self.noise_channels % 2:
            raise UserError(f"{where}: channels must be even, for as many sines as cosines, not {self.channels}")
        if self.resolution % self.patch:
            raise UserError(
                f"{where}: resolution {self.resolution} cannot be divided into patches of {self.patch} pixels"
            )
        self.check_plan(where)

    @property
    def top_resolution(self) -> int:
        """The resolution of the first level, in patches."""
        return self.resolution // self.patch

    @property
    def patch_channels(self) -> int:
        """The values of a patch."""
        return self.image_channels * self.patch**2

    @property
    def scale_shift(self) -> bool:
        """The noise embedding is added only, but for the double normalisation."""
        return self.double_norm

    @property
    def group_channels(self) -> int:
        """Fewest channels of a normalisation group."""
        return 4

    @property
    def stem(self) -> int:
        """Width after the first convolution."""
        return self.channels

    def heads(self, width: int) -> int:
        """Attention heads at a width."""
        return 1

    def projects(self, block: Block) -> bool:
        """Whether the residual path of a block has a convolution of its own."""
        return bool(block.resample) or block.width_in != block.width

    def decoder_attends(self, index: int) -> bool:
        """Only the last block of a level attends in the decoder."""
        return index == self.blocks

    def pyramid(self) -> list[str]:
        """Names of the layers that bring the input down to each resolution."""
        levels = range(1, len(self.multipliers)) if self.encoder == "residual" else ()
        return [f"enc.{self.size(level)}_aux_residual" for level in levels]

    def filtered_layers(self) -> list[str]:
        """Names in the state dict of the layers that have a resampling filter."""
        return [*super().filtered_layers(), *self.pyramid()]

    def _check_filter(self, where: str) -> None:
        found = self.resample_filter
        if len(found) < 2 or len(found) % 2 or sum(found) == 0:
            needed = "an even number of coefficients with a non-zero sum"
            raise UserError(f"{where}: resample_filter needs {needed}, not {found}")
