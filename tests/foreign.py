"""Checkpoints of other projects, written as those projects write them, and functions that read them in tests."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import msgpack
import numpy as np
import pytest
import torch
from goldens import GOLDEN, load, recipe_array, recipe_weights
from nets import on_meta, tensor
from torch import nn

from cm import checkpoints
from cm.checkpoints.openai_names import openai_state_dict
from cm.errors import UserError
from cm.networks.adm import ADM
from cm.networks.ncsnpp import NCSNpp

JCM, SONG, DHARIWAL, UNET = (f"{name}_small.npz" for name in ("jcm_ncsnpp", "edm_ncsnpp", "edm_dhariwal", "unet_in64"))
SMALL_JCM = NCSNpp(channels=32, multipliers=[1, 2, 2], blocks=2)
SMALL_SONG = dataclasses.replace(SMALL_JCM, augment_dim=9)
SMALL_UNET = ADM(channels=32, blocks=2, head_channels=32, classes=10)
TINY = ADM(resolution=16, channels=32, multipliers=[1, 2], blocks=1, attention=[8], head_channels=32, classes=5)
IMAGENET = ADM(classes=1000)
LSUN = ADM(resolution=256, channels=256, multipliers=[1, 1, 2, 2, 4, 4], blocks=2, scale_shift=False)
VE = NCSNpp(augment_dim=9)
VP = NCSNpp(embedding="positional", noise_channels=1, encoder="standard", resample_filter=[1, 1], augment_dim=9)
SNAPSHOTS = {
    "cifar10_uncond_ve": VE,
    "cifar10_uncond_vp": VP,
    "cifar10_cond_ve": dataclasses.replace(VE, classes=10),
    "cifar10_cond_vp": dataclasses.replace(VP, classes=10),
    "imagenet64_adm": dataclasses.replace(IMAGENET, noise_factor=1.0, group_channels=4),
}
NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
Net = NCSNpp | ADM


def load_network(path: Path, net: Net, weights: str = "ema") -> nn.Module:
    """The network with the weights of a checkpoint."""
    module = net.build()
    module.load_state_dict(checkpoints.import_checkpoint(path, net, weights), strict=True)
    return module.eval()


def assert_fits(path: Path, net: Net) -> None:
    """The checkpoint has every name and shape of the network, and all its tensors are imported as float32."""
    actual, expected = checkpoints.import_checkpoint(path, net), on_meta(net).state_dict()
    assert {name: value.shape for name, value in actual.items()} == {
        name: value.shape for name, value in expected.items()
    }
    assert {value.dtype for value in actual.values()} == {torch.float32}


def refusal(path: Path, net: Net = SMALL_JCM, weights: str = "ema") -> str:
    """The one line of the error for a checkpoint; it names the file."""
    with pytest.raises(UserError) as caught:
        checkpoints.import_checkpoint(path, net, weights)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400 and str(path) in line
    return line


def published_tensors(kind: str) -> dict[str, torch.Tensor]:
    """Tensors with the names and shapes of a published checkpoint; each takes the memory of a single number."""
    stored = json.loads((GOLDEN / f"keys_{kind}.json").read_text())
    shapes = stored["parameters"] | stored.get("buffers", {})
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def entry(file: str) -> dict:
    """The entry of a golden file in the manifest."""
    entries = json.loads((GOLDEN / "manifest.json").read_text())["files"]
    return next(entry for entry in entries if entry["file"] == file)


def openai_weights(net: ADM) -> dict[str, torch.Tensor]:
    """The weights of the golden files by OpenAI's names."""
    names = openai_state_dict(on_meta(net).state_dict(), net)
    return {name: torch.from_numpy(recipe_array(name, tuple(value.shape))) for name, value in names.items()}


def jcm_weights() -> dict[str, np.ndarray]:
    """The weights of the golden files by the names of jcm."""
    shapes = entry(JCM)["config"]["param shapes"]
    return {path: recipe_array(path, tuple(shape)) for path, shape in shapes.items()}


def edm_weights(net: Net) -> dict[str, torch.Tensor]:
    """The weights of the golden files by EDM's names."""
    module = recipe_weights(net.build())
    if net == SMALL_SONG:
        module.map_noise.freqs.copy_(tensor(load(SONG)["buffer_map_noise_freqs"]))
    return {f"model.{name}": value for name, value in module.state_dict().items()}


