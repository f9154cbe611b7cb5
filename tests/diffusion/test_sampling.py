"""Sampling refuses a precision that its device does not have, and so does training."""

from __future__ import annotations

import warnings

import pytest
import torch
from conftest import plan_of

from cm import build
from cm.diffusion import sampling
from cm.errors import UserError


@pytest.fixture
def old_gpu(monkeypatch):
    """A GPU without bfloat16, as far as torch.autocast sees it."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    return torch.device("cuda")


def test_an_old_gpu_has_no_bfloat16(old_gpu):
    with pytest.raises(UserError, match="precision 'bfloat16' is unavailable on device 'cuda'") as caught:
        sampling.check_precision(old_gpu, "bfloat16")
    assert "\n" not in str(caught.value)
    for precision in ("float16", "float32"):
        sampling.check_precision(old_gpu, precision)


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_a_processor_has_all(precision):
    sampling.check_precision(torch.device("cpu"), precision)


def test_what_torch_only_warns_of_is_refused(monkeypatch):
    """It would compute in float32."""
    monkeypatch.setattr(
        sampling, "autocast", lambda device, precision: warnings.warn("Disabling\nautocast.", stacklevel=1)
    )
    with pytest.raises(UserError, match=r"'float16' is unavailable on device 'cpu': Disabling autocast\."):
        sampling.check_precision(torch.device("cpu"), "float16")


def test_training_and_sampling_ask_first(place, monkeypatch):
    def refuse(device, precision):
        raise UserError(f"{precision} on {device}")

    monkeypatch.setattr(sampling, "check_precision", refuse)
    with pytest.raises(UserError, match="bfloat16 on cpu"):
        plan_of(place, "digits/ct/precision~bfloat16/seed0")
    model, description = build.load_model(place / "models/digits/edm/default/seed0/100.safetensors")
    with pytest.raises(UserError, match="float16 on cpu"):
        build.sample_images(model, description, None, count=1, seed=0, precision="float16")
