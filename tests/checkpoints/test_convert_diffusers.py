"""Folders of diffusers: its pipeline computes the same images as our samplers, and we read what we write."""

from __future__ import annotations

import dataclasses
import itertools
import json
import struct
from pathlib import Path

import pytest
import torch
from foreign import IMAGENET, LSUN, SMALL_JCM, TINY, add_prefix, assert_fits, description, refusal
from goldens import recipe_weights
from nets import on_meta
from torch import nn

from cm import build, config
from cm.checkpoints import diffusers_folder, diffusers_names, export_checkpoint, import_checkpoint, writing
from cm.diffusion.samplers import Multistep, OneStep
from cm.errors import UserError

PLAIN = dataclasses.replace(TINY, classes=0, scale_shift=False, multipliers=[1, 1, 2], attention=[8, 4])
NETS = {"scale and shift": TINY, "added": PLAIN, "heads": dataclasses.replace(TINY, channels=64, blocks=2)}


@pytest.fixture(scope="module", params=NETS)
def exported(request, tmp_path_factory) -> tuple[nn.Module, dict, Path]:
    """A consistency model with random weights, its description, and the folder to which it is exported."""
    torch.manual_seed(0)
    about, folder = description(NETS[request.param]), tmp_path_factory.mktemp("diffusers") / "model"
    model = recipe_weights(build.build_model(about)).eval()
    export_checkpoint(model.state_dict(), about, folder, "diffusers")
    return model, about, folder


@pytest.fixture(scope="module")
def diffusers():
    """The package; it takes seconds to import."""
    import diffusers

    return diffusers


@torch.no_grad()
def test_the_pipeline_of_diffusers_computes_the_same_images(exported, diffusers):
    model, about, folder = exported
    pipeline = diffusers.ConsistencyModelPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    net, noise = model.network, build.build_noise(about)
    z = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 4, 2]) if net.classes else None
    tau = float(noise.times(40)[22])
    for sampler, timesteps in ((OneStep(), [0]), (Multistep([tau]), [22, 0])):
        streams = [torch.Generator().manual_seed(2) for _ in range(2)]
        expected = sampler(
            lambda x, t: model(x, t, labels).clamp(-1, 1),
            z,
            noise,
            lambda stream=streams[0]: torch.randn(z.shape, generator=stream),
        )
        classes = None if labels is None else labels.tolist()
        how = {"timesteps": timesteps, "class_labels": classes, "generator": streams[1], "output_type": "pt"}
        actual = pipeline(batch_size=3, latents=z, **how).images
        assert expected.std() > 0.1
        torch.testing.assert_close(actual, (expected / 2 + 0.5).clamp(0, 1), rtol=0, atol=2e-5)


@pytest.mark.parametrize("bare", [False, True], ids=["pipeline", "unet"])
def test_back_from_diffusers_is_bitwise_the_same(exported, bare):
    model, about, folder = exported
    net = NETS[next(name for name, each in NETS.items() if description(each) == about)]
    back, first = import_checkpoint(folder / "unet" if bare else folder, net), model.network.state_dict()
    assert back.keys() == first.keys() and all(torch.equal(back[name], first[name]) for name in first)


@pytest.mark.parametrize(("net", "heads"), [(IMAGENET, 64), (LSUN, 64)], ids=["imagenet", "lsun"])
def test_full_size_names_and_shapes_are_those_of_unet2dmodel(diffusers, net, heads):
    config = {key: value for key, value in diffusers_folder.unet_config(net).items() if not key.startswith("_")}
    with torch.device("meta"):
        theirs = diffusers.UNet2DModel(**config)
        ours = diffusers_names.unet_state_dict(on_meta(net).state_dict(), net)
        back = diffusers_names.adm_state_dict(ours, net)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in on_meta(net).state_dict().items()}
    assert config["attention_head_dim"] == heads


def test_the_scheduler_has_the_grid_of_the_run(tmp_path):
    about = description(PLAIN, noise={"name": "karras", "sigma_max": 50.0, "rho": 5.0, "sigma_min": 0.01})
    export_checkpoint(add_prefix(PLAIN.build().state_dict()), about, tmp_path / "model", "diffusers")
    found = json.loads((tmp_path / "model" / "scheduler" / "scheduler_config.json").read_text())
    assert {key: found[key] for key in ("sigma_min", "sigma_max", "rho", "sigma_data", "s_noise")} == {
        "sigma_min": 0.01,
        "sigma_max": 50.0,
        "rho": 5.0,
        "sigma_data": 0.5,
        "s_noise": 1.0,
    }
    assert found["num_train_timesteps"] == 40 and found["clip_denoised"]


@pytest.mark.parametrize(
    ("objective", "steps"),
    [
        ({"curriculum": {"name": "fixed", "steps": 18, "target_mu": 0.0}}, 18),
        ({"curriculum": {"name": "adaptive", "s1": 150}}, 151),
        ({"curriculum": "adaptive"}, 151),
        ({"steps": 120}, 120),
        ({"q": 2.0}, 40),
    ],
)
def test_steps_of_the_scheduler(objective, steps):
    assert writing.final_steps(objective, "digits/ct/default/seed0") == steps


@pytest.mark.parametrize(("run", "steps"), [("imagenet64/cd/default/seed0", 40), ("digits/cd/steps~9/seed0", 9)])
def test_the_scheduler_has_the_steps_of_a_run(run, steps):
    about = config.Experiments().run(run).describe()
    assert writing.final_steps(about["objective"], run) == steps


