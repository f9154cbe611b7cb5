"""Parallel `map` in threads, for functions that release the interpreter's lock, and a call in another process."""

from __future__ import annotations

import collections
import itertools
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def map_in_order(function: Callable[[Part], Result], parts: Iterable[Part], workers: int) -> Generator[Result]:
    """Yield `function(part)` for each part, in order, computed by `workers` threads.

    At most 2 `workers` results are computed ahead of the one that is requested. An exception of `function` is raised
    when its result is requested.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        for pending in _submit(((pool, function, part) for part in parts), ahead=2 * workers):
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def map_in_turns(
    functions: Sequence[Callable[[Part], Result]], parts: Iterable[Part], stop: threading.Event
) -> Generator[Result]:
    """Yield the result for each part, in order; of n functions, the one at i mod n computes part i.

    Each function has a thread of its own, but a single one runs in the calling thread. Each computes at most two
    results ahead of the one that is requested. An exception of any of them is raised as soon as the caller waits for a
    result. After it, and when the caller ends early, no further part is computed, and `stop` is set, by which functions
    that are running may learn that nobody needs their results.
    """
    if len(functions) == 1:
        yield from map(functions[0], parts)
        return
    pools = [ThreadPoolExecutor(1) for _ in functions]
    turns = itertools.cycle(zip(pools, functions, strict=True))
    try:
        for pending in _submit(((*next(turns), part) for part in parts), ahead=2 * len(functions)):
            yield _wait_for_first(pending)
    finally:
        stop.set()
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in pools:
            pool.shutdown()


def _submit(
    calls: Iterable[tuple[ThreadPoolExecutor, Callable[[Part], Result], Part]], ahead: int
) -> Iterator[collections.deque[Future[Result]]]:
    """Submit calls, and yield the pending ones each time when their first is to be removed."""
    pending: collections.deque[Future[Result]] = collections.deque()
    for pool, function, part in calls:
        pending.append(pool.submit(function, part))
        if len(pending) > ahead:
            yield pending
    while pending:
        yield pending


def _wait_for_first(pending: collections.deque[Future[Result]]) -> Result:
    """Remove the first call and return its result, unless another one fails before."""
    while not pending[0].done():
        done, running = wait(pending, timeout=0)
        for call in done:
            call.result()
        wait(running, return_when=FIRST_COMPLETED)
    return pending.popleft().result()


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that end when this one is killed, and leave Ctrl-C to it.

    They are forked from a server without threads. A worker that is killed makes the pool raise BrokenProcessPool.
    """
    return ProcessPoolExecutor(workers, mp_context=get_context("forkserver"), initializer=_end_with_parent)


def call_in_child(function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)`, computed in a process of its own. Raises BrokenProcessPool if that is killed."""
    with process_pool(1) as pool:
        return pool.submit(function, *arguments).result()


def _end_with_parent() -> None:
    """End this worker when the process that started it is killed, and leave Ctrl-C to that process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
