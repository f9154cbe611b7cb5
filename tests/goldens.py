"""Outputs of the reference implementations, stored in `tests/golden`, and how near to them is near enough."""

from __future__ import annotations

import fnmatch
import json
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of a file."""
    with np.load(GOLDEN / name) as file:
        return dict(file)


def tolerance(file: str, array: str) -> dict[str, float]:
    """`rtol`, `atol_of_max` and `atol` of an expected array: the first rule of the manifest that fits its name."""
    entries = json.loads((GOLDEN / "manifest.json").read_text())["files"]
    rules = next(entry["tolerance"] for entry in entries if entry["file"] == file)
    return next(rule for rule in rules if fnmatch.fnmatchcase(array, rule["match"]))


def assert_golden(file: str, array_name: str, got: np.ndarray | torch.Tensor) -> None:
    """|got - want| <= atol + atol_of_max max|want| + rtol |want|, elementwise."""
    want, rule = load(file)[array_name].astype(np.float64), tolerance(file, array_name)
    got = np.asarray(got.detach() if isinstance(got, torch.Tensor) else got, dtype=np.float64)
    assert got.shape == want.shape, f"{file} {array_name}: shape {got.shape}, not {want.shape}"
    allowed = rule["atol"] + rule["atol_of_max"] * np.abs(want).max() + rule["rtol"] * np.abs(want)
    excess = np.abs(got - want) - allowed
    assert np.isfinite(got).all() and (excess <= 0).all(), (
        f"{file} {array_name}: {(~(excess <= 0)).sum()} of {want.size} values are off, "
        f"by up to {np.abs(got - want).max():.3g} (largest value {np.abs(want).max():.3g}, rule {rule})"
    )


def recipe_array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 weights called `key`; normalisation scales (1-D '...weight' or '...scale') are around 1."""
    draw = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(shape)) * 0.05
    weights = draw.astype(np.float32)
    return np.float32(1) + weights if len(shape) == 1 and key.endswith(("weight", "scale")) else weights


def recipe_weights(module: torch.nn.Module) -> torch.nn.Module:
    """Gives every parameter the weights of its name, in place; buffers stay."""
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(recipe_array(key, tuple(parameter.shape))))
    return module
