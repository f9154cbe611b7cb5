"""Reduced precisions: the same on a processor without instructions for them, and one line where there is none."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cm.diffusion import precision
from cm.diffusion.distances import LPIPS
from cm.diffusion.perceptual import FeatureDistance
from cm.diffusion.precision import autocast, check_precision
from cm.errors import UserError

CPU = torch.device("cpu")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
SPACING = {"bfloat16": 2**-7, "float16": 2**-10}  # of neighbouring values, relative, at most


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


PRODUCTS = {
    "conv2d": lambda: F.conv2d(draw(2, 3, 6, 6), draw(4, 3, 3, 3), draw(4), padding=1),
    "conv2d, named": lambda: F.conv2d(input=draw(2, 3, 6, 6), weight=draw(4, 3, 3, 3), bias=None),
    "conv_transpose2d": lambda: F.conv_transpose2d(draw(2, 3, 6, 6), draw(3, 4, 2, 2), stride=2),
    "linear": lambda: F.linear(draw(5, 7), draw(4, 7), draw(4)),
    "matmul": lambda: torch.matmul(draw(5, 7), draw(7, 3)),
    "operator": lambda: draw(5, 7) @ draw(7, 3),
    "method": lambda: draw(5, 7).matmul(draw(7, 3)),
    "mm": lambda: torch.mm(draw(5, 7), draw(7, 3)),
    "addmm": lambda: torch.addmm(draw(5, 3), draw(5, 7), draw(7, 3)),
    "baddbmm": lambda: torch.baddbmm(draw(2, 5, 3), draw(2, 5, 7), draw(2, 7, 3)),
    "bmm": lambda: torch.bmm(draw(2, 5, 7), draw(2, 7, 3)),
    "einsum": lambda: torch.einsum("ij,jk->ik", draw(5, 7), draw(7, 3)),
    "conv1d": lambda: F.conv1d(draw(2, 3, 6), draw(4, 3, 3)),
    "conv3d": lambda: F.conv3d(draw(2, 3, 4, 4, 4), draw(4, 3, 3, 3, 3)),
    "attention": lambda: F.scaled_dot_product_attention(*(draw(1, 2, 5, 8) + i for i in range(3))),
}


class Operands(TorchDispatchMode):
    """Records the types of the operands of every product that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in function.name() for name in ("conv", "mm", "attention")):
            self.types |= {arg.dtype for arg in args if isinstance(arg, torch.Tensor)}
        return function(*args, **(kwargs or {}))


@pytest.fixture
def without_instructions(monkeypatch):
    """A processor that has no instructions for any reduced precision."""
    monkeypatch.setattr(precision, "has_instructions", lambda device, name: name == "float32")


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("product", PRODUCTS.values(), ids=list(PRODUCTS))
def test_products_are_those_of_autocast_up_to_the_order_of_sums(without_instructions, product, name):
    with torch.autocast("cpu", DTYPES[name]):
        want = product()
    with autocast(CPU, name), Operands() as operands:
        got = product()
    assert operands.types == {torch.float32}
    assert got.dtype == want.dtype == DTYPES[name]
    error = (got.float() - want.float()).abs()
    assert (error <= SPACING[name] * want.float().abs().clamp(min=1)).all()
    assert (got == want).float().mean() > 0.9  # most sums are rounded alike


