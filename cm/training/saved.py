"""The files of a training that is not complete, and what a start of it finds in them.

While a training runs, the folder `partial` holds the last two states, `state.safetensors` and
`state.previous.safetensors`, the models that wait until the training is complete, and a lock. Every file is verified
before it is used. A start continues from the last state that is whole and whose models are whole, or else from the
beginning. Files that are damaged or belong to other settings are set aside, not deleted.

A kill at any moment leaves files from which the next start continues. In particular, the state of the last step is
saved before the models get their places, and removed when all of them have theirs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cm.checkpoints import descriptions, native
from cm.config.layout import METRICS_FILE, name_model
from cm.errors import UserError
from cm.training.plan import Plan
from cm.utils import files, provenance

State = tuple[dict[str, Tensor], dict[str, Any]]  # the tensors by name, and the description


class SavedFiles:
    """The files that the training of a plan has saved, or will save."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._partial = plan, plan.partial
        self.lock, self.state = self._partial / "lock", self._partial / "state.safetensors"
        self.previous = self._partial / "state.previous.safetensors"

    def write_state(self, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        """Write a state; the last one becomes the previous one."""
        native.save(self.state, tensors, {**description, "of": self._plan.description}, previous=self.previous)

    def write_model(
        self, percentage: int, ema_decay: float | None, tensors: Mapping[str, Tensor], threads: Sequence[int]
    ) -> None:
        """Write the model of a percentage and of one of `ema_decays`, which waits until the training is complete.

        `threads`: the numbers of processor threads that computed it.
        """
        description = {**self._describe_model(percentage, ema_decay), "threads": list(threads)}
        native.save(self._partial / _file_name(percentage, ema_decay), tensors, description)

    def find_state(self, expected: Mapping[str, Tensor]) -> State | None:
        """The last state from which the training can continue, None for a training that starts from the beginning.

        `expected`: tensors of the names, shapes and types of those of a state. What is damaged, or belongs to other
        settings or inputs, is set aside and reported in one line. Raises UserError for the state of another run.
        """
        problems: dict[Path, str] = {}
        for path in (self.state, self.previous):
            if not path.exists():
                continue
            try:
                tensors, saved = self._read_state(path)
            except native.DamagedFile as error:
                problems[path] = str(error)
                continue
            if not self._fits(saved) or not _agree(expected, tensors):
                self._start_anew(f"{self._partial} has other settings or inputs", "superseded")
                return None
            damaged = self._find_damaged_models(self._partial, saved["step"])
            if not damaged:
                self._go_back(problems, path, saved["step"])
                return tensors, saved
            problems |= damaged
        if problems:
            self._start_anew("; ".join(problems.values()), "damaged")
        return None

    def is_complete(self) -> bool:
        """Whether the training was completed: all models have their places, are whole, and no state is left."""
        unfinished = self.state.exists() or self.previous.exists() or not (self._plan.out / "seconds.json").exists()
        return not unfinished and not self._find_damaged_models(self._plan.out, self._plan.training.total_steps)

    def complete(self, seconds: Mapping[str, float]) -> None:
        """Put the models in their places, write how long the training took and on what, and remove the other files."""
        files.write_json(self._plan.out / "seconds.json", {**seconds, "hardware": provenance.hardware()})
        for name in itertools.starmap(_file_name, self._models()):
            files.link_file(self._partial / name, self._plan.out / name)
        self.clear()

    def clear(self) -> None:
        """Remove the files of a complete training, the last state after the previous one and before the models."""
        for path in (self.previous, self.state, *self._others()):
            path.unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove the temporary files of starts of this training that were killed; the caller holds the lock."""
        models = list(itertools.starmap(_file_name, self._models()))
        files.remove_leftovers(self._partial, [self.state.name, *models])
        files.remove_leftovers(self._plan.out, ["seconds.json", *models])

    def _read_state(self, path: Path) -> State:
        """Read a state; DamagedFile for a damaged one, UserError for that of another run."""
        tensors, saved = native.load(path)
        descriptions.check_state(saved, path)
        if saved["of"]["run"] != self._plan.name:
            raise UserError(f"{path} belongs to {saved['of']['run']}, not to {self._plan.name}")
        return tensors, saved

    def _fits(self, saved: Mapping[str, Any]) -> bool:
        """Whether a state has the form and the settings of this training."""
        return {"step", "scaler"} <= saved.keys() and _settings(saved["of"]) == _settings(self._plan.description)

    def _find_damaged_models(self, folder: Path, step: int) -> dict[Path, str]:
        """What is wrong with each model of the first `step` steps that is not in the folder, or not whole."""
        found: dict[Path, str] = {}
        for percentage, decay in self._models():
            path = folder / _file_name(percentage, decay)
            problem = self._find_problem(path, percentage, decay) if self._plan.step_of(percentage) <= step else None
            found |= {path: problem} if problem else {}
        return found

    def _models(self) -> list[tuple[int, float | None]]:
        """The percentage and the decay of each model of the training."""
        return list(itertools.product(self._plan.keep, self._plan.ema_decays))

    def _find_problem(self, path: Path, percentage: int, ema_decay: float | None) -> str | None:
        """What is wrong with a model; UserError for one that cannot be read, which another start may be able to."""
        if not path.exists():
            return f"no file {path}"
        try:
            _, description = native.load(path)
        except native.DamagedFile as error:
            return str(error)
        if _settings(description) != _settings(self._describe_model(percentage, ema_decay)):
            return f"{path} is a model of another training"
        return None

    def _describe_model(self, percentage: int, ema_decay: float | None) -> dict[str, Any]:
        average = {} if ema_decay is None else {"ema_decay": ema_decay}
        step = self._plan.step_of(percentage)
        return {**self._plan.description, "progress": percentage, "step": step, **average}

    def _go_back(self, problems: Mapping[Path, str], path: Path, step: int) -> None:
        """Set the files with problems aside, and the state that they make useless, if there are any."""
        if problems:
            aside = self._set_aside({*problems, self.state} - {path}, "damaged")
            reason = "; ".join(problems.values())
            print(f"{reason}: set aside in {aside}, training continues from step {step} of {path}", flush=True)

    def _start_anew(self, reason: str, name: str) -> None:
        aside = self._set_aside([self.state, self.previous, *self._others(), self._plan.out / METRICS_FILE], name)
        print(f"{reason}: training starts anew, the old state is in {aside}", flush=True)

    def _set_aside(self, paths: Iterable[Path], name: str) -> Path:
        """Move those of the files that exist to the folder `name` beside `partial`; returns it."""
        aside = self._plan.out / name
        aside.mkdir(exist_ok=True)
        for path in paths:
            if path.exists():
                path.replace(aside / path.name)
        return aside

    def _others(self) -> list[Path]:
        """The files beside the states and the lock."""
        known = (self.lock, self.state, self.previous)
        return [path for path in self._partial.iterdir() if path.is_file() and path not in known]


def _file_name(percentage: int, ema_decay: float | None) -> str:
    return f"{name_model(percentage, ema_decay)}.safetensors"


def _agree(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors have the same names, shapes and types."""
    return _kinds(expected) == _kinds(tensors)


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Any, Any]]:
    """The shape and the type of each tensor."""
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description without the entries that may differ between two starts of one training."""
    return {key: value for key, value in description.items() if key not in ("commit", "version", "threads")}
