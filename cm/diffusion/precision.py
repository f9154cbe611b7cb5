"""Autocast by name, also on processors that have no instructions for its type, and the check that a device has it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cm.errors import UserError

# What autocast computes in its type: https://docs.pytorch.org/docs/stable/amp.html, of what the networks here call.
_MULTIPLICATIONS = frozenset(
    {
        nn.functional.conv2d,
        nn.functional.conv_transpose2d,
        nn.functional.linear,
        nn.functional.scaled_dot_product_attention,
        torch.bmm,
        torch.matmul,
        Tensor.bmm,
        Tensor.matmul,
    }
)


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Autocast to a type by its name, `bfloat16` or `float16`; none for `float32`.

    On a processor without instructions for the type, the operands are rounded to it, multiplied in float32, and the
    result is rounded: what the instructions compute, up to the order of sums, at the speed of float32. torch's own
    kernels for such processors take twenty times as long.
    """
    with _autocast(device, precision), float32_arithmetic(device, precision):
        yield


def float32_arithmetic(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context that multiplies tensors of the type in float32 and rounds, where the device has no faster way."""
    return nullcontext() if has_instructions(device, precision) else _Float32Arithmetic(getattr(torch, precision))


def recomputation(device: torch.device) -> dict[str, Any]:
    """The options of torch's activation checkpointing by which the recomputation multiplies as the computation did."""
    if device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return {}
    name = str(torch.get_autocast_dtype("cpu")).removeprefix("torch.")
    if has_instructions(device, name):
        return {}
    return {"context_fn": lambda: (nullcontext(), float32_arithmetic(device, name))}


def has_instructions(device: torch.device, precision: str) -> bool:
    """Whether torch multiplies in this type at the speed of float32 or faster; supposed of all devices but the CPU."""
    if device.type != "cpu" or precision == "float32":
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    name = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}[precision]
    return bool(getattr(torch.ops.mkldnn, name)())


def check_precision(devices: Iterable[str], precision: str) -> None:
    """Raises UserError for a precision in which one of the devices cannot compute, such as bfloat16 on an old GPU.

    There torch would compute each operation in float32 and round, which is slower than float32.
    """
    for device in map(torch.device, devices):
        on_gpu = device.type == "cuda"
        if precision == "bfloat16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError(f"precision 'bfloat16' is unavailable on device '{device}', which would emulate it")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch only warns of some, and computes in float32
            try:
                _autocast(device, precision)
            except (RuntimeError, Warning) as error:
                reason = " ".join(str(error).split())
                raise UserError(f"precision '{precision}' is unavailable on device '{device}': {reason}") from None


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    dtype = torch.bfloat16 if precision == "float32" else getattr(torch, precision)
    return torch.autocast(device.type, dtype, enabled=precision != "float32")


class _Float32Arithmetic(TorchFunctionMode):
    """Multiplies tensors that autocast converts to a type, or that have it already, in float32 instead."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function not in _MULTIPLICATIONS:
            return function(*args, **kwargs)
        converted = {self._dtype, torch.float32} if torch.is_autocast_enabled("cpu") else {self._dtype}
        if not any(isinstance(arg, Tensor) and arg.dtype in converted for arg in args):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            rounded = {name: self._round(arg, converted) for name, arg in kwargs.items()}
            return function(*(self._round(arg, converted) for arg in args), **rounded).to(self._dtype)

    def _round(self, arg: Any, converted: set[torch.dtype]) -> Any:
        """A float32 tensor of rounded values, from a tensor of a type that is converted; any other argument itself."""
        return arg.to(self._dtype).float() if isinstance(arg, Tensor) and arg.dtype in converted else arg
