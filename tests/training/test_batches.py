"""Every image has a seed of its own, so that the size of the microbatches changes nothing but rounding.

A thread loads the microbatches ahead of the steps, and what it loads is compared bit by bit with what is loaded without
a thread.

The draws are compared bit by bit. Losses and gradients are not: sums over another number of images have another order,
and convolutions choose another algorithm, so they agree to the rounding of float32.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import plan_of

from cm.diffusion.noise import KarrasNoise
from cm.errors import UserError
from cm.methods.base import Batch
from cm.training.batches import Batches, copy_images, image_seeds
from cm.training.plan import Plan
from cm.training.trainer import Trainer, train
from cm.utils import files, npy

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
    images = torch.from_numpy(plain._plan.images[plain._indices(3)]).permute(0, 3, 1, 2)
    assert torch.equal(a.x, images.float() / 127.5 - 1) and a.x.min() == -1 and a.x.max() == 1
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


def load_without_a_thread(batches: Batches, step: int) -> Iterator[Batch]:
    parts = itertools.chain.from_iterable(batches._parts(number) for number in itertools.count(step))
    return (batches._receive(batches._load(*part)) for part in parts)


def microbatches_without_a_thread(batches: Batches, step: int) -> Iterator[Batch]:
    return itertools.islice(load_without_a_thread(batches, step), len(batches._slices))


def same(a: Batch, b: Batch) -> bool:
    labels = (a.labels is None and b.labels is None) or torch.equal(a.labels, b.labels)
    return labels and torch.equal(a.x, b.x) and np.array_equal(a.seeds, b.seeds) and a.step == b.step


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.005)


@pytest.mark.parametrize("name", ["ct/default", "classifier/default"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("microbatch", [1, 6, None])
def test_the_thread_loads_the_same_in_any_order_of_steps(place, name, flip, microbatch):
    """From the start and from the middle, with jumps, across two epochs, and after a step that was left halfway."""
    plan = plan_with(place, name, flip=flip, microbatch=microbatch, batch=100)
    batches, parts = Batches(plan), len(range(0, 100, microbatch or 100))
    for step in (0, 1, 2, 8, 9, 3, 3, 4):
        found, wanted = list(batches.microbatches(step)), load_without_a_thread(Batches(plan), step)
        assert len(found) == parts and all(same(a, b) for a, b in zip(found, wanted, strict=False))
        assert found[0].step == step and (found[0].labels is None) is (name == "ct/default")
        next(batches.microbatches(step + 1))
    batches.close()


@pytest.mark.parametrize(
    "variant",
    ["classifier/default", "classifier/microbatch~6", "classifier/flip~true,microbatch~6", "meanflow/default"],
)
def test_weights_do_not_depend_on_the_thread(place, tmp_path, monkeypatch, variant):
    """Of meanflow, with EDM's augmentation."""
    name = f"digits/{variant}/seed0"
    train(plan_of(place, name, tmp_path / "thread"))
    monkeypatch.setattr(Batches, "microbatches", microbatches_without_a_thread)
    train(plan_of(place, name, tmp_path / "none"))
    with_it, without = (files.sha256_of(tmp_path / folder / "100.safetensors") for folder in ("thread", "none"))
    assert with_it == without


def test_two_microbatches_are_loaded_while_one_is_used(place, monkeypatch):
    loaded, load = [], Batches._load

    def load_and_record(self, step, indices, seeds):
        batch = load(self, step, indices, seeds)
        loaded.append((step, threading.current_thread()))
        return batch

    monkeypatch.setattr(Batches, "_load", load_and_record)
    batches = Batches(plan_with(place, "ct/default", microbatch=8))
    parts = batches.microbatches(4)
    next(parts)
    wait_until(lambda: len(loaded) == 3)
    time.sleep(0.05)
    assert [step for step, _ in loaded] == [4, 4, 5] and threading.current_thread() not in dict(loaded).values()
    assert len(list(parts)) == 1
    batches.close()


