"""Checkpoints of other projects, with the names and shapes of the published ones: read without executing anything."""

from __future__ import annotations

import collections
import dataclasses
import pickle
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from foreign import (
    DHARIWAL,
    IMAGENET,
    JCM,
    LSUN,
    NCHW,
    NHWC,
    SMALL_JCM,
    SMALL_SONG,
    SMALL_UNET,
    SNAPSHOTS,
    SONG,
    TINY,
    UNET,
    EasyDict,
    EDMPrecond,
    Part,
    VPPrecond,
    add_prefix,
    assert_fits,
    description,
    edm_weights,
    jcm_weights,
    load_network,
    nest,
    nest_modules,
    openai_weights,
    pack_chunks,
    published_tensors,
    refusal,
    snapshot,
    write_jcm,
)
from goldens import assert_golden, load
from nets import GOLDEN_ADM, tensor
from torch import nn
from torch.nn import functional as F

from cm.checkpoints import export_checkpoint, import_checkpoint
from cm.errors import UserError
from cm.networks.ncsnpp import NCSNpp


@pytest.fixture
def openai_file(tmp_path) -> Path:
    torch.save(openai_weights(TINY), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


@torch.no_grad()
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_openai_state_dict_computes_the_reference_output(tmp_path, zipped):
    data, path = load(UNET), tmp_path / "any.name"
    torch.save(openai_weights(SMALL_UNET), path, _use_new_zipfile_serialization=zipped)
    labels = F.one_hot(tensor(data["y"], torch.int64), 10).float()
    module = load_network(path, SMALL_UNET)
    module.noise_factor = 1.0  # the reference's times are 250 ln(t) already
    actual = module(tensor(data["x"]), tensor(data["timesteps"]), labels)
    assert_golden(UNET, "out_f32", actual)


@pytest.mark.parametrize(("kind", "net"), [("imagenet64", IMAGENET), ("lsun256", LSUN)])
def test_published_openai_names_and_shapes_fit(tmp_path, kind, net):
    torch.save(published_tensors(f"unet_{kind}"), tmp_path / "model.pt")
    assert_fits(tmp_path / "model.pt", net)


def test_half_precision_weights_become_float32(openai_file, tmp_path):
    torch.save({name: value.half() for name, value in openai_weights(TINY).items()}, tmp_path / "half.pt")
    half, whole = (
        import_checkpoint(tmp_path / "half.pt", TINY),
        import_checkpoint(openai_file, TINY),
    )
    assert all(value.dtype == torch.float32 for value in half.values())
    assert all(torch.allclose(half[name], whole[name], rtol=1e-3, atol=1e-6) for name in whole)


def test_openai_round_trip_is_bitwise(openai_file, tmp_path):
    ours = import_checkpoint(openai_file, TINY)
    export_checkpoint(add_prefix(ours), description(TINY, preconditioning="edm"), tmp_path / "back.pt", "openai")
    back, first = (torch.load(path, weights_only=True) for path in (tmp_path / "back.pt", openai_file))
    assert back.keys() == first.keys() and all(torch.equal(back[name], first[name]) for name in first)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.zeros(1)], "holds a list"),
        ({}, "holds a dict"),
        ({"step": 3}, "its 'step' is a int, not a tensor"),
        ({"out.0.weight": torch.zeros(32)}, "they lack time_embed.0.weight"),
    ],
)
def test_torch_files_that_are_no_state_dict_of_the_network(tmp_path, value, message):
    torch.save(value, tmp_path / "x.pt")
    assert message in refusal(tmp_path / "x.pt", TINY)


def test_another_shape_and_a_superfluous_name_are_reported(tmp_path):
    for name, value in (("out.2.bias", torch.zeros(4)), ("spare.bias", torch.zeros(1))):
        torch.save(openai_weights(TINY) | {name: value}, tmp_path / "x.pt")
        assert name in refusal(tmp_path / "x.pt", TINY)


def test_weights_of_another_type_are_refused(tmp_path):
    torch.save(openai_weights(TINY) | {"out.2.bias": torch.zeros(3, dtype=torch.int8)}, tmp_path / "x.pt")
    assert "out_conv.bias is torch.int8" in refusal(tmp_path / "x.pt", TINY)


@pytest.fixture(scope="module")
def jcm_file(tmp_path_factory) -> Path:
    path, weights = tmp_path_factory.mktemp("jcm") / "checkpoint_74", jcm_weights()
    online = {name: value + 1 for name, value in weights.items()}
    return write_jcm(path, params=online, target_params={k: -v for k, v in weights.items()}, params_ema=weights)


