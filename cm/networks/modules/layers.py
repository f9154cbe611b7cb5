"""The parts of the U-Nets: convolutions with FIR resampling, normalisation, noise embeddings, attention.

Arithmetic of EDM's `training/networks.py` (Karras et al., 2022), for the networks of score SDE and for ADM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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


def normal(layer: nn.Linear) -> None:
    """Standard normal weights."""
    draw(layer.weight, 1.0)


def zero(layer: nn.Linear | nn.Conv2d) -> None:
    """A layer that gives zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def draw(tensor: Tensor, scale: float) -> Tensor:
    """N(0, scale^2) in place; nothing on the meta device, where importing decompositions would take a second."""
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


class Halve(nn.Module):
    """FIR-filtered halving: [B, C, H, W] -> [B, C, H/2, W/2]."""

    def __init__(self, taps: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("resample_filter", fir(taps))

    def forward(self, x: Tensor) -> Tensor:
        return filtered(x, self.resample_filter, stride=2)


class Double(nn.Module):
    """FIR-interpolated doubling: [B, C, H, W] -> [B, C, 2H, 2W]."""

    def __init__(self, taps: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("resample_filter", fir(taps))

    def forward(self, x: Tensor) -> Tensor:
        return doubled(x, self.resample_filter)


class Down(Conv):
    """Halving, then convolution: [B, I, H, W] -> [B, O, H/2, W/2]."""

    def __init__(self, width_in: int, width: int, kernel: int, *, taps: Sequence[int], init: Initialiser) -> None:
        super().__init__(width_in, width, kernel, init=init)
        self.register_buffer("resample_filter", fir(taps))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(filtered(x, self.resample_filter, stride=2))


class Up(Conv):
    """Doubling, then convolution: [B, I, H, W] -> [B, O, 2H, 2W]."""

    def __init__(self, width_in: int, width: int, kernel: int, *, taps: Sequence[int], init: Initialiser) -> None:
        super().__init__(width_in, width, kernel, init=init)
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
    """GroupNorm whose result has the dtype of its input, also where autocast computes it in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


class Fourier(nn.Module):
    """Random Fourier features of a noise label: [B] -> [B, width], sines before cosines; N(0, scale^2) frequencies."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("freqs", draw(torch.empty(width // 2), scale))

    def forward(self, labels: Tensor) -> Tensor:
        return sines_cosines(labels, 2 * math.pi * self.freqs)


class Positional(nn.Module):
    """Sinusoidal embedding of a noise label: [B] -> [B, width], frequencies falling geometrically from 1.

    As in score SDE: the last frequency is 1e-4, sines come before cosines. `adm`: as in ADM: the frequencies stop one
    short of 1e-4, cosines come before sines.
    """

    def __init__(self, width: int, *, adm: bool = False) -> None:
        super().__init__()
        self.half, self.adm = width // 2, adm

    def forward(self, labels: Tensor) -> Tensor:
        falling = -math.log(1e4) * torch.arange(self.half, dtype=torch.float32, device=labels.device)
        frequencies = (falling / (self.half if self.adm else self.half - 1)).exp().to(labels.dtype)
        features = sines_cosines(labels, frequencies)
        return features.roll(self.half, dims=1) if self.adm else features


def sines_cosines(labels: Tensor, frequencies: Tensor) -> Tensor:
    """sin and cos of every label times every frequency: [B], [n] -> [B, 2n]."""
    phases = labels[:, None] * frequencies
    return torch.cat([phases.sin(), phases.cos()], dim=1)


def fir(taps: Sequence[int]) -> Tensor:
    """The separable filter of a row of taps, normalised to sum 1: [1, 1, n, n]."""
    kernel = [[a * b / sum(taps) ** 2 for b in taps] for a in taps]
    return torch.tensor([[kernel]], dtype=torch.float32)


def filters(net: UNet) -> dict[str, Tensor]:
    """The resampling filters in the state dict of a network."""
    return {f"{name}.resample_filter": fir(net.resample_filter) for name in net.filtered_layers()}


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


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention over pixels: [B, 3C, H, W] -> [B, C, H, W]; channels are ordered (heads, C / heads, three)."""
    batch, width, *size = qkv.shape
    parts = qkv.reshape(batch, heads, width // (3 * heads), 3, math.prod(size))
    # The fused kernels want each pixel's channels side by side; one copy does it for all three.
    query, key, value = parts.permute(3, 0, 1, 4, 2).contiguous().unbind(0)
    mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(2, 3).reshape(batch, width // 3, *size)
