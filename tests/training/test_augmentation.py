"""EDM's augmentation: its maps and labels from their formulas, its resampling as EDM does it, and its randomness."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import plan_of

from cm.config import Training, check
from cm.errors import UserError
from cm.methods.base import Batch
from cm.training import augmentation
from cm.training.batches import Batches, image_seeds
from cm.training.trainer import Trainer

ALL = ("yflip", "scale", "rotate", "aniso", "translate")
SIZE = (12, 16)
SEEDS = image_seeds(1, 2, 4000)
NONE = np.zeros(len(SEEDS), bool)


def training(*names: str, probability: float = 1.0, flip: bool = False) -> Training:
    return Training(total_steps=1, batch=1, lr=1.0, flip=flip, augment=names, augment_probability=probability)


def drawn(*names: str, seeds: np.ndarray = SEEDS, **settings) -> augmentation.Transformations:
    return augmentation.draw(training(*names, **settings), seeds, np.zeros(len(seeds), bool), SIZE)


def matrix(*rows: tuple) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def rotation(angle: float) -> np.ndarray:
    return matrix((math.cos(angle), -math.sin(angle), 0), (math.sin(angle), math.cos(angle), 0), (0, 0, 1))


def inverse_of(labels: np.ndarray) -> np.ndarray:
    """The inverse map of one image from its labels: scale, rotate (2), translate (2), as EDM multiplies them."""
    scale, cos, sin, x, y = labels.astype(np.float64)
    zoom = matrix((2 ** (-0.2 * scale), 0, 0), (0, 2 ** (-0.2 * scale), 0), (0, 0, 1))
    shift = matrix((1, 0, -x * SIZE[1] * 0.125), (0, 1, -y * SIZE[0] * 0.125), (0, 0, 1))
    return zoom @ rotation(math.atan2(sin, cos + 1)) @ shift


def test_labels_describe_the_map():
    found = drawn("scale", "rotate", "translate")
    assert found.labels.shape == (len(SEEDS), 5) and found.labels.dtype == np.float32
    want = np.stack([inverse_of(labels) for labels in found.labels])
    np.testing.assert_allclose(found.inverse, want, atol=1e-5)


def test_anisotropic_scaling_stretches_along_an_axis_that_its_labels_give():
    """The labels are n (cos a, sin a), with y upwards: along that axis lengths are multiplied by 2^(0.2 n)."""
    found = drawn("aniso")
    length = np.hypot(*found.labels.T)
    axis = found.labels * [1, -1] / length[:, None]
    along, across = axis[:, :, None], np.stack([-axis[:, 1], axis[:, 0]], 1)[:, :, None]
    maps = np.linalg.inv(found.inverse[:, :2, :2])
    factor = np.linalg.norm(maps @ along, axis=(1, 2))
    np.testing.assert_allclose(np.abs(np.log2(factor)), 0.2 * length, atol=1e-5)  # n may be negative
    np.testing.assert_allclose(np.linalg.norm(maps @ across, axis=(1, 2)), 1 / factor, rtol=1e-5)
    plain = found.labels[:, 1] == 0
    assert plain.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("name", "moments"),
    [
        ("scale", [(0, 1)]),
        ("rotate", [(-1, 0.5**0.5), (0, 0.5**0.5)]),
        ("aniso", [(0, (0.5 + 0.25) ** 0.5), (0, 0.5)]),
        ("translate", [(0, 1), (0, 1)]),
    ],
)
def test_labels_have_the_distribution_of_edm(name, moments):
    labels = drawn(name).labels
    np.testing.assert_allclose(labels.mean(0), [mean for mean, _ in moments], atol=0.06)
    np.testing.assert_allclose(labels.std(0), [deviation for _, deviation in moments], atol=0.06)


@pytest.mark.parametrize("name", ALL)
def test_each_transformation_has_the_probability_of_the_setting(name):
    labels = drawn(name, probability=0.12).labels
    share = (labels != 0).any(1).mean()
    assert share == pytest.approx(0.06 if name == "yflip" else 0.12, abs=0.02)


def test_transformations_are_independent_and_drawn_alike_alone_and_together():
    together = drawn(*ALL, probability=0.5).labels
    offsets = {"yflip": slice(0, 1), "scale": slice(1, 2), "rotate": slice(2, 4), "aniso": slice(4, 6)}
    for name, part in offsets.items():
        assert np.array_equal(drawn(name, probability=0.5).labels, together[:, part])
    applied = np.stack([(together[:, part] != 0).any(1) for part in offsets.values()])
    assert np.abs(np.corrcoef(applied) - np.eye(4)).max() < 0.06


def test_the_number_of_labels_is_that_of_the_setting():
    assert training(*ALL, flip=True).augment_labels == 9
    assert training("scale", "aniso", "translate", flip=True).augment_labels == 6
    assert training(flip=True).augment_labels == 0
    flipped = SEEDS % 2 == 1
    labels = augmentation.draw(training(*ALL, flip=True), SEEDS, flipped, SIZE).labels
    assert labels.shape == (len(SEEDS), 9) and np.array_equal(labels[:, 0], flipped)


def resample_like_edm(images: torch.Tensor, inverse: np.ndarray) -> torch.Tensor:
    """EDM's steps in float64, one image at a time: margins as it needs, zeros between pixels, filter, grid, filter."""
    return torch.cat([_resample(x[None].double(), torch.from_numpy(g)) for x, g in zip(images, inverse, strict=True)])


