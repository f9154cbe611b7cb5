"""`cm edit` by hand: what it writes, that known pixels stay, and one clear line before anything is computed."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest
import torch
from goldens import recipe_weights
from PIL import Image

from cm import build, registry
from cm.checkpoints import native
from cm.cli import main
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.operators import KnownPixels
from cm.evaluation import editing, similarity
from cm.evaluation.imagesets.base import Images
from cm.utils import files, npy

PATCHES = "superresolution,patch~2,times~5.0+1.0"
HALF = "inpainting,mask~half,times~5.0+1.0"


@pytest.fixture
def model(place):
    return place / "models/digits/edm/default/seed0/100.safetensors"


@pytest.fixture
def originals(place):
    return place / "data/test/images.npy"


@pytest.fixture
def scoring(place):
    classifier = place / "models/digits/classifier/default"
    (place / "few.yaml").write_text(
        "extractor: digits/classifier/default/seed0\nresizer: none\nsamples: 40\nmetrics: [fid]\n"
    )
    return {
        "protocol": place / "few.yaml",
        "reference": place / "data/train/images.npy",
        "extractor": classifier / "seed0/100.safetensors",
        "perceptual": classifier / "seed1/100.safetensors",
    }


@pytest.fixture
def conditional(place, model, tmp_path):
    """A class-conditional model with random weights."""
    description = native.description(model)
    description["network"] = description["network"] | {"classes": 10}
    path = tmp_path / "conditional.safetensors"
    native.save(path, recipe_weights(build.build_model(description)).state_dict(), description)
    return path


def edit(**options) -> int:
    """`cm edit` with options as a user types them."""
    return main(["edit", *(str(part) for name, value in options.items() for part in (f"--{name}", value))])


def test_known_pixels_keep_their_levels(model, originals, tmp_path):
    out = tmp_path / "out.npy"
    assert edit(model=model, edit=HALF, images=originals, count=20, out=out, batch=7) == 0
    edited, real = npy.read_images(out), npy.read_images(originals)[:20]
    assert np.array_equal(edited[:, :, :4], real[:, :, :4])
    assert not np.array_equal(edited[:, :, 4:], real[:, :, 4:])


def test_neither_the_batch_nor_the_number_of_images_changes_a_result(model, originals, tmp_path):
    for name, options in {"a": {"batch": 7, "count": 20}, "b": {"batch": 64, "count": 9}}.items():
        assert edit(model=model, edit=HALF, images=originals, out=tmp_path / f"{name}.npy", **options) == 0
    a, b = (npy.read_images(tmp_path / f"{name}.npy").astype(int) for name in "ab")
    assert abs(a[:9] - b).max() <= 1  # by the rounding of another batch


def test_a_folder_of_images_and_a_mask_of_ones_own(model, originals, tmp_path):
    (tmp_path / "images").mkdir()
    for index, image in enumerate(npy.read_images(originals)[:3]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"images/{index}.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[::2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = {"images": tmp_path / "images", "mask": tmp_path / "mask.png", "edit": "inpainting,mask~mine,steps~3"}
    assert edit(model=model, out=tmp_path / "out.npy", **options) == 0
    assert np.array_equal(npy.read_images(tmp_path / "out.npy")[:, ::2], npy.read_images(originals)[:3, ::2])


@pytest.mark.parametrize(("name", "columns"), [(PATCHES, 3), ("stroke,median~3", 6), ("denoising", 3)])
def test_a_preview_has_what_was_given_the_results_and_the_original(model, originals, tmp_path, name, columns):
    preview = tmp_path / "p.npy"
    assert edit(model=model, edit=name, images=originals, count=30, preview=preview) == 0
    rows = npy.read_images(preview).reshape(16, columns, 8, 8, 1)
    assert np.array_equal(rows[:, -1], npy.read_images(originals)[:16])
    assert len({row.tobytes() for row in rows[0]}) == columns
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_interpolation_begins_with_a_sample(model, tmp_path):
    assert edit(model=model, edit="interpolation,points~3", count=4, seed=2, preview=tmp_path / "p.npy") == 0
    found = npy.read_images(tmp_path / "p.npy").reshape(4, 3, 8, 8, 1).astype(int)
    arguments = ["--sampler", "onestep", "--count", "4", "--seed", "2", "--quantization", "round"]
    assert main(["sample", "--model", str(model), *arguments, "--out", str(tmp_path / "s.npy")]) == 0
    assert abs(found[:, 0] - npy.read_images(tmp_path / "s.npy")).max() <= 1


def test_the_score_of_an_edit(model, originals, scoring, tmp_path):
    out = {"score": tmp_path / "score.json", "out": tmp_path / "out.npy"}
    assert edit(model=model, edit=PATCHES, images=originals, count=60, **out, **scoring) == 0
    found, edited = files.read_json(out["score"]), npy.read_images(out["out"]).astype(float)
    assert (found["images"], found["nfe"], found["edit"], found["source"]) == (60, 2, PATCHES, "data/test")
    assert list(found["methods"]) == ["model", "bicubic upsampling", "block means"]
    assert found["perceptual"] == "digits/classifier/default/seed1"
    real = npy.read_images(originals)[:60].astype(float)
    errors = ((edited - real) ** 2).mean((1, 2, 3))
    assert found["methods"]["model"]["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), abs=1e-3)
    blocks = [images.reshape(60, 4, 2, 4, 2).mean((2, 4)) for images in (edited, real)]
    wanted = math.sqrt(((blocks[0] - blocks[1]) ** 2).mean())
    assert found["methods"]["model"]["known"] == pytest.approx(wanted, abs=1e-3)
    assert found["methods"]["block means"]["known"] < 0.51  # only the rounding to 8 bits
    for numbers in found["methods"].values():
        assert all(math.isfinite(numbers[name]) for name in ("psnr", "ssim", "lpips", "fid", "known"))
    assert not list(tmp_path.glob(".editing-*"))


def test_the_better_images_score_better():
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (4, 16, 16, 1), generator=generator, dtype=torch.uint8).numpy()
    noise = torch.randn(real.shape, generator=generator).numpy()
    found = []
    for level in (0, 5, 50):
        scores = similarity.Similarity(KnownPixels(torch.ones(16, 16)), None)
        scores.add((real + level * noise).clip(0, 255).astype(np.uint8), real)
        found.append(scores.summary())
    assert [found[0][name] for name in ("psnr", "ssim", "known", "lpips")] == [100.0, pytest.approx(1.0), 0.0, None]
    for name, sign in (("psnr", -1), ("ssim", -1), ("known", 1)):
        assert sign * found[0][name] < sign * found[1][name] < sign * found[2][name]


def test_labels_reach_the_network(conditional, originals, tmp_path):
    np.save(tmp_path / "labels.npy", np.arange(40) % 10)
    options = {"model": conditional, "edit": "denoising,sigma~80.0", "images": originals, "count": 10}
    for name, labels in {"a": "3", "b": "4", "c": tmp_path / "labels.npy"}.items():
        assert edit(**options, labels=labels, out=tmp_path / f"{name}.npy") == 0
    found = {name: npy.read_images(tmp_path / f"{name}.npy") for name in "abc"}
    assert not np.array_equal(found["a"], found["b"])
    assert abs(found["c"][3].astype(int) - found["a"][3]).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edit": HALF}, "needs the images that are edited (--images)"),
        ({"edit": "interpolation", "images": True}, "is between noises and takes no images"),
        ({"edit": "colorization", "images": True}, "colorization needs images of 3 channels, not 1"),
        ({"edit": "superresolution,patch~3", "images": True}, "blocks of patch 3 do not tile images of 8x8"),
        ({"edit": "inpainting,times~1.0+5.0", "images": True}, "times must be positive and decrease, not [1.0, 5.0]"),
        ({"edit": "inpainting,mask~mine", "images": True}, "unknown mask 'mine'; known: centre, half, letter"),
        ({"edit": "denoising", "images": True, "mask": True}, "takes no mask"),
        ({"edit": HALF, "images": True, "mask": (9, 8)}, "is a mask of 9x8 pixels, not 8x8"),
        ({"edit": HALF, "images": True, "mask": "grey"}, "must be black (unknown) and white (known) only"),
        ({"edit": HALF, "images": True, "labels": 3}, "is not class-conditional and takes no labels"),
        ({"edit": HALF, "images": True, "score": True}, "--score needs the real images (--reference)"),
    ],
)
def test_mistakes_are_refused_before_anything_is_computed(
    model, originals, tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.setattr(editing, "map_on_devices", lambda *_: pytest.fail("computed"))
    pixels = np.zeros(options.get("mask") if isinstance(options.get("mask"), tuple) else (8, 8), np.uint8)
    pixels[0] = 128 if options.get("mask") == "grey" else 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    paths = {"images": originals, "mask": tmp_path / "mask.png", "score": tmp_path / "score.json"}
    given = {name: paths.get(name, value) for name, value in options.items()}
    assert edit(model=model, out=tmp_path / "out.npy", **given) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize("name", [HALF, "interpolation"])
def test_a_class_conditional_model_without_labels_is_refused(conditional, originals, tmp_path, capsys, name):
    options = {} if name == "interpolation" else {"images": originals}
    assert edit(model=conditional, edit=name, out=tmp_path / "out.npy", **options) == 2
    assert "is class-conditional (10 classes): give the labels of the images (--labels)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "message"),
    [("10", "labels must be in 0..9"), ("-1", "labels must be a class"), ("few.npy", "has 3 labels of 898 images")],
)
def test_labels_that_do_not_fit_are_refused(conditional, originals, tmp_path, capsys, monkeypatch, labels, message):
    monkeypatch.chdir(tmp_path)
    np.save("few.npy", np.zeros(3, np.int64))
    assert edit(model=conditional, edit=HALF, images=originals, labels=labels, out="out.npy") == 2
    assert message in capsys.readouterr().err


def test_images_of_another_size_and_nothing_to_write_are_refused(model, originals, tmp_path, capsys):
    np.save(tmp_path / "large.npy", np.zeros((2, 16, 16, 1), np.uint8))
    assert edit(model=model, edit=HALF, images=tmp_path / "large.npy", out=tmp_path / "out.npy") == 2
    assert "has images of [16, 16, 1]" in capsys.readouterr().err
    assert edit(model=model, edit=HALF, images=originals) == 2
    assert "nothing is to be written" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Endless(Images):
    """So many blank images, none of which takes memory before it is read."""

    count: int
    shape = (8, 8, 1)

    def __len__(self) -> int:
        return self.count

    def batches(self, batch, workers, start=0):
        for place in range(start, self.count, batch):
            yield np.zeros((min(batch, self.count - place), *self.shape), np.uint8)

    def subset(self, places):
        return self

    def sha256(self):
        return ""


def test_memory_depends_on_the_batch_only():
    edit_of, module, peaks = registry.get("edit", "denoising")(), torch.nn.Linear(1, 1), []
    module.forward = lambda x, t, labels: x
    settings = editing.EditingSettings(KarrasNoise(), seed=0, batch=32)
    for count in (64, 1024):
        tracemalloc.start()
        operator = edit_of.operator((1, 8, 8))
        batches = editing.edit_images(module, edit_of, operator, Endless(count), settings)
        assert sum(len(batch.edited[0]) for batch in batches) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 100_000