@torch.no_grad()
@pytest.mark.parametrize("arrays", ["whole", "chunked"])
def test_jcm_checkpoint_computes_the_reference_output(tmp_path, jcm_file, arrays):
    data, path = load(JCM), jcm_file
    if arrays == "chunked":
        weights = nest({name: pack_chunks(value, 1000) for name, value in jcm_weights().items()})
        path = tmp_path / "chunked"
        path.write_bytes(msgpack.packb({"step": 1, "params_ema": weights}))
    actual = load_network(path, SMALL_JCM)(tensor(data["x"].transpose(NCHW)), tensor(data["time_cond"]))
    assert_golden(JCM, "out_f32", actual.permute(NHWC))


def test_jcm_has_three_sets_of_weights(jcm_file):
    ema, online, target = (import_checkpoint(jcm_file, SMALL_JCM, weights) for weights in ("ema", "online", "target"))
    key = "enc.32x32_block0.conv0.weight"
    torch.testing.assert_close(online[key], ema[key] + 1)
    assert torch.equal(target[key], -ema[key])


def test_published_jcm_names_and_shapes_fit(tmp_path):
    arrays = {
        name: np.zeros(value.shape, np.float16) for name, value in published_tensors("jcm_ncsnpp_cifar10").items()
    }
    assert_fits(write_jcm(tmp_path / "checkpoint_80", params={}, params_ema=arrays), NCSNpp())


def test_the_fields_of_a_state_without_a_target_are_listed(tmp_path):
    path = write_jcm(tmp_path / "x", params=jcm_weights(), params_ema=jcm_weights())
    line = refusal(path, weights="target")
    assert "no target_params, where jcm keeps 'target' weights" in line and "'params_ema'" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Conv_0/kernel": None}, "Conv_0"),
        ({"Dense_0/bias": None}, "map_layer0.bias"),
        ({"AttnBlockpp_0/NIN_1/b": None}, "AttnBlockpp_0/NIN_1/b"),
        ({"Conv_9/kernel": np.zeros((1, 1, 1, 1), np.float32)}, "Conv_9"),
        ({"Conv_1/bias": np.zeros(7, np.float32)}, "dec.32x32_aux_conv.bias is [7], not [3]"),
        ({"AttnBlockpp_0/NIN_1/b": np.zeros(7, np.float32)}, "holds another network"),
        ({"Conv_1/bias": np.zeros(3, np.int32)}, "weights are int32"),
    ],
)
def test_jcm_weights_that_do_not_fit(tmp_path, change, message):
    weights = {name: value for name, value in jcm_weights().items() if name not in change}
    if "Conv_0/kernel" in change:
        weights.pop("Conv_0/bias")
    weights |= {name: value for name, value in change.items() if value is not None}
    assert message in refusal(write_jcm(tmp_path / "x", params_ema=weights))


@pytest.mark.parametrize(
    "content",
    [
        {"params_ema": {"a": msgpack.ExtType(1, b"")}},
        {"params_ema": {"a": msgpack.ExtType(1, msgpack.packb(((3,), "float32", b"123")))}},
        {"params_ema": {"a": msgpack.ExtType(1, msgpack.packb(((3,), "object", b"12345678")))}},
        {"params_ema": {"a": msgpack.ExtType(1, msgpack.packb(((-9, 3), "float32", b"1234")))}},
        {"params_ema": {"a": msgpack.ExtType(2, b"\x92\x00\x00")}},
        {"params_ema": {"a": {"__msgpack_chunked_array__": True, "shape": {}, "chunks": {"7": 1}}}},
        {"params_ema": [1, 2]},
    ],
)
def test_msgpack_of_something_else_than_flax(tmp_path, content):
    (tmp_path / "x").write_bytes(msgpack.packb(content))
    assert "is not a whole flax msgpack" in refusal(tmp_path / "x")


def test_msgpack_nested_without_end(tmp_path):
    (tmp_path / "x").write_bytes(b"\x81\xaaparams_ema" + b"\x81\xa1a" * 100_000 + b"\x01")
    assert "is not a whole flax msgpack" in refusal(tmp_path / "x")


@pytest.fixture
def snapshot_file(tmp_path) -> Path:
    whole = {"ema": nest_modules(edm_weights(SMALL_SONG)), "loss_fn": Part(), "dataset_kwargs": EasyDict(path="x")}
    (tmp_path / "network.pkl").write_bytes(snapshot(whole))
    return tmp_path / "network.pkl"


@torch.no_grad()
@pytest.mark.parametrize(
    ("file", "net", "protocol"),
    [(SONG, SMALL_SONG, 3), (SONG, SMALL_SONG, 4), (SONG, SMALL_SONG, 5), (DHARIWAL, GOLDEN_ADM, 4)],
    ids=lambda value: value if isinstance(value, str | int) else "",
)
def test_edm_snapshot_computes_the_reference_output(tmp_path, file, net, protocol):
    path, data = tmp_path / "any.name", load(file)
    path.write_bytes(snapshot({"ema": nest_modules(edm_weights(net))}, protocol))
    inputs = [tensor(data[name]) for name in ("x", "noise_labels", *(["class_labels"] if net.classes else []))]
    actual = load_network(path, net)(*inputs, augment_labels=tensor(data["augment_labels"]))
    assert_golden(file, "out_aug_f32", actual)