def pack_array(array: np.ndarray) -> msgpack.ExtType:
    """Pack an array as flax does."""
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True))


def pack_chunks(array: np.ndarray, size: int) -> dict:
    """Pack an array as flax does if it is larger than a limit, here `size` values."""
    starts = range(0, array.size, size)
    pieces = {str(i): pack_array(array.reshape(-1)[start : start + size]) for i, start in enumerate(starts)}
    shape = {str(i): n for i, n in enumerate(array.shape)}
    return {"__msgpack_chunked_array__": True, "shape": shape, "chunks": pieces}


def nest(flat: Mapping[str, object]) -> dict:
    """Nested maps from values by their paths, joined with '/'."""
    tree: dict = {}
    for path, leaf in flat.items():
        *branches, name = path.split("/")
        place = tree
        for branch in branches:
            place = place.setdefault(branch, {})
        place[name] = leaf
    return tree


def write_jcm(path: Path, **params: Mapping[str, np.ndarray]) -> Path:
    """Write a training state with the fields `params`, as `flax.serialization.to_bytes` does."""
    scalars = {"step": 800001, "lr": 4e-4, "ema_rate": pack_array(np.float32(0.9999).reshape(()))}
    trees = {field: nest({name: pack_array(value) for name, value in flat.items()}) for field, flat in params.items()}
    rest = {"model_state": {}, "opt_state": {"0": {"count": pack_array(np.int32(7).reshape(()))}}, "rng_state": None}
    path.write_bytes(msgpack.packb(scalars | trees | rest, use_bin_type=True, strict_types=True))
    return path


class Part(nn.Module):
    """Represents the classes of EDM's `training.networks`."""


class EDMPrecond(Part):
    def __init__(self) -> None:
        super().__init__()
        self.sigma_data, self.skip_scale, self._init_kwargs = 0.5, np.sqrt(0.5), {"model_type": "SongUNet"}


class VPPrecond(EDMPrecond):
    pass


def _reconstruct_persistent_obj(meta: dict) -> None:
    raise AssertionError("the reader ran a function of the pickle")


class EasyDict(dict):
    pass


_reconstruct_persistent_obj.__module__, EasyDict.__module__ = "torch_utils.persistence", "dnnlib.util"
NVIDIA = {name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")}
NVIDIA["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
NVIDIA["dnnlib.util"].EasyDict = EasyDict


class SnapshotPickler(pickle.Pickler):
    """Pickles modules as `torch_utils.persistence` does: state and source code in one map."""

    source = "raise RuntimeError('the source code of a snapshot was run')"

    def reducer_override(self, value: object) -> object:
        if not isinstance(value, Part):
            return NotImplemented
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": type(value).__name__}
        return _reconstruct_persistent_obj, (meta | {"state": value.__dict__},)


def nest_modules(tensors: Mapping[str, torch.Tensor], root: type[Part] = EDMPrecond) -> Part:
    """Nested modules that hold tensors by their names; filters and frequencies are buffers."""
    top = root()
    for name, value in tensors.items():
        *parents, leaf = name.split(".")
        place = top
        for parent in parents:
            if parent not in place._modules:
                place.add_module(parent, nn.ModuleDict() if parent in ("enc", "dec") else Part())
            place = place._modules[parent]
        if leaf in ("resample_filter", "freqs"):
            place.register_buffer(leaf, value)
        else:
            place.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    return top


def snapshot(value: object, protocol: int = 4, source: str | None = None) -> bytes:
    """A pickle as EDM writes it; `source`: the source code in it."""
    file = io.BytesIO()
    pickler = SnapshotPickler(file, protocol)
    pickler.source = source or SnapshotPickler.source
    with mock.patch.dict(sys.modules, NVIDIA):
        pickler.dump(value)
    return file.getvalue()


def add_prefix(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a network by their names in a model file."""
    return {f"network.{name}": value for name, value in tensors.items()}


def description(net: Net, **changes: object) -> dict:
    """The description that is stored beside the weights of a consistency model."""
    name = type(net).__name__.lower()
    grid = {"name": "karras", "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0, "sigma_data": 0.5}
    return {
        "run": "imagenet64/cd/default/seed0",
        "network": {"name": name, **dataclasses.asdict(net)},
        "noise": grid,
        "objective": {"name": "cd", "curriculum": {"name": "fixed", "steps": 40, "target_mu": 0.0}},
        "preconditioning": "boundary",
        "progress": 100,
    } | changes
