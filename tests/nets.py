"""Small networks of both families, and how tests build, wrap and measure networks."""

from __future__ import annotations

import time

import numpy as np
import torch

from cm import registry
from cm.diffusion.denoiser import Denoiser
from cm.networks.adm import ADM
from cm.networks.ncsnpp import NCSNpp

F32, F64 = torch.float32, torch.float64
TINY = NCSNpp(resolution=8, image_channels=1, channels=8, multipliers=[1, 2], blocks=1, attention=[4])
TINY_ADM = ADM(
    resolution=8,
    image_channels=1,
    channels=8,
    multipliers=[1, 2],
    blocks=1,
    attention=[4],
    head_channels=8,
    group_channels=4,
)
# EDM's network of the golden files, but for its dropout.
GOLDEN_ADM = ADM(
    resolution=32,
    channels=64,
    multipliers=[1, 2, 3],
    blocks=1,
    attention=[16, 8],
    classes=10,
    augment_dim=9,
    noise_factor=1.0,
    group_channels=4,
)
FAMILIES = {"song": TINY, "adm": TINY_ADM}


def tensor(array: np.ndarray, dtype: torch.dtype = F32) -> torch.Tensor:
    return torch.from_numpy(array).to(dtype)


def denoiser(network: torch.nn.Module, scalings: str) -> Denoiser:
    return Denoiser(network, registry.get("preconditioning", scalings), sigma_data=0.5, sigma_min=0.002)


def on_meta(net: NCSNpp | ADM, seconds: float = 1.0) -> torch.nn.Module:
    """The network without memory for its weights; that must not take longer than `seconds`."""
    start = time.process_time()
    with torch.device("meta"):
        module = net.build()
    assert time.process_time() - start < seconds
    return module


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class Tiny:
    """The stored stand-in network of the golden files, preconditioned. `family`: `cm` (PyTorch code) or `jcm`."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, scalings: str, family: str, dtype: torch.dtype) -> None:
        axes = (3, 2, 0, 1) if family == "jcm" else (0, 1, 2, 3)
        self.weight = torch.from_numpy(np.ascontiguousarray(weight.transpose(axes))).to(dtype).requires_grad_()
        self.bias = torch.from_numpy(bias).to(dtype).requires_grad_()
        self.scalings, self.family = registry.get("preconditioning", scalings), family

    def __call__(self, x: torch.Tensor, t: torch.Tensor, labels: None = None) -> torch.Tensor:
        t = t.to(x.dtype)
        coefficients = self.scalings(t, sigma_data=0.5, sigma_min=0.002)
        skip, out, scale, _ = (c.reshape(-1, 1, 1, 1) for c in coefficients)
        wave = torch.sin(0.01 * 250 * t.log()) if self.family == "cm" else torch.sin(3 * 0.25 * t.log())
        inner = torch.tanh(torch.nn.functional.conv2d(scale * x, self.weight, self.bias, padding=1))
        return skip * x + out * inner * (1 + 0.2 * wave.reshape(-1, 1, 1, 1))

    def gradient(self) -> np.ndarray:
        """d loss / d weight, in the layout of the file."""
        gradient = self.weight.grad.numpy()
        return gradient.transpose(2, 3, 1, 0) if self.family == "jcm" else gradient
