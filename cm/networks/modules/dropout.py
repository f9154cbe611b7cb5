"""Dropout whose mask is a function of the seed of each image.

The mask of an image must depend neither on the images beside it, nor on the order of the layers, nor on how often the
forward pass is repeated. So it is not drawn from a generator: it is a hash of a counter (Salmon et al., 2011, "Parallel
random numbers: as easy as 1, 2, 3"). With the 32-bit mixing function h = `mix` (lowbias32 of C. Wellons' hash
prospector, which changes each output bit with probability near 1/2 when one input bit changes), the random word of
element i is

    word(seed, layer, i) = h( h(i xor layer) xor key ),    key = h( low(seed) xor h( high(seed) xor h(layer) ) ),

where `layer` is a constant of the layer. The inner hash is the same for all images. One word serves two elements, 16
bits each: an element is dropped if its 16 bits are among the round(65536 p) lowest values.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 1 << 16


class Dropout(nn.Module):
    """Zeroes each element with probability p and divides the others by 1 - p: [B, ...] -> [B, ...].

    `seeds`: int64 [B]; the masks of the images follow from them. Without seeds the mask is drawn from torch's
    generator. In evaluation, or with p = 0, the input is returned.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.constant = p, 0

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """x with dropped elements and the scaled others, [B, ...]."""
        if not self.training or self.p == 0:
            return x
        if seeds is None:
            return F.dropout(x, self.p)
        mask = dropped(seeds, x.shape, layer=self.constant, p=self.p)
        return x * ~mask / (1 - self.p)  # keeps the memory format of x, which `masked_fill` and `where` do not

    def extra_repr(self) -> str:
        return f"p={self.p}"


def name_dropout_layers(network: nn.Module) -> None:
    """Give every dropout layer of a network a constant of its own, the CRC-32 of its name in the network."""
    for name, module in network.named_modules():
        if isinstance(module, Dropout):
            module.constant = _signed(zlib.crc32(name.encode()))


def dropped(seeds: Tensor, shape: Sequence[int], *, layer: int, p: float) -> Tensor:
    """Which elements of a tensor of that shape [B, ...] are dropped: bool, each true with probability p."""
    count = math.prod(shape[1:])
    halves = random_words(seeds, (count + 1) // 2, layer).view(torch.int16)
    threshold = min(round(p * LEVELS), LEVELS - 1) - LEVELS // 2
    return (halves[:, :count] < threshold).view(shape)


def random_words(seeds: Tensor, count: int, layer: int) -> Tensor:
    """`count` words of 32 uniform random bits for each seed int64 [B]: int32 [B, count]."""
    low, high = seeds.to(torch.int32), (seeds >> 32).to(torch.int32)
    constant = torch.full_like(low[:1], layer)
    key = mix(mix(mix(constant) ^ high) ^ low)
    position = torch.arange(count, dtype=torch.int32, device=seeds.device)
    return mix(mix(position ^ constant) ^ key[:, None])


def mix(word: Tensor) -> Tensor:
    """lowbias32, a bijection of 32-bit words that decorrelates them, on int32 (which wraps): [...] -> [...]."""
    word = (word ^ _shift(word, 16)) * 0x7FEB352D
    word = (word ^ _shift(word, 15)) * _signed(0x846CA68B)
    return word ^ _shift(word, 16)


def _shift(word: Tensor, bits: int) -> Tensor:
    """Shift to the right, with zeros from the left."""
    return (word >> bits) & ((1 << (32 - bits)) - 1)


def _signed(word: int) -> int:
    """The int32 that has the same bits as an unsigned 32-bit word."""
    return word - (1 << 32) if word >= 1 << 31 else word