def _resample(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    h, w = x.shape[2:]
    taps = torch.tensor(augmentation.SYM6, dtype=torch.float64).expand(x.shape[1], 1, 12)
    corners = torch.tensor([[sx * (w - 1) / 2, sy * (h - 1) / 2, 1] for sx in (-1, 1) for sy in (-1, 1)]).double() @ g.T
    reach = [corners[:, axis].neg().max() if low else corners[:, axis].max() for low in (1, 0) for axis in (0, 1)]
    limits = [w - 1, h - 1, w - 1, h - 1]
    x0, y0, x1, y1 = (
        math.ceil(min(max(float(part) + 6 - limit / 2, 0), limit)) for part, limit in zip(reach, limits, strict=True)
    )
    x = torch.nn.functional.pad(x, [x0, x1, y0, y1], mode="reflect")
    g = matrix_of((1, 0, (x0 - x1) / 2), (0, 1, (y0 - y1) / 2)) @ g
    for axis in (3, 2):
        x = _conv(_spread(x, axis), taps.flip(2), axis, padding=6)
    g = matrix_of((2, 0, 0), (0, 2, 0)) @ g @ matrix_of((0.5, 0, 0), (0, 0.5, 0))
    g = matrix_of((1, 0, -0.5), (0, 1, -0.5)) @ g @ matrix_of((1, 0, 0.5), (0, 1, 0.5))
    shape = [1, x.shape[1], 2 * (h + 6), 2 * (w + 6)]
    g = matrix_of((2 / x.shape[3], 0, 0), (0, 2 / x.shape[2], 0)) @ g
    g = g @ matrix_of((shape[3] / 2, 0, 0), (0, shape[2] / 2, 0))
    grid = torch.nn.functional.affine_grid(g[None, :2], shape, align_corners=False)
    x = torch.nn.functional.grid_sample(x, grid, padding_mode="zeros", align_corners=False)
    for axis in (3, 2):
        x = _conv(x, taps, axis, padding=5, stride=2)
    return x[:, :, 3:-3, 3:-3]


def matrix_of(*rows: tuple) -> torch.Tensor:
    return torch.tensor([*rows, (0, 0, 1)], dtype=torch.float64)


def _spread(x: torch.Tensor, axis: int) -> torch.Tensor:
    """A zero between any two neighbours along an axis."""
    spread = torch.stack([x, torch.zeros_like(x)], dim=axis + 1).flatten(axis, axis + 1)
    return spread.narrow(axis, 0, spread.shape[axis] - 1)


def _conv(x: torch.Tensor, taps: torch.Tensor, axis: int, *, padding: int, stride: int = 1) -> torch.Tensor:
    kernel, across = taps.unsqueeze(5 - axis), axis == 3
    size = {"padding": (0, padding) if across else (padding, 0), "stride": (1, stride) if across else (stride, 1)}
    return torch.nn.functional.conv2d(x, kernel, groups=x.shape[1], **size)


@pytest.mark.parametrize("name", ["scale", "rotate", "aniso", "translate"])
def test_images_are_resampled_as_in_edm(name):
    seeds = SEEDS[:6]
    inverse, x = drawn(name, seeds=seeds).inverse, torch.rand(6, 3, *SIZE) * 2 - 1
    got = augmentation.warp(x, torch.from_numpy(augmentation.grid_matrix(inverse, SIZE)))
    torch.testing.assert_close(got.double(), resample_like_edm(x, inverse), rtol=0, atol=2e-4)


def test_the_identity_leaves_an_image_as_it_is_up_to_its_filter():
    x = torch.nn.functional.interpolate(torch.rand(2, 1, 4, 4), size=SIZE, mode="bicubic")
    eye = np.broadcast_to(np.eye(3), (2, 3, 3))
    got = augmentation.warp(x, torch.from_numpy(augmentation.grid_matrix(eye, SIZE)))
    assert (got - x).abs().max() < 0.02


def test_a_shift_by_whole_pixels_moves_the_image():
    x = torch.rand(1, 1, *SIZE)
    shift = matrix((1, 0, -2), (0, 1, 1), (0, 0, 1))[None]
    moved = augmentation.warp(x, torch.from_numpy(augmentation.grid_matrix(shift, SIZE)))
    still = augmentation.warp(x, torch.from_numpy(augmentation.grid_matrix(np.eye(3)[None], SIZE)))
    torch.testing.assert_close(moved[..., 2:-3, 4:-2], still[..., 3:-2, 2:-4], rtol=0, atol=1e-4)


def augmented(place, **changes):
    plan = plan_of(place, "digits/meanflow/default/seed0")
    settings = {"augment_probability": 0.6, **changes}
    return dataclasses.replace(plan, training=dataclasses.replace(plan.training, **settings))


def batch(plan, step: int):
    batches = Batches(plan)
    parts = list(batches.microbatches(step))
    batches.close()
    return torch.cat([part.x for part in parts]), torch.cat([part.augment_labels for part in parts])


def test_an_image_is_augmented_by_its_seed_alone(place):
    """Neither the microbatch nor what was loaded before changes a bit of it."""
    x, labels = batch(augmented(place), 3)
    assert labels.shape == (16, 6) and (labels[:, 1:] != 0).any()
    for other in (augmented(place, microbatch=5), augmented(place, microbatch=1)):
        again, described = batch(other, 3)
        assert torch.equal(described, labels)
        torch.testing.assert_close(again, x, rtol=0, atol=1e-6)
    assert not torch.equal(batch(augmented(place), 4)[1], labels)


def test_the_labels_reach_the_network_in_training(place):
    with contextlib.closing(Trainer(augmented(place))) as trainer:
        trainer.step()
        gradient = trainer.state.student.network.map_augment.weight.grad
    assert gradient is not None and gradient.any()


def test_target_and_teacher_have_the_labels_of_the_student(place):
    labels = torch.ones(2, 3)
    with contextlib.closing(Trainer(plan_of(place, "digits/cd/default/seed0"))) as trainer:
        plan = trainer.plan
        batch = Batch(torch.zeros(2, 1, 8, 8), None, plan.noise, 0, 1, np.arange(2), augment_labels=labels)
        networks = trainer._networks(batch)
    assert all(
        net.keywords["augment_labels"] is labels for net in (networks.student, networks.target, networks.teacher)
    )


def test_an_image_without_augmentation_is_that_of_the_data(place):
    plan = augmented(place, augment=())
    parts = list(Batches(plan).microbatches(0))
    assert all(part.augment_labels is None for part in parts)
    assert torch.equal(parts[0].x, (parts[0].x.mul(127.5).add(127.5).round() / 127.5 - 1))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["scale", "yflip"], r"^t: augment must be written \[yflip, scale\]$"),
        (["scale", "scale"], r"^t: augment must be written \[scale\]$"),
        (["shear"], "unknown augment 'shear'; known: aniso, rotate, scale, translate, yflip"),
    ],
)
def test_unknown_and_unordered_transformations_are_refused(names, message):
    with pytest.raises(UserError, match=message):
        check(Training, {"total_steps": 1, "batch": 1, "lr": 1.0, "augment": names}, "t")
