"""Tokens of an opened file, block by block; reading, ranking and use run at the same time.

One thread reads (HDF5 and zlib release Python's lock), a few rank, and the caller works on the
blocks that are ready. Only a few blocks exist at a time, so memory does not grow with the file.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

from cellscribe.cells.counts import Counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.cells.rank import ranker
from cellscribe.cells.readers.token_source import TokenCells, holds_tokens
from cellscribe.cells.tokens import CellTokens, Tokenize

T = TypeVar("T")
R = TypeVar("R")

BLOCK = 1_024
"""Cells read, ranked and embedded together; a run is resumed at a multiple of it."""
_part: int | None = None
"""From `use_cores`; None where this process has the machine to itself."""


def usable_cores() -> int:
    """Cores that this process may use."""
    there = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        there = len(os.sched_getaffinity(0))
    return there if _part is None else min(there, _part)


def use_cores(part: int) -> None:
    """Leave the other cores to other processes: workers that run side by side."""
    global _part
    _part = part


def ranked_blocks(
    counts: Counts, genes: GeneMap, vocabulary: Vocabulary, context: int, *, start: int = 0
) -> Generator[CellTokens]:
    """Ranked cells from row `start` on, see `token_blocks`."""
    yield from token_blocks(counts, genes, ranker(vocabulary.medians, context), start=start)


def token_blocks(
    counts: Counts, genes: GeneMap, tokenize: Tokenize, *, start: int = 0
) -> Generator[CellTokens]:
    """Tokens of cells from row `start` on, `BLOCK` cells at a time; of tokens, as they are.

    Raises
    ------
    InputError
        From `Counts.blocks`.
    """
    if holds_tokens(counts):
        yield from cast(TokenCells, counts).token_blocks(BLOCK, start)
        return
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="tokenize") as pool:
        blocks = read_ahead(counts.blocks(BLOCK, start), depth=1)
        yield from ordered_map(
            pool, lambda block: tokenize(block, genes.token), blocks, ahead=usable_cores()
        )


def read_ahead(items: Iterable[T], *, depth: int) -> Generator[T]:
    """Produce `items` in another thread, at most `depth` waiting; errors are raised here."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[bool, Any]) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:  # noqa: BLE001  (raised again where the items are used)
            put((False, error))

    thread = threading.Thread(target=produce, name="read", daemon=True)
    thread.start()
    try:
        while True:
            is_item, item = ready.get()
            if is_item:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        # The file must stay open until the thread has ended.
        stop.set()
        thread.join()


def ordered_map(
    pool: Executor, function: Callable[[T], R], items: Iterable[T], *, ahead: int
) -> Generator[R]:
    """Apply `function` in the pool, results in order, at most `ahead` unfinished or unread."""
    waiting: deque[Future[R]] = deque()
    items = iter(items)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        if hasattr(items, "close"):
            items.close()
