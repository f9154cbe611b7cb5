"""Parameters, FLOPs and activations of networks, counted without memory or arithmetic.

A network is built on torch's meta device and evaluated on fake tensors. These have a shape, a precision and a device,
but no values, so that autocast and fused attention behave as they would on real ones. A multiply-add counts as two
FLOPs.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from cm import build
from cm.config import Run
from cm.config.checking import plain_component
from cm.config.compatibility import has_two_times
from cm.networks.base import Classifier, set_activation_checkpointing


def parameters(run: Run) -> int:
    """The number of weights of the network of a run."""
    return _parameters(_key(run))


def flops(run: Run) -> int:
    """FLOPs of one evaluation of the network of a run, for one image."""
    return _evaluation(_without_dropout(run))[0]


def output_shape(run: Run) -> tuple[int, ...]:
    """The shape of the output of the network of a run for one image."""
    return _evaluation(_without_dropout(run))[1]


def maps_flops(run: Run) -> int:
    """FLOPs of the feature maps of one image, for the run of a classifier, which a perceptual distance compares."""
    return _maps_flops(_without_dropout(run))


def activations(run: Run, *, batch: int = 1, precision: str = "float32", checkpointed: bool = False) -> int:
    """Bytes that the forward pass of a training step saves for the backward pass, each storage counted once.

    Neither weights nor the copies of them that autocast makes are counted; the copies add two bytes per weight.
    """
    return _activations(_key(run), batch, precision, checkpointed)


def _key(run: Run) -> str:
    """What a network is built from, as text. All preconditionings of one time cost the same: one represents them."""
    sections = {kind: plain_component(kind, getattr(run, kind)) for kind in ("network", "noise")}
    preconditioning = run.objective.sampling_preconditioning
    if preconditioning is not None and not has_two_times(run.network):
        preconditioning = "edm"
    about = {"preconditioning": preconditioning, "run": "network"}
    return json.dumps(about | sections, sort_keys=True)


def _without_dropout(run: Run) -> str:
    """`_key` without the dropout, which has no FLOPs, so that networks that differ in it are counted once."""
    about = json.loads(_key(run))
    if "dropout" in about["network"]:
        about["network"]["dropout"] = 0.0
    return json.dumps(about, sort_keys=True)


@functools.cache
def _parameters(key: str) -> int:
    return sum(parameter.numel() for parameter in _build_on_meta(key).parameters())


@functools.cache
def _evaluation(key: str) -> tuple[int, tuple[int, ...]]:
    mode, module = _network(key)
    with mode, torch.no_grad(), FlopCounterMode(display=False) as counter:
        result = module(*_arguments(json.loads(key), batch=1))
    return counter.get_total_flops(), tuple(result.shape[1:])


@functools.cache
def _maps_flops(key: str) -> int:
    mode, module = _network(key)
    classifier = cast(Classifier, module)
    with mode, torch.no_grad(), FlopCounterMode(display=False) as counter:
        classifier.maps(torch.empty(1, *build.image_shape(json.loads(key))))
    return counter.get_total_flops()


@functools.cache
def _activations(key: str, batch: int, precision: str, checkpointed: bool) -> int:
    mode, module = _network(key)
    set_activation_checkpointing(module, checkpointed)
    saved = _SavedTensors(module)
    with mode, saved_tensors_hooks(saved.pack, saved.unpack), _autocast(precision):
        module(*_arguments(json.loads(key), batch))
    return saved.bytes()


def _build_on_meta(key: str) -> nn.Module:
    with torch.device("meta"):
        return build.build_model(json.loads(key))


@functools.cache
def _network(key: str) -> tuple[FakeTensorMode, nn.Module]:
    """The network in train mode with fake weights, and the context in which they can be used."""
    module, mode = _build_on_meta(key), FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        return mode, module.to_empty(device="cpu").train()


def _arguments(about: Mapping[str, Any], batch: int) -> Sequence[Tensor | None]:
    """The arguments of a network: images, and for a denoiser also times and labels."""
    x = torch.empty(batch, *build.image_shape(about))
    if about["preconditioning"] is None:
        return (x,)
    classes = about["network"].get("classes", 0)
    return x, torch.ones(batch), torch.zeros(batch, dtype=torch.int64) if classes else None


class _SavedTensors:
    """The tensors that autograd saves for the backward pass through `module`, without its weights."""

    def __init__(self, module: nn.Module) -> None:
        self._weights = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
        self._tensors: dict[int, Tensor] = {}

    def bytes(self) -> int:
        """The size of all their storages together."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._tensors.values())

    def pack(self, tensor: Tensor) -> Tensor:
        """Record a tensor that autograd saves."""
        storage = tensor.untyped_storage()._cdata
        if storage not in self._weights and not _is_weight(tensor):
            self._tensors[storage] = tensor
        return tensor

    @staticmethod
    def unpack(tensor: Tensor) -> Tensor:
        """The tensor that `pack` returned."""
        return tensor


def _is_weight(tensor: Tensor) -> bool:
    """Whether a tensor is a weight in another precision or layout, that is, computed from one leaf of the graph."""
    node = tensor.grad_fn
    while node is not None and len(node.next_functions) == 1:
        node = node.next_functions[0][0]
    return tensor.grad_fn is not None and type(node).__name__ == "AccumulateGrad"


@contextmanager
def _autocast(precision: str) -> Iterator[None]:
    """Autocast with the rules of GPUs."""
    if precision == "float32":
        yield
        return
    with torch.autocast("cpu", getattr(torch, precision)), _GroupNormOfGPUs():
        yield


class _GroupNormOfGPUs(TorchFunctionMode):
    """Autocast computes GroupNorm in float32 on GPUs, but in the lower precision on CPUs."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is nn.functional.group_norm and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return function(*args, **(kwargs or {}))
