"""The layers of the U-Nets: convolutions with resampling, normalisation, noise embeddings, attention.

The arithmetic is that of EDM's `training/networks.py` (Karras et al., 2022), for the networks of score SDE and for ADM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cm.networks.plan import UNet

Initialiser = Callable[["nn.Linear | nn.Conv2d"], None]


def xavier(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> None:
    """Xavier-uniform weights times `gain`, biases zero: the networks of score SDE."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def uniform(layer: nn.Linear | nn.Conv2d) -> None:
    """Weights and biases uniform within 1/sqrt(inputs of a unit): ADM."""
    bound = 1 / math.sqrt(layer.weight[0].numel())
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.uniform_(layer.bias, -bound, bound)


def normal(layer: nn.Linear | nn.Conv2d) -> None:
    """Standard normal weights."""
    fill_normal(layer.weight, 1.0)


def zero(layer: nn.Linear | nn.Conv2d) -> None:
    """Weights and biases zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def fill_normal(tensor: Tensor, scale: float) -> Tensor:
    """Fill a tensor from N(0, scale^2), except on the meta device, where that would import torch's decompositions."""
    return tensor if tensor.is_meta else nn.init.normal_(tensor, std=scale)


class Linear(nn.Linear):
    """[B, I] -> [B, O]."""

    def __init__(self, width_in: int, width: int, *, init: Initialiser, bias: bool = True) -> None:
        self.init = init
        super().__init__(width_in, width, bias)

    def reset_parameters(self) -> None:
        self.init(self)


