"""The training loop, the same for every method. It knows no objective, data set or network by name."""

from __future__ import annotations

import contextlib
import signal
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cm.diffusion.sampling import autocast, to_device
from cm.errors import Interrupted
from cm.methods.base import Batch, Networks
from cm.networks.base import set_activation_checkpointing
from cm.training.batches import Batches
from cm.training.plan import Plan
from cm.training.saved import SavedFiles
from cm.training.signals import Signals
from cm.training.state import TrainingState, freeze
from cm.training.update import Update, compile_mode
from cm.utils.locks import hold_lock
from cm.utils.progress_bar import ProgressBar


class Trainer:
    """Trains the student of a plan, one step at a time; `state` holds everything that a step changes."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.state, self._batches = plan, TrainingState(plan), Batches(plan)
        self.teacher = freeze(to_device(plan.teacher, plan.device)) if plan.teacher is not None else None
        self._device, self._update = torch.device(plan.device), Update(plan, self.state)
        set_activation_checkpointing(self.state.student, plan.training.checkpointing)
        for module in (self.state.student, self.state.target, self.teacher):
            if plan.training.compile and module is not None:
                module.compile(mode=compile_mode(plan.training))

    def step(self) -> Tensor:
        """Do one step; returns the mean loss of the batch, a scalar on the device."""
        state = self.state
        state.optimiser.clear_gradients()
        loss = self._backward()
        self._update(state.step)
        state.step += 1
        return loss

    def close(self) -> None:
        """End the thread that loads the batches."""
        self._batches.close()

    def _backward(self) -> Tensor:
        """Add up the gradients of the mean loss over the microbatches; returns that loss."""
        plan, total = self.plan, torch.zeros((), device=self._device)
        for batch in self._batches.microbatches(self.state.step):
            if plan.training.cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            with autocast(self._device, plan.training.precision):
                losses = plan.objective.loss(self._networks(batch), batch)
            loss = losses.float().sum() / plan.training.batch
            self.state.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _networks(self, batch: Batch) -> Networks:
        """The networks with the dropout of this batch: student and target have the same masks, the teacher has none."""
        seeds = torch.from_numpy(batch.seeds).to(self._device)
        student, target = self.state.student, self.state.target
        return Networks(
            student=partial(student, dropout_seeds=seeds),
            target=partial(target, dropout_seeds=seeds) if target is not None else None,
            teacher=self.teacher,
        )


def train(plan: Plan) -> None:
    """Train from the saved state, or from the start, to the end, and leave one model for each kept percentage.

    A training that is complete already is left as it is. Raises UserError when the loss or a weight becomes non-finite,
    with the state before that on disk, and when another process trains the same run; raises Interrupted after a signal
    that asks for the end (see `signals`), with the state saved.
    """
    signals, saved = Signals(continue_on_sigterm=plan.continue_on_sigterm), SavedFiles(plan)
    with signals.handle(), hold_lock(saved.lock, f"the training of {plan.name} in {plan.out}"):
        saved.remove_leftovers()
        if saved.is_complete():
            saved.clear()
            print(f"{plan.name} is trained already: to train it anew, remove its models in {plan.out}", flush=True)
            return
        with contextlib.closing(Trainer(plan)) as trainer:
            _train(trainer, signals)


def _train(trainer: Trainer, signals: Signals) -> None:
    plan, state = trainer.plan, trainer.state
    state.resume()
    progress = ProgressBar(plan.name, plan.training.total_steps, start=state.step)
    last_save = Moment(state.step)
    while state.step < plan.last_step:
        _do_step(trainer, progress)
        if signals.save or plan.due(state.step) or state.step == plan.last_step or last_save.is_past(plan, state.step):
            state.save()
            last_save = Moment(state.step)
            _leave(signals.clear(), state)
    progress.close()
    if plan.stop_at is None:
        state.finish()


class Moment:
    """The step and the time at which a state was saved."""

    def __init__(self, step: int) -> None:
        self._step, self._time = step, time.monotonic()

    def is_past(self, plan: Plan, step: int) -> bool:
        """Whether the next state is due, after `step` steps."""
        steps_are_over = plan.save_steps is not None and step - self._step >= plan.save_steps
        return steps_are_over or time.monotonic() - self._time > plan.save_seconds


def _do_step(trainer: Trainer, progress: ProgressBar) -> None:
    """Do one step, look at its loss now and then, and write the models that are due after it."""
    plan, state = trainer.plan, trainer.state
    loss = trainer.step()
    due = plan.due(state.step)
    if plan.device == "cpu" or state.step % 50 == 0 or due:
        value = loss.item()
        if not np.isfinite(value):
            raise state.diverged(f"the loss is {value}")
        progress.update(state.step - progress.done, loss=value)
    for percentage in due:
        state.keep(percentage)


def _leave(number: signal.Signals | None, state: TrainingState) -> None:
    """Raise Interrupted if a signal asked for the end of the training, whose state is saved."""
    if number is not None:
        message = f"{number.name} after step {state.step}: the state is saved, the same command continues from there"
        raise Interrupted(message, 128 + number)
