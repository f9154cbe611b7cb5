"""The residual blocks of a U-Net: the plan that NCSN++, DDPM++ and ADM share, with the block names of EDM."""

from __future__ import annotations

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from cm.errors import UserError

MOST_WEIGHTS = 10**10


@dataclasses.dataclass(frozen=True)
class Block:
    """One residual block. `name`: EDM's name of it. `joins`: a skip connection is concatenated to its input."""

    name: str
    width_in: int
    width: int
    resample: str = ""
    attention: bool = False
    joins: bool = False


def check_weights(count: int, where: str) -> None:
    """UserError if a network of about `count` weights is larger than any machine holds."""
    if count > MOST_WEIGHTS:
        raise UserError(f"{where}: a network of about {count:.1e} weights; at most {MOST_WEIGHTS:.0e} are supported")


class UNet(ABC):
    """The description of a U-Net, and the plan of blocks that follows from it. Widths are numbers of channels.

    `resolution`: of the images, in pixels. `image_channels`: of the images. `channels`: the width that `multipliers`
    refer to. `multipliers`: one for each level, from the image down; the resolution halves from level to level.
    `blocks`: residual blocks of a level in the encoder; the decoder has one more. `attention`: resolutions with
    self-attention. `dropout`: probability in the residual blocks. `classes`: number of classes, 0 for an unconditional
    network. `augment_dim`: length of the vector of augmentation labels, 0 without one. `two_times`: whether the network
    is conditioned on two times instead of one.
    """

    resolution: int
    image_channels: int
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    dropout: float
    classes: int
    augment_dim: int
    two_times: bool

    @property
    @abstractmethod
    def scale_shift(self) -> bool:
        """Whether the embedding scales and shifts the normalised activations, instead of being added before."""

    @property
    @abstractmethod
    def double_norm(self) -> bool:
        """Whether those scales and shifts are normalised too, each over the channels."""

    @property
    @abstractmethod
    def group_channels(self) -> int:
        """Fewest channels of a normalisation group."""

    @property
    @abstractmethod
    def resample_filter(self) -> Sequence[int]:
        """Coefficients of the separable resampling filter."""

    @property
    @abstractmethod
    def stem(self) -> int:
        """Width after the first convolution."""

    @abstractmethod
    def heads(self, width: int) -> int:
        """Attention heads at a width."""

    @abstractmethod
    def projects(self, block: Block) -> bool:
        """Whether the residual path of a block has a convolution of its own."""

    @abstractmethod
    def decoder_attends(self, index: int) -> bool:
        """Whether the decoder's block of that index attends, at a resolution with attention."""

    @property
    def noise_labels(self) -> int:
        """The noise labels of an image, one for each time."""
        return 2 if self.two_times else 1

    def encoder_blocks(self) -> list[Block]:
        """Residual blocks from the image down; the first follows the `{R}x{R}_conv` convolution."""
        return list(self._encoder())

    def decoder_blocks(self) -> list[Block]:
        """Residual blocks from the lowest resolution up to the image."""
        return list(self._decoder())

    def all_blocks(self) -> Iterator[tuple[str, Block]]:
        """Every residual block with its name in the state dict, in the order of the forward pass."""
        for part, blocks in (("enc", self._encoder()), ("dec", self._decoder())):
            yield from ((f"{part}.{block.name}", block) for block in blocks)

    def filtered_layers(self) -> list[str]:
        """Names in the state dict of the layers that have a resampling filter."""
        resampling = [name for name, block in self.all_blocks() if block.resample]
        return [f"{name}.{part}" for name, part in itertools.product(resampling, ("conv0", "skip"))]

    @property
    def top_resolution(self) -> int:
        """The resolution of the first level, in pixels or, for a network that joins pixels, in patches."""
        return self.resolution

    def size(self, level: int) -> str:
        """The resolution of a level as EDM writes it in names: '16x16'."""
        return f"{self.top_resolution >> level}x{self.top_resolution >> level}"

    def groups(self, width: int) -> int:
        """Groups of a normalisation: 32, or fewer so that each has at least `group_channels` channels."""
        return min(32, width // self.group_channels)

    def check_plan(self, where: str) -> None:
        """UserError for multipliers, a resolution or widths that no U-Net can have, and for too large a network."""
        for find in (self._bad_multipliers, self._bad_resolution, self._bad_width, self._bad_heads):
            if problem := find():
                raise UserError(f"{where}: {problem}")
        blocks = [block for _, block in self.all_blocks()]
        check_weights(sum(9 * block.width * (block.width_in + block.width) for block in blocks), where)

    def _encoder(self) -> Iterator[Block]:
        width = self.stem
        for level, multiplier in enumerate(self.multipliers):
            if level:
                yield Block(f"{self.size(level)}_down", width, width, resample="down")
            for index in range(self.blocks):
                name = f"{self.size(level)}_block{index}"
                yield Block(name, width, self.channels * multiplier, attention=self._attends(level))
                width = self.channels * multiplier

    def _decoder(self) -> Iterator[Block]:
        skips = [self.stem, *(block.width for block in self._encoder())]
        width, lowest = skips[-1], len(self.multipliers) - 1
        for level in range(lowest, -1, -1):
            yield from self._entry(level, width, lowest)
            for index in range(self.blocks + 1):
                name, width_in = f"{self.size(level)}_block{index}", width + skips.pop()
                width = self.channels * self.multipliers[level]
                attention = self.decoder_attends(index) and self._attends(level)
                yield Block(name, width_in, width, attention=attention, joins=True)

    def _entry(self, level: int, width: int, lowest: int) -> Iterator[Block]:
        if level < lowest:
            yield Block(f"{self.size(level)}_up", width, width, resample="up")
            return
        yield Block(f"{self.size(level)}_in0", width, width, attention=True)
        yield Block(f"{self.size(level)}_in1", width, width)

    def _attends(self, level: int) -> bool:
        return self.top_resolution >> level in self.attention

    def _bad_multipliers(self) -> str:
        if self.multipliers and min(self.multipliers) >= 1:
            return ""
        return f"multipliers must be one positive number per level, not {self.multipliers}"

    def _bad_resolution(self) -> str:
        halvings = len(self.multipliers) - 1
        if self.top_resolution >= 1 and self.top_resolution % 2**halvings == 0:
            return ""
        levels = f"{halvings} times, as {len(self.multipliers)} levels need"
        return f"resolution {self.top_resolution} cannot be halved {levels}"

    def _bad_width(self) -> str:
        blocks = [block for _, block in self.all_blocks()]
        widths = {block.width_in for block in blocks} | {block.width for block in blocks}
        for width in sorted(widths):
            if width < self.group_channels or width % self.groups(width):
                equal = f"equal groups of at least {self.group_channels}"
                return f"channels {self.channels}: {width} channels cannot be split into {equal}"
        return ""

    def _bad_heads(self) -> str:
        for _, block in self.all_blocks():
            if block.attention and (not self.heads(block.width) or block.width % self.heads(block.width)):
                return f"the {block.width} channels of {block.name} cannot be split into equal attention heads"
        return ""