class Conv(nn.Conv2d):
    """Convolution that keeps the image size: [B, I, H, W] -> [B, O, H, W]."""

    def __init__(self, width_in: int, width: int, kernel: int = 3, *, init: Initialiser) -> None:
        self.init = init
        super().__init__(width_in, width, kernel, padding=kernel // 2)

    def reset_parameters(self) -> None:
        self.init(self)


class Downsample(nn.Module):
    """Downsampling by two with a filter: [B, C, H, W] -> [B, C, H/2, W/2]."""

    resample_filter: Tensor

    def __init__(self, resample_filter: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("resample_filter", filter_kernel(resample_filter))

    def forward(self, x: Tensor) -> Tensor:
        return apply_filter(x, self.resample_filter, stride=2)


class Upsample(nn.Module):
    """Upsampling by two with a filter: [B, C, H, W] -> [B, C, 2H, 2W]."""

    resample_filter: Tensor

    def __init__(self, resample_filter: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("resample_filter", filter_kernel(resample_filter))

    def forward(self, x: Tensor) -> Tensor:
        return upsample(x, self.resample_filter)


class ResamplingConv(Conv):
    """A convolution with a resampling filter."""

    resample_filter: Tensor

    def __init__(
        self, width_in: int, width: int, kernel: int, *, resample_filter: Sequence[int], init: Initialiser
    ) -> None:
        super().__init__(width_in, width, kernel, init=init)
        self.register_buffer("resample_filter", filter_kernel(resample_filter))


class DownsampleConv(ResamplingConv):
    """Downsampling, then convolution: [B, I, H, W] -> [B, O, H/2, W/2]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(apply_filter(x, self.resample_filter, stride=2))


class UpsampleConv(ResamplingConv):
    """Upsampling, then convolution: [B, I, H, W] -> [B, O, 2H, 2W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(upsample(x, self.resample_filter))


class StridedDownsampleConv(ResamplingConv):
    """The filter at full size, then a convolution with stride 2: the input pyramid of NCSN++'s residual encoder.

    Filter and convolution commute, so this equals EDM's fused order (convolution first) at a quarter of its cost.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = apply_filter(x, self.resample_filter, stride=1, margin=self.kernel_size[0] // 2)
        return F.conv2d(x, self.weight, self.bias, stride=2)


class GroupNorm(nn.GroupNorm):
    """GroupNorm whose result has the dtype and the memory format of its input.

    Autocast computes it in float32 on GPUs, and the kernels of most releases of torch for GPUs return channels-first.
    """

    def forward(self, x: Tensor) -> Tensor:
        channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if channels_last else torch.preserve_format
        return super().forward(x).to(x.dtype, memory_format=memory_format)


class Fourier(nn.Module):
    """Random Fourier features of a noise label: [B] -> [B, width], sines before cosines; N(0, scale^2) frequencies."""

    freqs: Tensor

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("freqs", fill_normal(torch.empty(width // 2), scale))

    def forward(self, labels: Tensor) -> Tensor:
        return sines_cosines(labels, 2 * math.pi * self.freqs)


class Positional(nn.Module):
    """Sinusoidal embedding of a noise label: [B] -> [B, width], frequencies falling geometrically from 1.

    In score SDE the last frequency is 1e-4, and sines come before cosines. In ADM (`adm`) the frequency after the last
    would be 1e-4, and cosines come before sines.
    """

    def __init__(self, width: int, *, adm: bool = False) -> None:
        super().__init__()
        self.frequencies, self.adm = width // 2, adm

    def forward(self, labels: Tensor) -> Tensor:
        """The features of noise labels [B], [B, width]."""
        count = self.frequencies
        falling = -math.log(1e4) * torch.arange(count, dtype=torch.float32, device=labels.device)
        frequencies = (falling / (count if self.adm else count - 1)).exp().to(labels.dtype)
        features = sines_cosines(labels, frequencies)
        return features.roll(count, dims=1) if self.adm else features


def embed_labels(embedding: nn.Module, labels: Tensor) -> Tensor:
    """The features of noise labels [B], [B, width], or those of labels [B, n] side by side, [B, n width]."""
    columns = labels.reshape(len(labels), -1).unbind(1)
    return torch.cat([embedding(column) for column in columns], dim=1)


def sines_cosines(labels: Tensor, frequencies: Tensor) -> Tensor:
    """sin and cos of every label times every frequency: [B], [n] -> [B, 2n]."""
    phases = labels[:, None] * frequencies
    return torch.cat([phases.sin(), phases.cos()], dim=1)


def filter_kernel(resample_filter: Sequence[int]) -> Tensor:
    """The separable two-dimensional filter with these coefficients, normalised to sum 1: float32 [1, 1, n, n]."""
    kernel = np.outer(resample_filter, resample_filter) / sum(resample_filter) ** 2
    return torch.tensor(kernel[None, None], dtype=torch.float32)


def filters(net: UNet) -> dict[str, Tensor]:
    """The resampling filters in the state dict of a network, by their names."""
    return {f"{name}.resample_filter": filter_kernel(net.resample_filter) for name in net.filtered_layers()}


def apply_filter(x: Tensor, kernel: Tensor, *, stride: int, margin: int = 0) -> Tensor:
    """Convolve every channel with `kernel` and keep every `stride`-th pixel.

    The result is `margin` pixels larger on each side than the image; there are zeros outside.
    """
    width = x.shape[1]
    padding = (kernel.shape[-1] - 1) // 2 + margin
    return F.conv2d(x, kernel.expand(width, -1, -1, -1), stride=stride, padding=padding, groups=width)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Insert a zero after every pixel and filter with 4 x `kernel`: [B, C, H, W] -> [B, C, 2H, 2W]."""
    width = x.shape[1]
    kernel = (4 * kernel).expand(width, -1, -1, -1)
    return F.conv_transpose2d(x, kernel, stride=2, padding=(kernel.shape[-1] - 1) // 2, groups=width)


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention over pixels: [B, 3C, H, W] -> [B, C, H, W]; channels are ordered (heads, C / heads, three)."""
    batch, width, *size = qkv.shape
    parts = qkv.reshape(batch, heads, width // (3 * heads), 3, math.prod(size))
    # The fused kernels want each pixel's channels side by side; one copy does it for all three.
    query, key, value = parts.permute(3, 0, 1, 4, 2).contiguous().unbind(0)
    mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(2, 3).reshape(batch, width // 3, *size)
