"""TorchScript archives: their tensors are read, and nothing of their code runs."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from cm.checkpoints import torchscript
from cm.errors import UserError
from cm.evaluation.pretrained import sources


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)
        self.register_buffer("sixteen", torch.arange(4).half())
        self.stride: list[int] = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x)) * self.stride[0]


class Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Inner(), Inner()])
        self.transposed = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x) @ self.transposed.t()
        return x


def script(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.script(module).save(path)
    return path


def rewrite(path: Path, change) -> Path:
    """Apply `change(name, data) -> data` to every member of an archive."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))
    return path


def test_the_tensors_are_those_that_torch_reads(tmp_path):
    path, module = script(Outer(), tmp_path / "a.pt"), Outer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.jit.load(path).state_dict()
    ours = sources.read_file(path).state
    assert ours.keys() == theirs.keys() == module.state_dict().keys()
    assert all(torch.equal(ours[name], tensor) and ours[name].dtype == tensor.dtype for name, tensor in theirs.items())


def test_torch_is_not_asked_to_load_an_archive(tmp_path, monkeypatch):
    path = script(Outer(), tmp_path / "a.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("torch.jit.load runs code"))
    assert sources.read_file(path).state


def test_code_that_torch_would_run_is_not_even_read(tmp_path):
    path = rewrite(script(Outer(), tmp_path / "a.pt"), lambda name, data: b"!" if "/code/" in name else data)
    assert len(sources.read_file(path).state) == len(Outer().state_dict())


class Evil:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    "call", [(eval, ("1 + 1",)), (print, ("x",)), (getattr, (1, "real")), (torch.load, ("x",)), (open, ("made", "w"))]
)
def test_a_pickle_that_calls_anything_is_refused(call, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile = pickle.dumps(Evil(*call), protocol)
    path = rewrite(script(Outer(), tmp_path / "a.pt"), lambda name, data: hostile if name == "a/data.pkl" else data)
    with pytest.raises(UserError, match=r"a\.pt is not a file of weights: it asks for .*: refused"):
        sources.read_file(path)
    assert not Path("made").exists()


@pytest.mark.parametrize("cut", [1, 4, 10_000])
def test_a_storage_with_fewer_bytes_than_it_says_is_refused(cut, tmp_path):
    path = rewrite(script(Outer(), tmp_path / "a.pt"), lambda name, data: data[:-cut] if "/data/0" in name else data)
    with pytest.raises(UserError, match=r"a\.pt is not a file of weights: storage 0 has \d+ bytes of"):
        sources.read_file(path)


def test_a_module_that_contains_itself_is_refused():
    scripted = torchscript.Scripted()
    scripted.__setstate__({"inner": scripted})
    with pytest.raises(pickle.UnpicklingError, match="has no attributes of its own"):
        dict(torchscript._tensors(scripted, set()))


def test_an_archive_that_expands_beyond_all_measure_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cm.utils.unpacking.UNSUSPICIOUS", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 22))
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(UserError, match=r"its \d+ bytes would expand to 4194304"):
        sources.read_file(tmp_path / "a.pt")


def test_other_data_are_no_torchscript():
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    assert not torchscript.is_torchscript(buffer.getvalue())
    assert not torchscript.is_torchscript(b"PK\x03\x04") and not torchscript.is_torchscript(b"")
