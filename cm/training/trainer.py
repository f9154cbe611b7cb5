"""The training loop, the same for every method. It knows no objective, data set or network by name."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cm.diffusion.precision import autocast
from cm.diffusion.sampling import to_device
from cm.errors import Interrupted
from cm.methods.base import Batch, Networks, NonFinite
from cm.networks.base import set_activation_checkpointing
from cm.training.batches import Batches
from cm.training.metrics_log import MetricsLog, gradient_norm, open_log
from cm.training.plan import Plan
from cm.training.saved import SavedFiles
from cm.training.signals import Signals
from cm.training.state import TrainingState, freeze
from cm.training.update import Update
from cm.utils.devices import send
from cm.utils.locks import hold_lock
from cm.utils.progress_bar import ProgressBar


class Trainer:
    """Trains the student of a plan, one step at a time; `state` holds everything that a step changes."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.state, self._batches = plan, TrainingState(plan), Batches(plan)
        self.teacher = freeze(to_device(plan.teacher, plan.device)) if plan.teacher is not None else None
        self._device, self._update = torch.device(plan.device), Update(plan, self.state)
        self.gradient_norm = torch.zeros(())  # of the last step that is logged
        set_activation_checkpointing(self.state.student, plan.training.checkpointing)
        for module in (self.state.student, self.state.target, self.teacher):
            if plan.training.compile and module is not None:
                module.compile(mode=plan.training.compile_mode)

    def step(self, wishes: Wishes | None = None) -> Tensor:
        """Do one step; returns [3]: the mean loss of the global batch, and how many processes want to save and leave.

        `wishes`: those of this process, by default none.
        """
        state = self.state
        state.optimiser.clear_gradients()
        loss = self._backward()
        wanted = loss.new_tensor([wishes.save, wishes.leave] if wishes else [0, 0])
        numbers = torch.cat([loss[None], wanted])
        numbers = self.plan.processes.sum_gradients(state.optimiser.parameters, numbers)
        state.losses.add(numbers[0])
        if self.plan.is_logged(state.step + 1):
            self.gradient_norm = gradient_norm(state.optimiser.parameters, state.scaler.get_scale())
        self._update(state.step)
        state.step += 1
        return numbers

    def close(self) -> None:
        """End the thread that loads the batches."""
        self._batches.close()

    def _backward(self) -> Tensor:
        """Add up the gradients of the mean loss over the microbatches; returns the part of the loss of this process."""
        plan, total = self.plan, torch.zeros((), device=self._device)
        for batch in self._batches.microbatches(self.state.step):
            if plan.training.cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            with autocast(self._device, plan.training.precision):
                losses = self._losses(batch)
            loss = losses.float().sum() / plan.training.batch
            self.state.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _losses(self, batch: Batch) -> Tensor:
        """The loss of each image of a microbatch, [B]. Raises UserError if a part of it is not finite."""
        try:
            return self.plan.objective.loss(self._networks(batch), batch)
        except NonFinite as error:
            raise self.state.diverged(str(error)) from None

    def _networks(self, batch: Batch) -> Networks:
        """The networks with the dropout and the augmentation labels of this batch.

        Student and target have the same dropout masks, the teacher has none.
        """
        seeds = send(torch.from_numpy(batch.seeds), self._device)
        labels = {} if batch.augment_labels is None else {"augment_labels": batch.augment_labels}
        student, target, teacher = self.state.student, self.state.target, self.teacher
        return Networks(
            student=partial(student, dropout_seeds=seeds, **labels),
            target=partial(target, dropout_seeds=seeds, **labels) if target is not None else None,
            teacher=partial(teacher, **labels) if teacher is not None else None,
            own=self.state.own,
        )


def train(plan: Plan) -> None:
    """Train from the saved state, or from the start, to the end, and leave one model for each kept percentage.

    Of several processes the first one writes the files. A training that is complete already is left as it is. Raises
    UserError when the loss or a weight becomes non-finite or the weights of two processes differ, with the state before
    that on disk, and when another process trains the same run; raises Interrupted after a signal that asks for the end
    (see `signals`), with the state saved.
    """
    signals = Signals(continue_on_sigterm=plan.continue_on_sigterm)
    with signals.handle(), _hold_files(plan) as complete:
        if not complete:
            with contextlib.closing(Trainer(plan)) as trainer:
                _train(trainer, signals)


