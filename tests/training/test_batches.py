"""Every image has a seed of its own, so that the size of the microbatches changes nothing but rounding.

The draws are compared bit by bit. Losses and gradients are not: sums over another number of images have another order,
and convolutions choose another algorithm, so they agree to the rounding of float32.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import plan_of

from cm.diffusion.noise import KarrasNoise
from cm.methods.base import Batch
from cm.training.batches import Batches, image_seeds
from cm.training.plan import Plan
from cm.training.trainer import Trainer

SIZES = [1, 6, None]


def plan_with(place: Path, name: str, **training) -> Plan:
    """The plan of a run with other settings of its training."""
    plan = plan_of(place, f"digits/{name}/seed0")
    plan.training = dataclasses.replace(plan.training, **training)
    return plan


def batch_of(seeds: list[int], dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (1, 8, 8)) -> Batch:
    x = torch.zeros(len(seeds), *shape, dtype=dtype)
    return Batch(x, None, KarrasNoise(), 0, 1, np.array(seeds, np.int64))


def draws(batch: Batch) -> list[torch.Tensor]:
    return [batch.x, batch.integers(17), batch.normal(), batch.normal_scalar(), batch.uniform(), batch.normal()]


@pytest.mark.parametrize("step", [0, 5, 100])
@pytest.mark.parametrize("size", [1, 6])
def test_images_labels_and_draws_do_not_depend_on_the_microbatch(place, size, step):
    found = []
    for microbatch in (size, None):
        batches = Batches(plan_with(place, "classifier/default", flip=True, microbatch=microbatch))
        parts = [[*draws(batch), batch.labels, torch.from_numpy(batch.seeds)] for batch in batches.microbatches(step)]
        assert len(parts) == (-(-16 // microbatch) if microbatch else 1)
        found.append([torch.cat(pieces) for pieces in zip(*parts, strict=True)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "edm/dropout~0.3",
        "cd/dropout~0.3,target_mu~0.9",
        "ct/dropout~0.3",
        "pd/dropout~0.3,steps~2",
        "classifier/default",
    ],
)
@pytest.mark.parametrize("size", SIZES[:2])
def test_losses_and_gradients_do_not_depend_on_the_microbatch(place, name, size):
    """With dropout and flips."""
    found = []
    for microbatch in (size, None):
        trainer = Trainer(plan_with(place, name, flip=True, microbatch=microbatch))
        loss = trainer._backward()
        found.append((loss, torch.cat([p.grad.flatten() for p in trainer.state.student.parameters()])))
    (parted_loss, parted), (loss, gradient) = found
    torch.testing.assert_close(parted_loss, loss, rtol=1e-5, atol=0)
    assert (parted - gradient).norm() < 1e-5 * gradient.norm() and gradient.norm() > 0


@pytest.mark.parametrize("name", ["ct", "cd"])
def test_weights_do_not_depend_on_the_microbatch(place, name):
    """After four steps of RAdam, whose first steps, unlike Adam's, do not divide small gradients by themselves."""
    found = []
    for microbatch in SIZES:
        trainer = Trainer(plan_with(place, f"{name}/dropout~0.3", flip=True, lr=0.1, microbatch=microbatch))
        before = torch.cat([p.detach().flatten().clone() for p in trainer.state.student.parameters()])
        for _ in range(4):
            trainer.step()
        found.append(torch.cat([p.detach().flatten() for p in trainer.state.student.parameters()]) - before)
    for change in found[:2]:
        assert 0 < (change - found[2]).norm() < 1e-4 * found[2].norm()


def test_what_an_image_draws_depends_on_its_seed_only():
    whole, part, other = draws(batch_of([3, 5, 9])), draws(batch_of([5])), draws(batch_of([6]))
    assert all(torch.equal(a[1:2], b) for a, b in zip(whole, part, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(part[2:], other[2:], strict=True))
    assert not torch.equal(part[2], part[5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_their_distributions_shapes_and_types(dtype):
    batch = batch_of(list(range(4000)), dtype, (2, 3, 5))
    normal, scalar, uniform, integers = batch.normal(), batch.normal_scalar(), batch.uniform(), batch.integers(5)
    assert normal.shape == (4000, 2, 3, 5) and scalar.shape == uniform.shape == integers.shape == (4000,)
    assert normal.dtype == scalar.dtype == uniform.dtype == dtype and integers.dtype == torch.int64
    for numbers, mean, deviation in ((normal, 0, 1), (scalar, 0, 1), (uniform, 0.5, 12**-0.5), (integers, 2, 2**0.5)):
        numbers = numbers.double()
        assert abs(numbers.mean() - mean) < 4.5 * deviation / numbers.numel() ** 0.5
        assert abs(numbers.std() / deviation - 1) < 0.05
    assert integers.unique().tolist() == [0, 1, 2, 3, 4] and uniform.min() >= 0 and uniform.max() < 1


def test_seeds_differ_between_images_steps_and_runs():
    seeds = np.concatenate([image_seeds(seed, step, 64) for seed in (0, 1) for step in range(50)])
    assert len(np.unique(seeds >> np.uint64(1))) == len(seeds)
    assert np.array_equal(image_seeds(3, 7, 64), image_seeds(3, 7, 64))


def test_half_of_the_images_are_flipped_each_by_its_own_seed(place):
    plain, flipped = (Batches(plan_with(place, "ct/default", batch=500, flip=flip)) for flip in (False, True))
    (a,), (b,) = plain.microbatches(3), flipped.microbatches(3)
    kept = (a.x == b.x).flatten(1).all(1)
    mirrored = (a.x.flip(3) == b.x).flatten(1).all(1)
    assert (kept | mirrored).all() and 0.4 < kept.double().mean() < 0.6
    assert np.array_equal(a.seeds, b.seeds)


def test_every_epoch_has_each_image_once_in_another_order(place):
    plan = plan_with(place, "ct/default", batch=500)
    count = len(plan.images)
    plan.images = np.arange(count, dtype=np.int64)[:, None, None, None]
    indices = np.concatenate([Batches(plan)._indices(step) for step in range(2 * count // 500 + 1)])
    first, second = indices[:count], indices[count : 2 * count]
    assert np.array_equal(np.sort(first), np.arange(count)) and np.array_equal(np.sort(second), np.arange(count))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("setting", "same"), [("student", True), ("none", False)])
def test_the_target_network_has_the_students_dropout_mask_unless_it_has_none(place, setting, same):
    """With mu = 0 the target has the student's weights, so the outputs agree if and only if the masks do."""
    plan = plan_with(place, "cd/dropout~0.5", lr=0.1)
    assert plan.objective.target_dropout == "student"  # the default is what the official implementations do
    plan.objective = dataclasses.replace(plan.objective, target_dropout=setting)
    assert plan.objective.curriculum.target_mu == 0.0
    trainer = Trainer(plan)
    for _ in range(2):
        trainer.step()
        (batch,) = trainer._batches.microbatches(trainer.state.step)
        nets, t = trainer._networks(batch), torch.full((16,), 2.0)
        with torch.no_grad():
            student, target, teacher = (net(batch.x, t, None) for net in (nets.student, nets.target, nets.teacher))
            trainer.state.student.eval()
            without = nets.student(batch.x, t, None)
            trainer.state.student.train()
        assert torch.equal(student, target) is same and torch.equal(without, target) is not same
        assert torch.equal(teacher, trainer.teacher(batch.x, t, None)) and not trainer.teacher.training
