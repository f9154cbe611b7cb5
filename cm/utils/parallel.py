"""Work in threads with its results in order, for decoders and networks that do not hold each other up."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_order(function: Callable[[Part], Result], parts: Iterable[Part], workers: int) -> Iterator[Result]:
    """`function` of each part, in `workers` threads; a few results are ahead of the one that is asked for."""
    pool = ThreadPoolExecutor(workers)
    ahead = collections.deque()
    try:
        for part in parts:
            ahead.append(pool.submit(function, part))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
