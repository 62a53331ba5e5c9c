"""Batches of tokenised cells for training, from a corpus on disk, each cell once an epoch.

The order of cells comes from `order`; here threads decode row groups in advance (pyarrow and the
kernel release Python's lock, so no process is forked) and copy cells into padded or packed batches.
Memory holds one row group per lane, those that are being loaded, and a few blocks of finished
batches, for any size of corpus. Between two batches the state of the reader is two numbers.

Letters: ``B`` cells of a batch, ``L`` tokens of its longest cell, ``N`` tokens of all its cells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.vocabulary import CLS, PAD
from cellscribe.config import ReaderOptions
from cellscribe.config.checked import shown
from cellscribe.corpus.order import EpochOrder, Ints
from cellscribe.corpus.row_groups import RowGroup, TokenFiles, check_tokens, row_groups
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.errors import InputError

BLOCK = 4_096
"""Number of a rank's cells that one task puts into batches; at least one batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """A rank's cells of one batch. Arrays may be changed: batches share no memory."""

    tokens: npt.NDArray[np.int32]
    """``[B, L]`` (padded) or ``[N]`` (packed)."""
    lengths: npt.NDArray[np.int32]
    """``[B]`` tokens of each cell, [CLS] included."""
    cells: npt.NDArray[np.int64]
    """``[B]`` numbers of the cells; seed, epoch and number decide a cell's mask."""
    epoch: int
    number: int
    """Place of the batch in the epoch."""

    @cached_property
    def offsets(self) -> npt.NDArray[np.int32]:
        """``[B + 1]``: in a packed batch, cell i is ``tokens[offsets[i] : offsets[i + 1]]``."""
        return np.concatenate([np.zeros(1, np.int32), np.cumsum(self.lengths, dtype=np.int32)])


