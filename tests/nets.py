"""Small networks of both families, and how tests build, wrap and measure networks."""

from __future__ import annotations

import time

import numpy as np
import torch

from cm import registry
from cm.networks.adm import ADM
from cm.networks.modules.denoiser import Denoiser
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
