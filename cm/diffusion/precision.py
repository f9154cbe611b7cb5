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

# What autocast computes in its type on a CPU, of what a network may call: https://docs.pytorch.org/docs/stable/amp.html
_PRODUCTS = frozenset(
    {
        nn.functional.conv1d,
        nn.functional.conv2d,
        nn.functional.conv3d,
        nn.functional.conv_transpose2d,
        nn.functional.linear,
        nn.functional.scaled_dot_product_attention,
        torch.addmm,
        torch.baddbmm,
        torch.bmm,
        torch.einsum,
        torch.matmul,
        torch.mm,
        Tensor.addmm,
        Tensor.baddbmm,
        Tensor.bmm,
        Tensor.matmul,
        Tensor.mm,
    }
)
_BFLOAT16_OF_X86 = ("avx512_bf16", "amx_bf16")


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Autocast to a type by its name, `bfloat16` or `float16`; none for `float32`.

    On a processor without instructions for the type, torch's own kernels are many times slower than float32. There the
    operands are rounded to the type and multiplied in float32, and the product is rounded: what such instructions
    compute up to the order of sums, at the speed of float32 and with its memory (benchmarks/training.md). In attention
    the weights of the values are not rounded, and the default backend of torch.compile leaves out roundings between
    operations that it fuses.
    """
    with _autocast(device, precision), multiply_in_float32(device, precision):
        yield


def multiply_in_float32(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context that multiplies tensors of the type in float32 and rounds, where the device has no faster way."""
    return nullcontext() if has_instructions(device, precision) else _MultiplyInFloat32(getattr(torch, precision))


def recomputation(device: torch.device) -> dict[str, Any]:
    """The options of torch's activation checkpointing by which the recomputation multiplies as the computation does.

    None are needed in what torch.compile compiles: its graph has the multiplications already.
    """
    if torch.compiler.is_compiling() or device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return {}
    name = str(torch.get_autocast_dtype("cpu")).removeprefix("torch.")
    return {"context_fn": lambda: (multiply_in_float32(device, name), multiply_in_float32(device, name))}


def has_instructions(device: torch.device, precision: str) -> bool:
    """Whether the device multiplies in this type without conversion to float32; supposed of all but the CPU."""
    if device.type != "cpu" or precision == "float32":
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    if precision == "float16":
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    found = torch.cpu.get_capabilities()
    on_x86 = found.get("architecture") == "x86_64"
    # torch also counts processors with AVX-512 that convert bfloat16 to float32 in every product.
    has_own = any(found.get(name) for name in _BFLOAT16_OF_X86)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and (has_own or not on_x86)


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


class _MultiplyInFloat32(TorchFunctionMode):
    """Multiplies in float32 what autocast would convert to a type, or what has that type already, and rounds."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function not in _PRODUCTS or "out" in kwargs or not self._applies([*args, *kwargs.values()]):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            rounded = {name: self._round(arg) for name, arg in kwargs.items()}
            return function(*map(self._round, args), **rounded).to(self._dtype)

    def _applies(self, arguments: list[Any]) -> bool:
        """Whether autocast converts the operands, all but doubles, or without it, whether all have the type."""
        types = {arg.dtype for arg in arguments if _is_floating(arg)}
        return torch.float64 not in types if torch.is_autocast_enabled("cpu") else types == {self._dtype}

    def _round(self, arg: Any) -> Any:
        """A float32 tensor of rounded values, from a tensor of floating point numbers; any other argument itself."""
        return arg.to(self._dtype).float() if _is_floating(arg) else arg


def _is_floating(arg: Any) -> bool:
    return isinstance(arg, Tensor) and arg.is_floating_point()
