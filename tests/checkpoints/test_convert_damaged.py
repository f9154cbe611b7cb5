"""Files that ask for code to be executed, and files that are damaged or of no known format: an error of one line."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import (
    SMALL_JCM,
    SMALL_SONG,
    TINY,
    Net,
    assert_fits,
    edm_weights,
    jcm_weights,
    nest_modules,
    openai_weights,
    refusal,
    snapshot,
    write_jcm,
)

from cm.checkpoints import edm_pickle, import_checkpoint, native
from cm.errors import UserError


class Evil:
    """An object whose unpickling calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Marker:
    """A file that must not appear, and the ways in which a checkpoint could create it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "executed"
        self.source = f"open({str(self.path)!r}, 'w').close()"
        self.shell = f"touch {self.path}"

    def evils(self) -> dict[str, tuple[Evil, str]]:
        inner = io.BytesIO()
        torch.save({"a": Evil(os.system, self.shell)}, inner, _use_new_zipfile_serialization=False)
        zipped = io.BytesIO()
        torch.save({"a": Evil(os.system, self.shell)}, zipped)
        return {
            "system": (Evil(os.system, self.shell), "posix.system"),
            "eval": (Evil(eval, self.source), "builtins.eval"),
            "exec": (Evil(exec, self.source), "builtins.exec"),
            "getattr": (Evil(getattr, Evil(__import__, "os"), "system"), "builtins.getattr"),
            "storage": (Evil(torch.storage._load_from_bytes, inner.getvalue()), "posix.system"),
            "zipped storage": (Evil(torch.storage._load_from_bytes, zipped.getvalue()), "posix.system"),
            "storage in storage": (
                Evil(torch.storage._load_from_bytes, pickle.dumps(Evil(eval, self.source))),
                "cannot be read",
            ),
            "open": (Evil(open, str(self.path), "w"), "io.open"),
            "unpickle": (Evil(pickle.loads, pickle.dumps(Evil(os.system, self.shell))), "_pickle.loads"),
            "load": (Evil(torch.load, str(self.path)), "torch.serialization.load"),
            "copytree": (Evil(shutil.copytree, str(self.path.parent), str(self.path)), "shutil.copytree"),
        }


@pytest.fixture
def marker(tmp_path) -> Iterator[Marker]:
    marker = Marker(tmp_path)
    yield marker
    assert not marker.path.exists()


EVILS = list(Marker(Path()).evils())


@pytest.mark.parametrize("evil", EVILS)
@pytest.mark.parametrize("place", ["top", "network", "state", "module", "beside"])
def test_a_hostile_snapshot_executes_nothing(tmp_path, marker, evil, place):
    evil, message = marker.evils()[evil]
    top = nest_modules({"model.map_layer0.bias": torch.zeros(3)})
    if place == "state":
        top.__dict__["sigma_data"] = evil
    elif place == "module":
        top._modules["model"]._modules["map_layer0"] = evil
    values = {"top": evil, "network": {"ema": evil}, "beside": {"loss_fn": evil, "ema": top}}
    (tmp_path / "x.pkl").write_bytes(snapshot(values.get(place, {"ema": top})))
    assert message in refusal(tmp_path / "x.pkl", SMALL_SONG)


@pytest.mark.parametrize("evil", EVILS)
@pytest.mark.parametrize("protocol", range(6))
def test_the_reader_itself_executes_nothing_in_any_protocol(marker, evil, protocol):
    value, message = marker.evils()[evil]
    with pytest.raises(UserError) as caught:
        edm_pickle.SnapshotUnpickler(io.BytesIO(pickle.dumps(value, protocol))).load()
    old_bytes = protocol < 3 and "_codecs.encode" in str(caught.value)
    assert (old_bytes or message.rpartition(".")[2] in str(caught.value)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_in_an_old_protocol_executes_nothing(tmp_path, marker, protocol):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Evil(os.system, marker.shell), protocol))
    assert ("posix.system" if protocol > 1 else "no checkpoint of a known format") in refusal(tmp_path / "x.pkl")


def test_source_code_in_a_snapshot_stays_text(tmp_path, marker):
    path = tmp_path / "x.pkl"
    path.write_bytes(snapshot({"ema": nest_modules(edm_weights(SMALL_SONG))}, source=marker.source))
    assert_fits(path, SMALL_SONG)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("evil", ["system", "eval", "exec", "open", "storage"])
def test_a_hostile_state_dict_executes_nothing(tmp_path, marker, evil, zipped):
    value, message = marker.evils()[evil]
    torch.save({"out.0.bias": value}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    line = refusal(tmp_path / "x.pt", TINY)
    assert (
        message.rpartition(".")[2] if evil != "storage" else "_load_from_bytes"
    ) in line and "weights_only" not in line


def text(word: str) -> bytes:
    """A short string in protocol 4."""
    return b"\x8c" + struct.pack("B", len(word)) + word.encode()


MODULE_DICT = text("torch.nn.modules.container") + text("ModuleDict") + b"\x93"
REBUILD = text("torch._utils") + text("_rebuild_parameter") + b"\x93"


@pytest.mark.parametrize(
    ("name", "commands", "message"),
    [
        ("dotted name", text("torch_utils.persistence") + text("sys.modules") + b"\x93.", "persistence.sys.modules"),
        ("submodule", text("torch.nn") + text("modules.module.os.system") + b"\x93.", "torch.nn.modules"),
        ("called holder", MODULE_DICT + text("x") + b"\x85R.", "not a whole"),
        ("holder with state as network", b"}" + text("ema") + MODULE_DICT + b")R" + text("x") + b"bs.", "not a whole"),
        ("class as network", b"}" + text("ema") + MODULE_DICT + b"s.", "not a whole"),
        ("state of a class", MODULE_DICT + b"}" + text("name") + text("x") + b"sb.", "not a whole"),
        ("function as network", b"}" + text("ema") + REBUILD + b"s.", "not a whole"),
        ("persistent id", text("x") + b"Q.", "not a whole"),
        ("extension", b"\x82\x01.", "not a whole"),
        ("no network", b"}.", "it has no 'ema'"),
        ("name of two lines", text("os\nsystem") + text("x\ny") + b"\x93.", "os\\nsystem"),
        ("endless string", b"\x8d" + b"\xff" * 7 + b"\x7f.", "not a whole"),
        ("unknown command", b"\xee.", "not a whole"),
    ],
)
def test_commands_that_no_pickler_writes(tmp_path, name, commands, message):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + commands)
    assert message in refusal(tmp_path / "x.pkl")


@pytest.mark.parametrize("thing", [MODULE_DICT, REBUILD], ids=["class", "function"])
def test_a_pickle_cannot_change_the_placeholders(thing):
    slots = b"N}" + text("name") + text("changed") + b"s\x86"
    for state in (slots, b"}" + text("name") + text("changed") + b"s"):
        try:
            edm_pickle.SnapshotUnpickler(io.BytesIO(b"\x80\x04" + thing + state + b"b.")).load()
        except TypeError:
            continue
    assert edm_pickle.Placeholder.name == "" and not hasattr(edm_pickle._rebuild_parameter, "name")


def whole_files(folder: Path) -> dict[str, tuple[Path, Net]]:
    torch.save(openai_weights(TINY), folder / "openai.pt")
    torch.save(openai_weights(TINY), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    write_jcm(folder / "checkpoint_80", params_ema=jcm_weights())
    (folder / "edm.pkl").write_bytes(snapshot({"ema": nest_modules(edm_weights(SMALL_SONG))}))
    nets = {"openai.pt": TINY, "legacy.pt": TINY, "checkpoint_80": SMALL_JCM, "edm.pkl": SMALL_SONG}
    return {name: (folder / name, net) for name, net in nets.items()}


@pytest.mark.parametrize("name", ["openai.pt", "legacy.pt", "checkpoint_80", "edm.pkl"])
def test_truncated_files(tmp_path, name):
    path, net = whole_files(tmp_path)[name]
    assert_fits(path, net)
    content = path.read_bytes()
    for part in (3, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:part])
        refusal(path, net)


@pytest.mark.parametrize("name", ["checkpoint_80", "edm.pkl", "legacy.pt", "openai.pt"])
def test_damaged_bytes_are_an_error_of_one_line_or_another_network(tmp_path, name):
    path, net = whole_files(tmp_path)[name]
    content, draws = path.read_bytes(), np.random.default_rng(0)
    for _ in range(12):
        damaged = bytearray(content)
        for place in draws.integers(0, min(len(content), 4000), 3):
            damaged[place] = draws.integers(0, 256)
        path.write_bytes(damaged)
        try:
            import_checkpoint(path, net)
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, world\n", "known: a state dict of torch.save, a flax msgpack of jcm, a pickle"),
        (b"<!DOCTYPE html><html>404</html>", "no checkpoint of a known format"),
        (b"PK\x03\x04 and then nothing", "is not a whole zip archive"),
        (b"\x00" * 100, "no checkpoint of a known format"),
        (b"\x80", "is not a whole network snapshot"),
        (b"\x81\xa1a\x01", "has no params_ema"),
        (b"\x80\x04", "is not a whole network snapshot"),
        (struct.pack("<Q", 2) + b"{}", "is a bare safetensors file"),
        (struct.pack("<Q", 10**9) + b"{", "no checkpoint of a known format"),
    ],
)
def test_files_of_no_format(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    assert message in refusal(tmp_path / "x")


def test_a_zip_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not one of torch.save" in refusal(tmp_path / "x.zip")


def test_a_missing_file_and_a_model_file_of_this_suite(tmp_path):
    assert "no file" in refusal(tmp_path / "nothing")
    native.save(tmp_path / "100.safetensors", {"network.a": torch.zeros(1)}, {"run": "x"})
    assert "is a model file of this suite already" in refusal(tmp_path / "100.safetensors")
