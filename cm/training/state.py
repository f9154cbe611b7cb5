"""The state of a training: everything that a later start needs to continue as if nothing had happened.

It is the weights, the optimiser and the number of steps. All randomness of a step comes from the run's seed and the
number of the step, so no state of a generator belongs to it. The numbers of processor threads that the starts of the
training had are recorded, since they change the weights by rounding.
"""

from __future__ import annotations

import copy
import itertools
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cm.diffusion.sampling import to_device
from cm.errors import UserError
from cm.training.clock import Clock
from cm.training.optimisers import Optimiser, build_scaler
from cm.training.plan import Plan
from cm.training.running_mean import RunningMean
from cm.training.saved import SavedFiles


class TrainingState:
    """What a training changes: the student, its moving averages, the optimiser, and the number of steps done.

    `target` is theta-minus, for an objective that has it; `own` holds the parameters of the loss itself, for an
    objective that has any; `averages` are the averaged weights that become models, one for each `ema_decay`, and `ema`
    is the first of them. `trained` are the student and `own`, whose parameters the optimiser changes. `threads`: the
    different numbers of processor threads of all starts, in ascending order. `losses`: the mean loss since the last
    line of `metrics.jsonl`. `identifier`: names this training for trackers, over all starts that continue one another.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.step, self._clock = plan, 0, Clock()
        self.files, self.threads = SavedFiles(plan), [torch.get_num_threads()]
        self.losses, self.identifier = RunningMean(plan.device), uuid.uuid4().hex
        self.student = to_device(plan.student, plan.device).train()
        self.averages = [freeze(copy.deepcopy(self.student)) for _ in plan.training.ema_decay]
        self.ema = self.averages[0]
        self.target = freeze(copy.deepcopy(self.student)) if plan.objective.has_target else None
        if self.target is not None:
            self.target.train(plan.objective.target_uses_dropout)
        self.own = _build_own(plan)
        self.trained = nn.ModuleDict({"student": self.student} | ({"own": self.own} if self.own is not None else {}))
        self.optimiser = Optimiser(plan.training, self.trained)
        self.scaler = build_scaler(plan.training, plan.device)

    def save(self) -> None:
        """Write the state, in the first process.

        Raises UserError, and writes nothing, if a weight is not finite or differs between the processes.
        """
        self._check_finite()
        self.check_equal()
        if self.plan.processes.is_first:
            about = {
                "step": self.step,
                "scaler": self.scaler.state_dict(),
                "seconds": self.seconds,
                "threads": self.threads,
                "losses": self.losses.save(),
                "identifier": self.identifier,
            }
            self.files.write_state(dict(self._tensors()), about)

    def resume(self) -> None:
        """Continue from the last saved state that is whole and fits, if there is one.

        Raises UserError as `SavedFiles.find_state` does.
        """
        found = self.files.find_state(dict(self._tensors()))
        if found is not None:
            self._restore(*found)

    def keep(self, percentage: int) -> None:
        """Write the ema weights as the model of that percentage, as `save` writes the state."""
        self._check_finite()
        self.check_equal()
        if self.plan.processes.is_first:
            for decay, average in zip(self.plan.ema_decays, self.averages, strict=True):
                self.files.write_model(percentage, decay, average.state_dict(), self.threads)

    def finish(self) -> None:
        """Put the models in their places, write how long the training took, and remove the state: the first process.

        The others wait for it.
        """
        if self.plan.processes.is_first:
            self.files.complete(self.seconds)
        self.plan.processes.wait()

    def check_equal(self) -> None:
        """Raises UserError if the weights that are trained differ between the processes."""
        self.plan.processes.check_equal(dict(self.trained.named_parameters()), f"{self.plan.name}, step {self.step}")

    def diverged(self, what: str) -> UserError:
        """The error for a training that has become non-finite; what was saved before stays."""
        saved = f"the last good state is {self.path}" if self.path.exists() else "no state was saved yet"
        return UserError(f"{self.plan.name}: {what} at step {self.step}: no model is written; {saved}")

    @property
    def seconds(self) -> dict[str, float]:
        """The seconds of all starts so far, `wall` and `processor`."""
        return self._clock.seconds()

    @property
    def path(self) -> Path:
        """The file of the state."""
        return self.files.state

    def _restore(self, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
        for name, tensor in self._tensors():
            tensor.copy_(tensors[name])
        self.step = saved["step"]
        if saved.get("seconds") is not None:  # earlier versions did not count them
            self._clock.resume(saved["seconds"])
        self.threads = sorted({*self.threads, *saved.get("threads", [])})  # nor did they record these
        self.identifier = saved.get("identifier", self.identifier)
        if "losses" in saved:
            self.losses.restore(saved["losses"])
        if saved["scaler"].keys() == self.scaler.state_dict().keys():
            self.scaler.load_state_dict(saved["scaler"])

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the state and its name in the file."""
        names = ["ema" if decay is None else f"ema{decay!r}" for decay in self.plan.ema_decays]
        averages = dict(zip(names, self.averages, strict=True))
        modules = {"student": self.student, **averages, "target": self.target, "own": self.own}
        for part, module in modules.items():
            for name, tensor in module.state_dict().items() if module is not None else ():
                yield f"{part}.{name}", tensor
        for name, tensor in self.optimiser.tensors():
            yield f"optimiser.{name}", tensor

    def _check_finite(self) -> None:
        own = () if self.own is None else self.own.parameters()
        parameters = itertools.chain(own, *(average.parameters() for average in self.averages))
        if not all(bool(parameter.isfinite().all()) for parameter in parameters):
            raise self.diverged("a weight is not finite")


def _build_own(plan: Plan) -> nn.Module | None:
    """The module that the objective builds for itself: a function of the seed of the run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        own = plan.objective.build_own()
    return None if own is None else own.to(plan.device)


def freeze(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, without gradients."""
    return module.eval().requires_grad_(False)
