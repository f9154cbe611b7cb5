"""The processes that train one run together, on one machine or on several.

Every process computes the losses of its part of each global batch. One all-reduce adds up the gradients, in one flat
buffer, and then every process makes the same update, so that weights and moving averages need no communication. Since
every image has a seed of its own, and losses are divided by the size of the global batch, the number of processes
changes nothing but the order in which numbers are added.

The processes find each other by the environment: that of torchrun (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`,
`MASTER_PORT`), that of `cm train --processes`, or that of srun (`SLURM_PROCID` and others). In the last two, the first
process listens on a port that is free at this start and writes it into a file that only this start has, so that neither
a port nor a file of an earlier start is ever used.
"""

from __future__ import annotations

import contextlib
import datetime
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cm.checkpoints import native
from cm.errors import UserError
from cm.training.launch import Environment
from cm.utils import files

Value = TypeVar("Value")
CONNECT_SECONDS = 300.0
COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Processes:
    """The processes of a training, of which this is number `rank`, from 0, of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """The images of a global batch that this process computes; parts differ by at most one image."""
        return slice(batch * self.rank // self.count, batch * (self.rank + 1) // self.count)

    def sum_gradients(self, parameters: Sequence[Tensor], numbers: Tensor) -> Tensor:
        """Add up the gradients over the processes, in place, and return the sums of `numbers` [n].

        Raises UserError if another process has died.
        """
        if self.count == 1:
            return numbers
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([numbers.to(gradients[0].dtype), *(gradient.flatten() for gradient in gradients)])
        with _one_line_errors():
            dist.all_reduce(flat)
        sums, *parts = flat.split([len(numbers), *(gradient.numel() for gradient in gradients)])
        torch._foreach_copy_(gradients, [part.view_as(own) for part, own in zip(parts, gradients, strict=True)])
        return sums

    def check_equal(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Raises UserError, in every process, if the bytes of the tensors differ between the processes."""
        if self.count == 1:
            return
        checksums = self._gather(native.checksum(tensors))
        others = [rank for rank, other in enumerate(checksums) if other != checksums[0]]
        if others:
            names = ", ".join(map(str, others))
            raise UserError(f"{where}: the weights of process {names} differ from those of process 0; nothing is saved")

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so."""
        return any(self._gather(flag))

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            with _one_line_errors():
                dist.barrier()

    def _gather(self, value: Value) -> list[Value]:
        """The values that the processes have, in the order of their ranks."""
        values = [value] * self.count
        if self.count > 1:
            with _one_line_errors():
                dist.all_gather_object(values, value)
        return values


ALONE = Processes()


@contextlib.contextmanager
def connect(environment: Environment, folder: Path, device: str) -> Iterator[Processes]:
    """The processes of this start, connected: with NCCL on GPUs, with gloo on processors.

    `folder`: of the run, which all processes see. Raises UserError if they do not find each other.
    """
    if environment.count == 1:
        yield ALONE
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    with _one_line_errors("the processes of this training did not find each other"):
        store = _open_store(environment, folder) if environment.start else None
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=store,
            rank=environment.rank,
            world_size=environment.count,
            timeout=COLLECTIVE_TIMEOUT,
        )
    try:
        yield Processes(environment.rank, environment.count)
    finally:
        dist.destroy_process_group()
        if environment.is_first and environment.start:
            _address_file(environment, folder).unlink(missing_ok=True)


def _open_store(environment: Environment, folder: Path) -> dist.Store:
    """The store through which the processes find each other, which the first one offers."""
    path, count = _address_file(environment, folder), environment.count
    seconds = datetime.timedelta(seconds=CONNECT_SECONDS)
    if not environment.is_first:
        host, port = _read_address(path)
        return dist.TCPStore(host, port, count, is_master=False, timeout=seconds)
    host = _host()
    store = dist.TCPStore(host, 0, count, is_master=True, timeout=seconds, wait_for_workers=False)
    with files.replace_file(path) as temporary:
        temporary.write_text(f"{host} {store.port}")
    return store


def _address_file(environment: Environment, folder: Path) -> Path:
    return folder / f"rendezvous-{environment.start}"


def _host() -> str:
    """The name of this machine, by which others reach it; its own address for itself if no name server knows it."""
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return "127.0.0.1"
    return socket.gethostname()


def _read_address(path: Path) -> tuple[str, int]:
    """The address in the file, once the first process has written it."""
    end = time.monotonic() + CONNECT_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            raise UserError(f"no {path} after {CONNECT_SECONDS:.0f} s: the first process did not start")
        time.sleep(0.05)
    host, port = path.read_text().split()
    return host, int(port)


@contextlib.contextmanager
def _one_line_errors(problem: str = "the connection to another process of this training is lost") -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UserError(f"{problem}: {str(error).splitlines()[0]}") from None
