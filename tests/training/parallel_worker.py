"""One process of several that train together: `python parallel_worker.py PLACE OUT FAULT RUN ...`.

FAULT is `none`, `die` (the last process dies in the second step) or `differ` (it has other weights in the first step).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from conftest import plan_of

from cm.errors import UserError
from cm.training import trainer
from cm.training.launch import read_environment
from cm.training.processes import connect


def main(place: str, out: str, fault: str, *names: str) -> int:
    """Train the runs one after another."""
    with connect(read_environment(), Path(out), "cpu") as processes:
        if processes.rank == processes.count - 1 and fault != "none":
            break_something(fault)
        for name in names:
            trainer.train(plan_of(Path(place), name, Path(out) / name, processes=processes))
    return 0


def break_something(fault: str) -> None:
    """Let this process die in its second step, or have weights of its own."""
    step = trainer.Trainer.step

    def broken(self, wishes=None):
        if fault == "die" and self.state.step == 1:
            os._exit(7)
        if fault == "differ" and self.state.step == 0:
            with torch.no_grad():
                next(self.state.student.parameters()).mul_(1 + 1e-6)
        return step(self, wishes)

    trainer.Trainer.step = broken


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