@pytest.mark.parametrize(
    ("net", "changes", "format_name", "message"),
    [
        (TINY, {"preconditioning": "edm"}, "diffusers", "preconditioning 'edm'"),
        (TINY, {"preconditioning": None}, "diffusers", "preconditioning 'None'"),
        (SMALL_JCM, {}, "diffusers", "is a network 'ncsnpp'; the format 'diffusers' holds 'adm' only"),
        (SMALL_JCM, {}, "openai", "is a network 'ncsnpp'"),
        (TINY, {}, "onnx", "unknown format 'onnx'; known: bfloat16, diffusers, openai"),
        (dataclasses.replace(TINY, noise_factor=1.0), {}, "diffusers", "multiplied by 1, those of diffusers by 1000"),
        (dataclasses.replace(TINY, group_channels=4), {}, "diffusers", "groups, those of diffusers all the same"),
        (dataclasses.replace(TINY, multipliers=[2, 4]), {}, "diffusers", "its first multiplier is 2"),
        (dataclasses.replace(TINY, augment_dim=9), {}, "diffusers", "augmentation labels"),
        (dataclasses.replace(TINY, augment_dim=9), {}, "openai", "augment"),
        (dataclasses.replace(TINY, double_norm=True), {}, "diffusers", "scales and shifts are normalised"),
        (dataclasses.replace(TINY, double_norm=True), {}, "openai", "'openai' has no network with double_norm"),
        (dataclasses.replace(TINY, noise_factor=1.0), {}, "openai", "means noise_factor 1000"),
    ],
)
def test_models_that_a_format_cannot_hold(tmp_path, net, changes, format_name, message):
    with pytest.raises(UserError, match=message) as caught:
        export_checkpoint(
            add_prefix(net.build().state_dict()), description(net, **changes), tmp_path / "out", format_name
        )
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("format_name", ["diffusers", "openai"])
def test_export_overwrites_nothing_and_leaves_nothing_half_written(tmp_path, monkeypatch, format_name):
    tensors, out = add_prefix(TINY.build().state_dict()), tmp_path / "out"
    with pytest.raises(UserError, match=r"has no out_conv\.bias"):
        export_checkpoint(
            {k: v for k, v in tensors.items() if "out_conv.bias" not in k}, description(TINY), out, format_name
        )
    with monkeypatch.context() as patched:
        for module, name in ((torch, "save"), (__import__("safetensors.torch").torch, "save_file")):
            patched.setattr(module, name, lambda *_, **__: struct.unpack("Q", b""))
        with pytest.raises(struct.error):
            export_checkpoint(tensors, description(TINY), out, format_name)
    assert not list(tmp_path.iterdir())
    export_checkpoint(tensors, description(TINY), out, format_name)
    before = sorted(path.stat().st_mtime_ns for path in (out, *out.rglob("*")))
    with pytest.raises(UserError, match="exists already"):
        export_checkpoint(tensors, description(TINY), out, format_name)
    assert before == sorted(path.stat().st_mtime_ns for path in (out, *out.rglob("*")))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def damage(folder: Path, name: str, change: object) -> None:
    path = folder / "unet" / name
    if change is None:
        path.unlink()
    elif isinstance(change, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        path.write_bytes(change)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", None, "without unet/config.json"),
        ("config.json", b"{", "is not JSON"),
        ("config.json", b"[]", "no configuration of a UNet2DModel"),
        ("config.json", {"_class_name": "UNet2DConditionModel"}, "its _class_name is UNet2DConditionModel"),
        ("config.json", {"attention_head_dim": 8}, "its attention_head_dim is 8, not 32"),
        ("config.json", {"norm_eps": 1e-6}, "its norm_eps is 1e-06"),
        ("config.json", {"block_out_channels": [32, 96]}, "[32, 96], not [32, 64]"),
        ("config.json", {"sample_size": 32}, "its sample_size is 32, not 16"),
        ("config.json", {"attn_norm_num_groups": 16}, "its attn_norm_num_groups is 16"),
        ("diffusion_pytorch_model.safetensors", None, "no file"),
        ("diffusion_pytorch_model.safetensors", b"\x00" * 20, "is not a whole safetensors file"),
    ],
)
def test_folders_that_are_damaged_or_of_another_network(tmp_path, name, change, message):
    export_checkpoint(add_prefix(TINY.build().state_dict()), description(TINY), tmp_path / "model", "diffusers")
    damage(tmp_path / "model", name, change)
    assert message in refusal(tmp_path / "model", TINY)


def test_a_folder_with_other_tensors(tmp_path):
    from safetensors.torch import load_file, save_file

    export_checkpoint(add_prefix(TINY.build().state_dict()), description(TINY), tmp_path / "model", "diffusers")
    path = tmp_path / "model" / "unet" / diffusers_folder.WEIGHTS
    tensors = load_file(path)
    changes = itertools.product(["mid_block.attentions.0.to_k.weight", "conv_in.bias"], [None, torch.zeros(2, 2)])
    for name, value in changes:
        changed = {k: v for k, v in tensors.items() if k != name} | ({} if value is None else {name: value})
        save_file(changed, path)
        assert "holds another network" in refusal(tmp_path / "model", TINY)
    save_file(tensors | {"spare": torch.zeros(1)}, path)
    assert "'spare' has no place" in refusal(tmp_path / "model", TINY)


def test_released_configurations_are_accepted(tmp_path):
    """The configurations of openai/diffusers-cd_* have more keys than ours, and groups of None."""
    export_checkpoint(add_prefix(PLAIN.build().state_dict()), description(PLAIN), tmp_path / "model", "diffusers")
    more = {"attn_norm_num_groups": None, "add_attention": True, "_diffusers_version": "0.18.0.dev0"}
    damage(tmp_path / "model", "config.json", more)
    assert_fits(tmp_path / "model", PLAIN)
