"""The state of a training and its files.

While a training runs, `partial/state.safetensors` in its folder holds everything that a later start needs to continue
as if nothing had happened: the weights, the optimiser and the number of steps. All randomness of a step comes from the
run's seed and the number of the step, so no state of a generator belongs to it. Models wait in the same folder until
the training is complete.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cm.checkpoints import native
from cm.diffusion.sampling import to_device
from cm.errors import UserError
from cm.training.clock import Clock
from cm.training.optimisers import Optimiser, build_scaler
from cm.training.plan import Plan
from cm.utils import files


class TrainingState:
    """What a training changes: the student, its two moving averages, the optimiser, and the number of steps done.

    `target` is theta-minus, for an objective that has it; `ema` are the averaged weights that become the model.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.step, self._clock = plan, 0, Clock()
        self.student = to_device(plan.student, plan.device).train()
        self.ema = freeze(copy.deepcopy(self.student))
        self.target = freeze(copy.deepcopy(self.student)) if plan.objective.has_target else None
        if self.target is not None:
            self.target.train(plan.objective.target_uses_dropout)
        self.optimiser = Optimiser(plan.training, self.student)
        self.scaler = build_scaler(plan.training, plan.device)

    def save(self) -> None:
        """Write the state, in the first process.

        Raises UserError, and writes nothing, if a weight is not finite or differs between the processes.
        """
        self._check_finite()
        self.check_equal()
        if not self.plan.processes.is_first:
            return
        about = {"step": self.step, "of": self.plan.description, "scaler": self.scaler.state_dict()}
        about["seconds"] = self._clock.seconds()
        native.save(self.path, dict(self._tensors()), about)

    def resume(self) -> None:
        """Continue from the saved state, if there is one.

        A state of other settings or inputs is set aside, and so is one without the models that should be beside it.
        Raises UserError for the state of another run.
        """
        if not self.path.exists():
            return
        tensors, saved = native.load(self.path)
        if saved["of"]["run"] != self.plan.name:
            raise UserError(f"{self.path} belongs to {saved['of']['run']}, not to {self.plan.name}")
        if not self._can_continue(tensors, saved):
            self._set_aside()
            return
        self._restore(tensors, saved)

    def keep(self, percentage: int) -> None:
        """Write the ema weights as the model of that percentage, as `save` writes the state."""
        self._check_finite()
        self.check_equal()
        if not self.plan.processes.is_first:
            return
        description = {**self.plan.description, "progress": percentage, "step": self.step}
        native.save(self._model_path(percentage), self.ema.state_dict(), description)

    def finish(self) -> None:
        """Move the models to their places, write how long the training took, and remove the state: the first process.

        The others wait for it.
        """
        if self.plan.processes.is_first:
            self._finish()
        self.plan.processes.wait()

    def check_equal(self) -> None:
        """Raises UserError if the weights of the student differ between the processes."""
        self.plan.processes.check_equal(self.optimiser.parameters, f"{self.plan.name}, step {self.step}")

    def _finish(self) -> None:
        files.write_json(self.plan.out / "seconds.json", self._clock.seconds())
        for percentage in self.plan.keep:
            path = self._model_path(percentage)
            path.replace(self.plan.out / path.name)
        shutil.rmtree(self.plan.partial)

    def diverged(self, what: str) -> UserError:
        """The error for a training that has become non-finite; what was saved before stays."""
        saved = f"the last good state is {self.path}" if self.path.exists() else "no state was saved yet"
        return UserError(f"{self.plan.name}: {what} at step {self.step}: no model is written; {saved}")

    @property
    def path(self) -> Path:
        """The file of the state."""
        return self.plan.partial / "state.safetensors"

    def _can_continue(self, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> bool:
        same = _settings(saved["of"]) == _settings(self.plan.description)
        complete = tensors.keys() == dict(self._tensors()).keys()
        return "step" in saved and same and complete and not self._lacks_models(saved["step"])

    def _lacks_models(self, step: int) -> bool:
        written = [percentage for percentage in self.plan.keep if self.plan.step_of(percentage) <= step]
        return not all(self._model_path(percentage).exists() for percentage in written)

    def _model_path(self, percentage: int) -> Path:
        return self.plan.partial / f"{percentage}.safetensors"

    def _set_aside(self) -> None:
        aside = self.plan.out / "superseded"
        print(
            f"{self.plan.partial} has other settings or inputs: training starts anew, the old state is in {aside}",
            flush=True,
        )
        shutil.rmtree(aside, ignore_errors=True)
        self.plan.partial.replace(aside)

    def _restore(self, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
        for name, tensor in self._tensors():
            tensor.copy_(tensors[name])
        self.step = saved["step"]
        self._clock.resume(saved["seconds"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(saved["scaler"])

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the state and its name in the file."""
        modules = {"student": self.student, "ema": self.ema, "target": self.target}
        for part, module in modules.items():
            for name, tensor in module.state_dict().items() if module is not None else ():
                yield f"{part}.{name}", tensor
        for name, tensor in self.optimiser.tensors():
            yield f"optimiser.{name}", tensor

    def _check_finite(self) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in self.ema.parameters()):
            raise self.diverged("a weight is not finite")


def freeze(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, without gradients."""
    return module.eval().requires_grad_(False)


def _settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description without the entries that may differ between two starts of one training."""
    return {key: value for key, value in description.items() if key not in ("commit", "version")}
