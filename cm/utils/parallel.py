"""A parallel `map` in threads, for functions that release the interpreter's lock, and a call in another process."""

from __future__ import annotations

import collections
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
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
    pending: collections.deque[Future[Result]] = collections.deque()
    try:
        for part in parts:
            pending.append(pool.submit(function, part))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


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
