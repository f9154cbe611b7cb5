"""A parallel `map` in threads, for functions that release the interpreter's lock: decoders and networks."""

from __future__ import annotations

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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
