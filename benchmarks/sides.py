"""The sides of `read` that read tokens: ours, and Hugging Face datasets in two ways.

Each is opened by `open_side`, in this process or in one of its own (`cold`), and gives the batches
of an epoch. Both ways of datasets get our kernel for padding: its own formats are slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.config import ReaderOptions
from cellscribe.corpus.reader import Reader, pad_cells
from cellscribe.corpus.row_groups import whole
from cellscribe.corpus.store import Corpus, open_corpus

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

SPLIT = "train"
BUFFER = 16_384
"""Cells that the peers mix at a time; ours mixes a row group a lane, which is more."""
OURS, STREAMED, MAPPED = "cellscribe", "datasets_streaming", "datasets_mapped"
TOKENS = (OURS, MAPPED, STREAMED)
Batches = Iterable[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]
"""Padded tokens ``[B, L]`` and lengths ``[B]``."""


def open_side(
    side: str, corpus: Corpus | Path, cache: Path, batch_cells: int
) -> Callable[[int], Batches]:
    """Open a corpus with one of `TOKENS`.

    Parameters
    ----------
    side
        Name of the side.
    corpus
        A corpus, or its folder.
    cache
        Folder of the copy that datasets makes.
    batch_cells
        Cells of a batch.

    Returns
    -------
    callable
        Seed to the batches of an epoch.
    """
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    if side == OURS:
        reader = Reader(corpus, ReaderOptions(split=SPLIT, batch_cells=batch_cells))
        return lambda seed: ((batch.tokens, batch.lengths) for batch in reader.epoch(seed))
    rows = _load(corpus, streaming=side == STREAMED, cache_dir=str(cache))
    more = {"buffer_size": BUFFER} if side == STREAMED else {}
    return lambda seed: _padded(rows.shuffle(seed=seed, **more), batch_cells)


def copy(corpus: Corpus, cache: Path) -> float:
    """Let datasets make its uncompressed copy of a corpus; returns the seconds."""
    import datasets

    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        start = time.perf_counter()
        _load(corpus, cache_dir=str(cache))
        return time.perf_counter() - start
    finally:
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def no_sleep() -> Iterator[None]:
    """Turn off the seconds that streams of datasets sleep at their end."""
    import datasets

    name = "SLEEP_TIME_ON_THREADS_SHUTDOWN"
    before = getattr(datasets.config, name, None)
    setattr(datasets.config, name, 0)
    try:
        yield
    finally:
        setattr(datasets.config, name, before)


def _load(corpus: Corpus, **options: Any) -> Any:
    import datasets

    return datasets.load_dataset(
        "parquet",
        data_files=[str(path) for path in corpus.token_files(SPLIT)],
        split="train",
        columns=["cell", "input_ids"],
        **options,
    )


def _padded(rows: datasets.Dataset | datasets.IterableDataset, batch_cells: int) -> Batches:
    """Batches of datasets, as Arrow tables (its fastest format), padded by our kernel."""
    tables: Iterable[pa.Table] = rows.with_format("arrow").iter(batch_cells)
    for table in tables:
        table["cell"].to_numpy()
        lists = whole(table["input_ids"])
        yield pad_cells(lists.values.to_numpy(), lists.offsets.to_numpy())
