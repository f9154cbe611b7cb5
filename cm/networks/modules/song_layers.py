"""The parts of the score-SDE U-Net: convolutions with FIR resampling, noise embeddings, attention.

Arithmetic of EDM's `training/networks.py` (Karras et al., 2022); weights are Xavier-uniform, biases zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cm.networks.ncsnpp import groups


class Linear(nn.Linear):
    """[B, I] -> [B, O]."""

    def reset_parameters(self) -> None:
        _initialise(self)


class Conv(nn.Conv2d):
    """Convolution that keeps the image size: [B, I, H, W] -> [B, O, H, W]; `gain` scales the initial weights."""

    def __init__(self, width_in: int, width: int, kernel: int = 3, *, gain: float = 1.0) -> None:
        self.gain = gain
        super().__init__(width_in, width, kernel, padding=kernel // 2)

    def reset_parameters(self) -> None:
        _initialise(self, self.gain)


class Down(Conv):
    """FIR-filtered halving, then convolution: [B, I, H, W] -> [B, O, H/2, W/2]."""

    def __init__(self, width_in: int, width: int, kernel: int, taps: Sequence[int]) -> None:
        super().__init__(width_in, width, kernel)
        self.register_buffer("resample_filter", fir(taps))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(filtered(x, self.resample_filter, stride=2))


class Up(Conv):
    """FIR-interpolated doubling, then convolution: [B, I, H, W] -> [B, O, 2H, 2W]."""

    def __init__(self, width_in: int, width: int, kernel: int, taps: Sequence[int]) -> None:
        super().__init__(width_in, width, kernel)
        self.register_buffer("resample_filter", fir(taps))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(doubled(x, self.resample_filter))


class StridedDown(Down):
    """FIR at full size, then a convolution with stride 2: the input pyramid of NCSN++'s residual encoder.

    Filter and convolution commute, so this equals EDM's fused order (convolution first) at a quarter of its cost.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = filtered(x, self.resample_filter, stride=1, margin=self.kernel_size[0] // 2)
        return F.conv2d(x, self.weight, self.bias, stride=2)


class GroupNorm(nn.GroupNorm):
    """GroupNorm with at least four channels a group and epsilon 1e-6."""

    def __init__(self, width: int) -> None:
        super().__init__(groups(width), width, eps=1e-6)


class Fourier(nn.Module):
    """Random Fourier features of a noise label: [B] -> [B, width], sines before cosines; N(0, scale^2) frequencies."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        freqs = torch.empty(width // 2)
        # On the meta device a normal draw would cost a second, for importing torch's decompositions.
        self.register_buffer("freqs", freqs if freqs.is_meta else nn.init.normal_(freqs, std=scale))

    def forward(self, labels: Tensor) -> Tensor:
        return sines_cosines(labels, 2 * math.pi * self.freqs)


class Positional(nn.Module):
    """Sinusoidal embedding of a noise label, frequencies 1 to 1e-4: [B] -> [B, width], sines before cosines."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, labels: Tensor) -> Tensor:
        half = self.width // 2
        exponents = torch.arange(half, dtype=torch.float32, device=labels.device) / (half - 1)
        return sines_cosines(labels, (1e-4**exponents).to(labels.dtype))


def sines_cosines(labels: Tensor, frequencies: Tensor) -> Tensor:
    """sin and cos of every label times every frequency: [B], [n] -> [B, 2n]."""
    phases = labels[:, None] * frequencies
    return torch.cat([phases.sin(), phases.cos()], dim=1)


def fir(taps: Sequence[int]) -> Tensor:
    """The separable filter of a row of taps, normalised to sum 1: [1, 1, n, n]."""
    kernel = [[a * b / sum(taps) ** 2 for b in taps] for a in taps]
    return torch.tensor([[kernel]], dtype=torch.float32)


def filtered(x: Tensor, kernel: Tensor, *, stride: int, margin: int = 0) -> Tensor:
    """Every channel convolved with `kernel`; `margin` pixels more than the same size on each side, zeros outside."""
    width = x.shape[1]
    padding = (kernel.shape[-1] - 1) // 2 + margin
    return F.conv2d(x, kernel.expand(width, -1, -1, -1), stride=stride, padding=padding, groups=width)


def doubled(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel upsampled by two with zero insertion and 4 x `kernel`: [B, C, H, W] -> [B, C, 2H, 2W]."""
    width = x.shape[1]
    kernel = (4 * kernel).expand(width, -1, -1, -1)
    return F.conv_transpose2d(x, kernel, stride=2, padding=(kernel.shape[-1] - 1) // 2, groups=width)


def attend(qkv: Tensor) -> Tensor:
    """Single-head self-attention over pixels: [B, 3C, H, W] -> [B, C, H, W]; channels 3c, 3c+1, 3c+2 are q, k, v."""
    batch, width, height, columns = qkv.shape
    query, key, value = qkv.reshape(batch, 1, width // 3, 3, height * columns).transpose(2, 4).unbind(3)
    mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(2, 3).reshape(batch, width // 3, height, columns)


def _initialise(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> None:
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