@pytest.mark.parametrize("name", DTYPES)
def test_gradients_are_those_of_autocast(without_instructions, name):
    found = []
    for context in (torch.autocast("cpu", DTYPES[name]), autocast(CPU, name)):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 5))
        x = draw(16, 3, 8, 8).requires_grad_()
        with context:
            loss = module(x).float().square().sum()
        loss.backward()
        found.append([x.grad, *(parameter.grad for parameter in module.parameters())])
    for want, got in zip(*found, strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() < SPACING[name] * want.norm()


def test_what_autocast_leaves_alone_is_exact(without_instructions):
    """Products of doubles, in a region without autocast, and in float32."""
    double, product = (lambda: draw(5, 7).double() @ draw(7, 3).double()), PRODUCTS["conv2d"]
    want, exact = double(), product()
    with autocast(CPU, "bfloat16"):
        assert torch.equal(double(), want)
        out = torch.zeros(2, 2)
        torch.mm(torch.eye(2), torch.eye(2), out=out)
        assert torch.equal(out, torch.eye(2))
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(product(), exact)
    with autocast(CPU, "float32"):
        assert torch.equal(product(), exact)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_network_rounds_alike(without_instructions, backend):
    module, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 3)), draw(2, 3, 8, 8)
    with torch.no_grad(), autocast(CPU, "bfloat16"):
        want = module(x)
        torch.testing.assert_close(torch.compile(module, fullgraph=True, backend=backend)(x), want)


def test_the_maps_of_a_distance_are_multiplied_in_float32(without_instructions):
    """Outside autocast, with weights and images that are bfloat16 themselves."""
    seen = []
    weights = draw(4, 1, 3, 3).bfloat16()

    def maps(x: torch.Tensor) -> list[torch.Tensor]:
        seen.append([type(mode).__name__ for mode in torch.overrides._get_current_function_mode_stack()])
        return [F.conv2d(x.bfloat16(), weights)]

    a, b = draw(2, 1, 8, 8), draw(2, 1, 8, 8) + 1
    want = LPIPS(size=None).with_network(FeatureDistance(maps))(a, b)
    got = LPIPS(size=None, precision="bfloat16").with_network(FeatureDistance(maps))(a, b)
    assert seen == [[], [], ["_MultiplyInFloat32"], ["_MultiplyInFloat32"]]
    torch.testing.assert_close(got, want, rtol=0.01, atol=0)


def test_operands_of_two_types_are_refused_as_by_torch(without_instructions):
    """And under autocast converted, as by torch."""
    x, weight = draw(5, 7).half(), draw(4, 7)
    with autocast(CPU, "bfloat16"):
        assert F.linear(x, weight).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False), pytest.raises(RuntimeError, match="dtype"):
            F.linear(x, weight)


@pytest.mark.parametrize(
    ("architecture", "found", "fast"),
    [
        ("x86_64", "avx512_bf16", True),
        ("x86_64", "amx_bf16", True),
        ("x86_64", "avx512_f", False),
        ("aarch64", "neon", True),
    ],
)
def test_a_processor_says_what_it_has(monkeypatch, architecture, found, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": architecture, found: True})
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert precision.has_instructions(CPU, "bfloat16") == fast
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not precision.has_instructions(CPU, "bfloat16")


def test_other_devices_are_supposed_to_have_all(monkeypatch):
    assert all(precision.has_instructions(torch.device("cuda"), name) for name in DTYPES)
    assert precision.has_instructions(CPU, "float16") == torch.ops.mkldnn._is_mkldnn_fp16_supported()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert [precision.has_instructions(CPU, name) for name in ("bfloat16", "float32")] == [False, True]


@pytest.fixture
def old_gpu(monkeypatch):
    """A GPU of a generation that emulates bfloat16, as torch describes one."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=7))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    return ["cuda"]


def test_an_old_gpu_has_no_bfloat16(old_gpu):
    with pytest.raises(UserError, match="precision 'bfloat16' is unavailable on device 'cuda'") as caught:
        check_precision(old_gpu, "bfloat16")
    assert "\n" not in str(caught.value)
    for name in ("float16", "float32"):
        check_precision(old_gpu, name)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_a_processor_has_all(name):
    check_precision(["cpu"], name)


def test_what_torch_only_warns_of_is_refused(monkeypatch):
    """It would compute in float32."""
    monkeypatch.setattr(
        precision, "_autocast", lambda device, precision: warnings.warn("Disabling\nautocast.", stacklevel=1)
    )
    with pytest.raises(UserError, match=r"'float16' is unavailable on device 'cpu': Disabling autocast\."):
        check_precision(["cpu"], "float16")
