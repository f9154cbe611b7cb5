"""The networks of score SDE (Song et al., 2021): NCSN++ and DDPM++, as jcm and EDM train them on CIFAR-10.

The defaults describe jcm's NCSN++ (56,395,523 parameters). EDM's DDPM++ (55,732,739 parameters) is
`embedding: positional`, `noise_channels: 1`, `encoder: standard`, `resample_filter: [1, 1]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cm.errors import UserError, unknown
from cm.registry import register, setting

if TYPE_CHECKING:
    import torch

EMBEDDINGS = ("fourier", "positional")
ENCODERS = ("residual", "standard")


@dataclasses.dataclass(frozen=True)
class Block:
    """One residual block of the plan; `name` is EDM's, `joins` means that a skip connection is concatenated first."""

    name: str
    width_in: int
    width: int
    resample: str = ""
    attention: bool = False
    joins: bool = False

    @property
    def projects(self) -> bool:
        """Whether the residual path has a convolution of its own."""
        return bool(self.resample) or self.width_in != self.width


@register("network", "ncsnpp")
@dataclasses.dataclass(frozen=True)
class NCSNpp:
    """A U-Net of residual blocks with additive time conditioning and single-head attention."""

    resolution: int = setting(32, low=1)
    image_channels: int = setting(3, low=1)
    channels: int = setting(128, low=4)
    multipliers: list[int] = setting([2, 2, 2])
    blocks: int = setting(4, low=1)
    attention: list[int] = setting([16])
    dropout: float = setting(0.0, low=0.0, below=1.0)
    embedding: str = setting("fourier")
    fourier_scale: float = setting(16.0, low=0.0)
    encoder: str = setting("residual")
    resample_filter: list[int] = setting([1, 3, 3, 1])
    classes: int = setting(0, low=0)
    augment_dim: int = setting(0, low=0)
    noise_channels: int = setting(2, low=1)

    def build(self) -> torch.nn.Module:
        """The module, freshly initialised from torch's global generator."""
        self.check()
        from cm.networks.modules.song_unet import SongUNet

        return SongUNet(self)

    def check(self, where: str = "network") -> None:
        """UserError for values that no network can have."""
        for what, word, known in (("embedding", self.embedding, EMBEDDINGS), ("encoder", self.encoder, ENCODERS)):
            if word not in known:
                raise unknown(what, word, known, where)
        for problem in (self._bad_list(), self._bad_resolution(), self._bad_width()):
            if problem:
                raise UserError(f"{where}: {problem}")

    def encoder_blocks(self) -> list[Block]:
        """Residual blocks from the image down; the first follows the `{R}x{R}_conv` convolution."""
        return list(self._encoder())

    def decoder_blocks(self) -> list[Block]:
        """Residual blocks from the lowest resolution up to the image."""
        return list(self._decoder())

    def size(self, level: int) -> str:
        """The resolution of a level as EDM writes it in names: '16x16'."""
        return f"{self.resolution >> level}x{self.resolution >> level}"

    def _encoder(self) -> Iterator[Block]:
        width = self.channels
        for level, multiplier in enumerate(self.multipliers):
            if level:
                yield Block(f"{self.size(level)}_down", width, width, resample="down")
            for index in range(self.blocks):
                name = f"{self.size(level)}_block{index}"
                yield Block(name, width, self.channels * multiplier, attention=self._attends(level))
                width = self.channels * multiplier

    def _decoder(self) -> Iterator[Block]:
        skips = [self.channels, *(block.width for block in self._encoder())]
        width, lowest = skips[-1], len(self.multipliers) - 1
        for level in range(lowest, -1, -1):
            yield from self._entry(level, width, lowest)
            for index in range(self.blocks + 1):
                name, width_in = f"{self.size(level)}_block{index}", width + skips.pop()
                width = self.channels * self.multipliers[level]
                attention = index == self.blocks and self._attends(level)
                yield Block(name, width_in, width, attention=attention, joins=True)

    def _entry(self, level: int, width: int, lowest: int) -> Iterator[Block]:
        if level < lowest:
            yield Block(f"{self.size(level)}_up", width, width, resample="up")
            return
        yield Block(f"{self.size(level)}_in0", width, width, attention=True)
        yield Block(f"{self.size(level)}_in1", width, width)

    def _attends(self, level: int) -> bool:
        return self.resolution >> level in self.attention

    def _bad_list(self) -> str:
        if not self.multipliers or min(self.multipliers) < 1:
            return f"multipliers must be one positive number per level, not {self.multipliers}"
        taps = self.resample_filter
        if len(taps) < 2 or len(taps) % 2 or sum(taps) == 0:
            return f"resample_filter needs an even number of taps with a non-zero sum, not {taps}"
        return ""

    def _bad_resolution(self) -> str:
        halvings = len(self.multipliers) - 1
        if self.resolution >= 1 and self.resolution % 2**halvings == 0:
            return ""
        return f"resolution {self.resolution} cannot be halved {halvings} times, as {len(self.multipliers)} levels need"

    def _bad_width(self) -> str:
        blocks = [*self._encoder(), *self._decoder()]
        for width in sorted({width for block in blocks for width in (block.width_in, block.width)}):
            if width < 4 or width % groups(width):
                return f"channels {self.channels}: {width} channels cannot be split into equal groups of at least 4"
        return ""


def groups(width: int) -> int:
    """GroupNorm groups for a number of channels, in EDM and jcm."""
    return min(32, width // 4)