class DamagedImages:
    """Images of which the disk returns no more after some microbatches."""

    def __init__(self, images: np.ndarray, reads: int) -> None:
        self.images, self.reads, self.error = images, reads, OSError("the disk is gone")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        if not self.reads:
            raise self.error
        self.reads -= 1
        return self.images[indices]


@pytest.mark.parametrize("reads", [0, 1, 5])
def test_an_error_of_the_thread_is_raised_as_it_is_in_the_training(place, tmp_path, reads):
    plan = plan_of(place, "digits/ct/microbatch~8/seed0", tmp_path)
    plan.images = damaged = DamagedImages(plan.images, reads)
    threads = set(threading.enumerate())
    with pytest.raises(OSError, match="the disk is gone") as caught:
        train(plan)
    assert caught.value is damaged.error and set(threading.enumerate()) <= threads


@pytest.mark.parametrize("end", ["finished", "stopped", "interrupted", "diverged"])
def test_no_thread_is_left_when_a_training_ends(place, tmp_path, monkeypatch, end):
    threads = set(threading.enumerate())
    plan = plan_of(place, "digits/ct/microbatch~8/seed0", tmp_path, stop_at=3 if end == "stopped" else None)
    if end in ("finished", "stopped"):
        train(plan)
    else:
        error = KeyboardInterrupt if end == "interrupted" else FloatingPointError

        def fail(self, nets, batch):
            assert set(threading.enumerate()) > threads
            raise error

        monkeypatch.setattr(type(plan.objective), "loss", fail)
        with pytest.raises(error):
            train(plan)
    assert set(threading.enumerate()) <= threads


def test_the_parts_of_a_mapped_file_are_announced_before_they_are_read(place, monkeypatch):
    plan = plan_with(place, "ct/default", microbatch=5)
    announced = []

    def record(descriptor, start, length, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        announced.append(os.pread(descriptor, length, start))

    monkeypatch.setattr(os, "posix_fadvise", record)
    batches = Batches(plan)
    next(load_without_a_thread(batches, 2))
    indices = batches._indices(2)[:5]
    assert isinstance(plan.images, np.memmap) and announced == [plan.images[index].tobytes() for index in indices]
    plan.images = np.array(plan.images)
    next(load_without_a_thread(batches, 2))
    assert len(announced) == 5


@pytest.mark.parametrize("left", [0, 1, 4096, -1])
def test_images_that_are_truncated_while_they_are_mapped_are_reported(place, tmp_path, left):
    """Reading them from the mapping would end the process with SIGBUS."""
    shutil.copytree(place / "data", tmp_path / "data")
    plan = plan_with(place, "ct/default")
    path = tmp_path / "data" / "train" / "images.npy"
    plan.images = npy.read_images(path)
    whole = copy_images(plan.images, np.arange(len(plan.images)))
    assert np.array_equal(whole, np.load(path))
    os.truncate(path, path.stat().st_size - 1 if left < 0 else left)
    with pytest.raises(UserError, match=r"images\.npy was truncated while it was read"):
        copy_images(plan.images, np.arange(len(plan.images)))
    batches = Batches(plan)
    with pytest.raises(UserError, match="was truncated"):
        for step in range(len(plan.images)):
            list(batches.microbatches(step))
    batches.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_while_it_computes(place):
    plan = plan_with(place, "classifier/default", flip=True, microbatch=8)
    plan.device = "cuda"
    batches, busy = Batches(plan), torch.randn(2000, 2000, device="cuda")
    for step in range(20):
        wanted = list(itertools.islice(load_without_a_thread(Batches(plan), step), 2))
        for batch, other in zip(batches.microbatches(step), wanted, strict=True):
            busy = (busy @ busy).tanh()
            assert batch.x.is_cuda and batch.labels.is_cuda and same(batch, other)
            batch.x.normal_()
    batches.close()