@contextlib.contextmanager
def _hold_files(plan: Plan) -> Iterator[bool]:
    """A context in which the files of a run are those of this training alone; whether the training is complete."""
    saved, processes = SavedFiles(plan), plan.processes
    if not processes.is_first:
        yield processes.any(False)
        return
    with hold_lock(saved.lock, f"the training of {plan.name} in {plan.out}"):
        saved.remove_leftovers()
        complete = saved.is_complete()
        if complete:
            saved.clear()
            print(f"{plan.name} is trained already: to train it anew, remove its models in {plan.out}", flush=True)
        yield processes.any(complete)


def _train(trainer: Trainer, signals: Signals) -> None:
    plan, state, processes = trainer.plan, trainer.state, trainer.plan.processes
    _resume(state)
    progress = ProgressBar(plan.name, plan.training.total_steps, start=state.step, shown=processes.is_first)
    own, first_step = OwnWishes(plan, signals, state.step), state.step + 1
    with open_log(plan, state) as log:
        while state.step < plan.last_step:
            wishes = _do_step(trainer, progress, own, log)
            if state.step == first_step:
                state.check_equal()
            if wishes.save or plan.due(state.step) or state.step == plan.last_step:
                log.save()
                state.save()
                number = own.clear(state.step)
                if wishes.leave:
                    _leave(number or signal.SIGTERM, state)
    progress.close()
    if plan.stop_at is None:
        state.finish()


def _resume(state: TrainingState) -> None:
    """Continue from the saved state: first the first process, which sets aside what cannot be continued."""
    processes = state.plan.processes
    if processes.is_first:
        state.resume()
    processes.wait()
    if not processes.is_first:
        state.resume()


@dataclass(frozen=True)
class Wishes:
    """Whether a process, or one of several, wants the state to be saved, and to leave after that."""

    save: bool = False
    leave: bool = False


class OwnWishes:
    """What this process wants, since the state was saved last: signals ask for it, or the time or the steps are over.

    Of several processes the first one decides whether the time or the steps are over.
    """

    def __init__(self, plan: Plan, signals: Signals, step: int) -> None:
        self._plan, self._signals = plan, signals
        self._step, self._time = step, time.monotonic()

    def after(self, step: int) -> Wishes:
        """The wishes after `step` steps."""
        plan = self._plan
        steps_are_over = plan.save_steps is not None and step - self._step >= plan.save_steps
        is_due = steps_are_over or time.monotonic() - self._time > plan.save_seconds
        return Wishes(self._signals.save or (is_due and plan.processes.is_first), self._signals.leave)

    def clear(self, step: int) -> signal.Signals | None:
        """Start anew, since the state after `step` steps is saved; returns the signal that asks for the end, if any."""
        self._step, self._time = step, time.monotonic()
        return self._signals.clear()


def _do_step(trainer: Trainer, progress: ProgressBar, own: OwnWishes, log: MetricsLog) -> Wishes:
    """Do one step, look at its loss now and then, log it, and write the models that are due after it.

    Returns the wishes of all processes, for which each hands over its own with the gradients.
    """
    plan, state, several = trainer.plan, trainer.state, trainer.plan.processes.count > 1
    numbers = trainer.step(own.after(state.step) if several else None)
    due, is_logged, wishes = plan.due(state.step), plan.is_logged(state.step), Wishes()
    if several or plan.device == "cpu" or state.step % 50 == 0 or due or is_logged:
        loss, save, leave = numbers.tolist()
        wishes = Wishes(save > 0, leave > 0)
        if not np.isfinite(loss):
            raise state.diverged(f"the loss is {loss}")
        progress.update(state.step - progress.done, loss=loss)
    if is_logged:
        log.write(float(trainer.gradient_norm))
    for percentage in due:
        state.keep(percentage)
    return wishes if several else own.after(state.step)


def _leave(number: signal.Signals, state: TrainingState) -> None:
    """Raise Interrupted, since a signal asked for the end of the training, whose state is saved."""
    message = f"{number.name} after step {state.step}: the state is saved, the same command continues from there"
    raise Interrupted(message, 128 + number)