@pytest.mark.parametrize(("kind", "net"), SNAPSHOTS.items())
def test_published_edm_names_and_shapes_fit(tmp_path, kind, net):
    (tmp_path / "x.pkl").write_bytes(snapshot({"ema": nest_modules(published_tensors(f"edm_{kind}"))}))
    assert_fits(tmp_path / "x.pkl", net)


def test_a_snapshot_with_everything_that_training_stores(snapshot_file):
    assert_fits(snapshot_file, SMALL_SONG)


def test_a_snapshot_of_another_network_or_preconditioning(tmp_path, snapshot_file):
    wider = dataclasses.replace(SMALL_SONG, channels=64)
    assert "its map_noise.freqs is [32], not [64]" in refusal(snapshot_file, wider)
    assert "it has no map_label.weight" in refusal(snapshot_file, dataclasses.replace(SMALL_SONG, classes=10))
    assert "'map_augment.weight' has no place" in refusal(snapshot_file, SMALL_JCM)
    assert "holds another network" in refusal(snapshot_file, GOLDEN_ADM)
    other = tmp_path / "vp.pkl"
    other.write_bytes(snapshot({"ema": nest_modules(edm_weights(SMALL_SONG), VPPrecond)}))
    assert "in 'VPPrecond', not in 'EDMPrecond'" in refusal(other, SMALL_SONG)


@pytest.mark.parametrize("value", [{"net": 1}, {"ema": 1}, [], {"ema": {"_parameters": {}}}, {"ema": None}, 3.0])
def test_pickles_of_something_else(tmp_path, value):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
    assert "is not a whole network snapshot of EDM" in refusal(tmp_path / "x.pkl")


def test_views_of_one_storage(tmp_path):
    weights = edm_weights(SMALL_SONG)
    name, other = "model.enc.32x32_conv.weight", "model.map_layer1.weight"
    together = torch.cat([weights[name].flatten(), weights[other].T.flatten()])
    cut = weights[name].numel()
    views = {name: together[:cut].view(weights[name].shape), other: together[cut:].view(weights[other].shape).T}
    (tmp_path / "x.pkl").write_bytes(snapshot({"ema": nest_modules(weights | views)}))
    actual = import_checkpoint(tmp_path / "x.pkl", SMALL_SONG)
    assert all(torch.equal(actual[key.removeprefix("model.")], weights[key]) for key in weights)


def test_a_tensor_that_reaches_beyond_its_storage(tmp_path):
    class Wide:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (storage, 0, (10**6,), (1,), False, collections.OrderedDict())

    storage, top = torch.zeros(3)._typed_storage(), nest_modules({"model.map_layer0.bias": torch.zeros(3)})
    top._modules["model"]._modules["map_layer0"]._parameters["bias"] = Wide()
    (tmp_path / "x.pkl").write_bytes(snapshot({"ema": top}))
    assert "out of bounds" in refusal(tmp_path / "x.pkl")


def test_modules_that_contain_themselves(tmp_path):
    top = EDMPrecond()
    top._modules["model"] = nn.ModuleDict()
    top._modules["model"]._modules["again"] = top._modules["model"]
    (tmp_path / "x.pkl").write_bytes(snapshot({"ema": top}))
    assert "is not a whole network snapshot of EDM" in refusal(tmp_path / "x.pkl")


def test_the_format_decides_the_network(openai_file, jcm_file):
    assert "which holds a network 'adm', not 'ncsnpp'" in refusal(openai_file, SMALL_JCM)
    assert "which holds a network 'ncsnpp', not 'adm'" in refusal(jcm_file, TINY)


def test_arithmetic_that_no_name_reveals_is_checked(openai_file, tmp_path):
    for change in ({"noise_factor": 1.0}, {"group_channels": 4}):
        line = refusal(openai_file, dataclasses.replace(TINY, **change))
        assert "'openai' means noise_factor 1000 and group_channels 1, not" in line
    (tmp_path / "x.pkl").write_bytes(snapshot({"ema": nest_modules(edm_weights(GOLDEN_ADM))}))
    for change in ({"noise_factor": 1000.0}, {"group_channels": 1}):
        line = refusal(tmp_path / "x.pkl", dataclasses.replace(GOLDEN_ADM, **change))
        assert "'edm' means noise_factor 1 and group_channels 4, not" in line


def test_only_jcm_has_a_choice_of_weights(openai_file, jcm_file):
    assert "one set of weights, not 'online'" in refusal(openai_file, TINY, "online")
    with pytest.raises(UserError, match="unknown weights 'best'; known: ema, online, target"):
        import_checkpoint(jcm_file, SMALL_JCM, "best")
