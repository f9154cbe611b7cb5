"""ADM, the U-Net of Dhariwal and Nichol (2021), as OpenAI trains it on ImageNet and LSUN and EDM on ImageNet.

With `classes: 1000` the defaults describe OpenAI's ImageNet-64 network (295,899,267 parameters). Its LSUN-256 network
(526,304,771 parameters) is `resolution: 256`, `channels: 256`, `multipliers: [1, 1, 2, 2, 4, 4]`, `blocks: 2`,
`scale_shift: false`. EDM's ImageNet-64 network is `classes: 1000`, `noise_factor: 1`, `group_channels: 4`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from cm.config.settings import at_least, at_most, below
from cm.errors import UserError
from cm.networks.plan import Block, UNet
from cm.registry import register

if TYPE_CHECKING:
    import torch


@register("network", "adm")
@dataclasses.dataclass(frozen=True)
class ADM(UNet):
    """A U-Net of residual blocks with time conditioning by scale and shift, and multi-head attention.

    `resolution`: height and width of the images in pixels. `image_channels`: channels of the images. `channels`: width
    that the multipliers refer to. `multipliers`: the width of each level as a multiple of `channels`, from the highest
    resolution to the lowest. `blocks`: residual blocks of a level in the encoder. `attention`: the resolutions that
    have attention. `head_channels`: channels of an attention head. `dropout`: probability that an activation of a
    residual block is dropped. `classes`: number of class labels, 0 for an unconditional network. `scale_shift`: whether
    the conditioning scales and shifts the normalised activations, or is added before the normalisation. `augment_dim`:
    length of the augmentation labels, 0 for none. `noise_factor`: factor of the noise label, 1000 in OpenAI's networks
    and 1 in EDM's. `group_channels`: fewest channels of a normalisation group, 1 in OpenAI's networks (which always
    have 32 groups) and 4 in EDM's. `double_norm`: whether those scales and shifts are normalised too, each over the
    channels, for consistency models in continuous time. `two_times`: whether the network is conditioned on two times,
    as methods need that learn the way from one time to another; both have the same embedding.
    """

    resolution: Annotated[int, at_least(1), at_most(8192)] = 64
    image_channels: Annotated[int, at_least(1), at_most(1024)] = 3
    channels: Annotated[int, at_least(4), at_most(16384)] = 192
    multipliers: tuple[Annotated[int, at_least(1), at_most(64)], ...] = (1, 2, 3, 4)
    blocks: Annotated[int, at_least(1), at_most(100)] = 3
    attention: tuple[Annotated[int, at_least(1), at_most(8192)], ...] = (32, 16, 8)
    head_channels: Annotated[int, at_least(1), at_most(16384)] = 64
    dropout: Annotated[float, at_least(0.0), below(1.0)] = 0.0
    classes: Annotated[int, at_least(0), at_most(10**6)] = 0
    scale_shift: bool = True
    augment_dim: Annotated[int, at_least(0), at_most(10**4)] = 0
    noise_factor: Annotated[float, at_least(0.0), at_most(1e6)] = 1000.0
    group_channels: Annotated[int, at_least(1), at_most(16384)] = 1
    double_norm: bool = False
    two_times: bool = False

    def build(self) -> torch.nn.Module:
        """The module, freshly initialised from torch's global generator."""
        self.check()
        from cm.networks.modules.adm_unet import ADMUNet

        return ADMUNet(self)

    def check(self, where: str = "network") -> None:
        """UserError for values that no network can have."""
        if self.channels % 2:
            raise UserError(f"{where}: channels must be even, for as many sines as cosines, not {self.channels}")
        if self.double_norm and not self.scale_shift:
            raise UserError(f"{where}: double_norm normalises scales and shifts: it needs 'scale_shift: true'")
        self.check_plan(where)

    @property
    def resample_filter(self) -> tuple[int, ...]:
        """A box: the mean of 2x2 pixels."""
        return (1, 1)

    @property
    def stem(self) -> int:
        """Width after the first convolution."""
        return self.channels * self.multipliers[0]

    def heads(self, width: int) -> int:
        """Attention heads at a width; a width that is no multiple of `head_channels` has none."""
        return 0 if width % self.head_channels else width // self.head_channels

    def projects(self, block: Block) -> bool:
        """Whether the residual path of a block has a convolution of its own."""
        return block.width_in != block.width

    def decoder_attends(self, index: int) -> bool:
        """All blocks of the decoder attend where the encoder's do."""
        return True