class Reader:
    """One rank's batches, epoch after epoch.

    ``for batch in reader`` yields the rest of the current epoch; the next loop yields the next
    epoch. Batch ``g`` of an epoch holds the same cells for any number of ranks, and the ranks'
    parts differ by at most one cell. All ranks have the same number of batches; a rank's part of a
    short last batch may be empty.

    Parameters
    ----------
    corpus
        A corpus, or the folder of one.
    options
        Split, sizes, order and layout of the batches.
    rank, world_size
        Number of this process, and number of processes.

    Raises
    ------
    InputError
        There is no such corpus or split, or ranks and options do not fit each other. While reading:
        a file is missing or damaged.
    """

    def __init__(
        self,
        corpus: Corpus | str | Path,
        options: ReaderOptions | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
        self.options = options or ReaderOptions()
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} is not one of 0 to {world_size - 1}")
        self.rank, self.world_size = rank, world_size
        lanes, batch = self.options.lanes, self.options.batch_cells
        if lanes % world_size:
            raise InputError(
                f"{world_size} ranks cannot share {lanes} lanes evenly; set lanes to "
                f"{-(-lanes // world_size) * world_size}"
            )
        if batch < world_size:
            raise InputError(
                f"batch_cells {batch} leaves some of {world_size} ranks without a cell; raise it"
            )
        self._files = self.corpus.token_files(self.options.split)
        self._groups = row_groups(self._files)
        self.cells = sum(rows for _, _, rows in self._groups)
        if not len(self):
            raise InputError(
                f"{self.cells:,} cells of split {self.options.split!r} do not fill a batch of "
                f"{batch:,}; lower batch_cells"
            )
        self._epoch, self._batch = 0, 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        full, rest = divmod(self.cells, self.options.batch_cells)
        return full + (rest > 0 and not self.options.drop_last)

    def __iter__(self) -> Generator[Batch]:
        """Yield the rest of the current epoch; one loop at a time."""
        return self._read(self._epoch, self._batch)

    def epoch(self, epoch: int) -> Generator[Batch]:
        """Yield an epoch from its start."""
        self._epoch, self._batch = epoch, 0
        return self._read(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the next batch's epoch and number, and what it depends on, ready for JSON."""
        own = {name: getattr(self.options, name) for name in ("split", "seed", "lanes")}
        shared = {"corpus": self.corpus.hash, "batch_cells": self.options.batch_cells}
        return {**shared, **own, "epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another reader was, of whatever number of ranks and threads.

        Raises
        ------
        InputError
            The state is of another corpus or other options, so its next batch is not ours.
        """
        for name, ours in self.state_dict().items():
            if name not in state:
                raise InputError(f"the reader's state has no {name!r}; it is not one, or not whole")
            if name not in ("epoch", "batch") and state[name] != ours:
                raise InputError(
                    f"the reader's state is of {name} {state[name]}, not {ours}; go on with what "
                    "the run began with, or begin anew"
                )
        epoch, batch = state["epoch"], state["batch"]
        whole_numbers = type(epoch) is int and type(batch) is int
        if not (whole_numbers and 0 <= epoch < 1 << 31 and 0 <= batch < len(self)):
            raise InputError(
                f"the reader's state is at batch {shown(batch)} of epoch {shown(epoch)}, and an "
                f"epoch has {len(self):,} batches; begin anew"
            )
        self._epoch, self._batch = epoch, batch

    def _read(self, epoch: int, first: int) -> Generator[Batch]:
        """Yield batches `first` and later of an epoch, prepared some blocks in advance."""
        size, total = self.options.batch_cells, len(self)
        order = EpochOrder(
            np.array([rows for _, _, rows in self._groups]),
            self.options.seed,
            epoch,
            self.options.lanes,
        )
        step = max(1, BLOCK * self.world_size // size)
        waiting: deque[Future[list[Batch]]] = deque()
        loaded: dict[int, Future[RowGroup]] = {}
        files = TokenFiles(self._files)
        pool = ThreadPoolExecutor(self.options.threads, thread_name_prefix="read-corpus")
        try:
            for start in range(first, total, step):
                numbers = range(start, min(start + step, total))
                ends = [min(n * size, self.cells) for n in (*numbers, numbers.stop)]
                groups, rows = order.share(ends[0], ends[-1], self.rank, self.world_size)
                needed, slots = np.unique(groups, return_inverse=True)
                # Row groups that only the last block needed are dropped here. The pool works in
                # order of submission: a block only waits for row groups already begun.
                loaded = {
                    group: loaded.get(group) or pool.submit(self._load, files, group)
                    for group in needed.tolist()
                }
                edges = [-(-(end - self.rank) // self.world_size) for end in ends]
                waiting.append(
                    pool.submit(
                        self._put_together,
                        list(loaded.values()),
                        slots,
                        rows,
                        [edge - edges[0] for edge in edges],
                        (epoch, start),
                    )
                )
                if len(waiting) > self.options.threads:
                    yield from self._hand_out(waiting.popleft())
            while waiting:
                yield from self._hand_out(waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            files.close()

    def _hand_out(self, block: Future[list[Batch]]) -> Iterator[Batch]:
        """Yield a block's batches; before each, the state moves to the batch after it."""
        for batch in block.result():
            is_last = batch.number + 1 == len(self)
            self._epoch = batch.epoch + is_last
            self._batch = 0 if is_last else batch.number + 1
            yield batch

    def _load(self, files: TokenFiles, group: int) -> RowGroup:
        file, place, rows = self._groups[group]
        found = files.read(file, place, rows)
        check_tokens(found.tokens, self.corpus.vocabulary, self._files[file])
        return found

    def _put_together(
        self,
        loading: list[Future[RowGroup]],
        slots: Ints,
        rows: Ints,
        edges: list[int],
        name: tuple[int, int],
    ) -> list[Batch]:
        """Copy cells into batches.

        Parameters
        ----------
        loading
            Row groups.
        slots, rows
            Place in `loading` and row of each cell.
        edges
            Start of each batch, and end of the last one.
        name
            Epoch, and number of the first batch.
        """
        groups = [future.result() for future in loading]
        front = int(self.options.cls_token)
        most = self.options.context or self.corpus.context
        lengths, cells = np.empty(len(rows), np.int32), np.empty(len(rows), np.int64)
        by_group = np.argsort(slots, kind="stable")
        bounds = np.searchsorted(slots[by_group], np.arange(len(groups) + 1)).tolist()
        chosen = [by_group[i:j] for i, j in pairwise(bounds)]
        for group, some in zip(groups, chosen, strict=True):
            lengths[some] = np.minimum(group.lengths[rows[some]], most) + front
            cells[some] = group.cells[rows[some]]
        is_padded = self.options.layout == "padded"
        sizes = np.diff(edges)
        widths = [int(lengths[i:j].max(initial=0)) for i, j in pairwise(edges)]
        room = np.repeat(widths, sizes) if is_padded else lengths
        places = np.concatenate([np.zeros(1, np.int64), np.cumsum(room, dtype=np.int64)])
        tokens = np.empty(places[-1], np.int32)
        for group, some in zip(groups, chosen, strict=True):
            _copy_cells(
                group.tokens, group.offsets, rows[some], some, lengths, places, front, tokens
            )
        batches = []
        for n, width in enumerate(widths):
            first, last = edges[n], edges[n + 1]
            flat = tokens[places[first] : places[last]]
            batches.append(
                Batch(
                    tokens=flat.reshape(last - first, width) if is_padded else flat,
                    lengths=lengths[first:last],
                    cells=cells[first:last],
                    epoch=name[0],
                    number=name[1] + n,
                )
            )
        return batches


@numba.njit(cache=True, nogil=True)
def _copy_cells(  # type: ignore[no-untyped-def]
    source, offsets, rows, targets, lengths, places, front, tokens
):
    """Copy `rows` of a row group to cells `targets`, [CLS] first, [PAD] up to the next cell."""
    for i in range(len(rows)):
        target = targets[i]
        at, end = places[target], places[target + 1]
        begin, n = offsets[rows[i]], lengths[target] - front
        tokens[at : at + front] = CLS
        # Over slices, because a loop over plain indices is not vectorised: three times as slow.
        cell, copied = source[begin : begin + n], tokens[at + front : at + front + n]
        for j in range(n):
            copied[j] = cell[j]
        tokens[at + front + n : end] = PAD


def pad_cells(
    tokens: npt.NDArray[np.integer], offsets: npt.NDArray[np.integer], *, cls_token: bool = True
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Pad packed cells.

    Parameters
    ----------
    tokens, offsets
        ``[N]`` and ``[B + 1]``: cell i is ``tokens[offsets[i] : offsets[i + 1]]``.
    cls_token
        Whether to put [CLS] before each cell.

    Returns
    -------
    padded
        ``[B, L]`` int32, [PAD] after each cell.
    lengths
        ``[B]`` int32.
    """
    n_cells, front = len(offsets) - 1, int(cls_token)
    lengths = (np.diff(offsets) + front).astype(np.int32)
    width = int(lengths.max(initial=0))
    places, rows = width * np.arange(n_cells + 1), np.arange(n_cells)
    padded = np.empty(n_cells * width, np.int32)
    _copy_cells(tokens, offsets, rows, rows, lengths, places, front, padded)
    return padded.reshape(n_cells, width), lengths
