"""A model ready to embed: ranked cells in, one vector a cell out.

On a CPU each core is one worker with one torch thread, and works on small packed batches: no core
waits for another inside a product, and activations stay in its cache. Batches depend on a
block's lengths alone, never on the number of workers, so the vectors do not either.

Letters: ``B`` cells of a block, ``N`` tokens of a batch, ``D`` width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from cellscribe.callbacks import Progress
from cellscribe.cells.batches import length_buckets
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.genes import GeneMap
from cellscribe.cells.pipeline import ordered_map, token_blocks, usable_cores
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import ModelOptions, OutputDtype, Precision
from cellscribe.errors import InputError
from cellscribe.families.base import CellModel
from cellscribe.families.bert.model import Bert
from cellscribe.families.registry import Opened, open_model
from cellscribe.model.attention_cpu import has_bf16_kernel
from cellscribe.model.device import DTYPES, SLOW_CPU, choose_device, choose_precision
from cellscribe.model.encoder import set_compute_dtype

if TYPE_CHECKING:
    from anndata import AnnData

T = TypeVar("T")

CPU_TOKENS = 2_048
"""Tokens a batch and worker: enough to fill a product, few enough for the second-level cache."""
GPU_TOKENS = 65_536
"""Of a family that has no path of its own to the GPU."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive cells, embedded."""

    vectors: npt.NDArray[np.float32]
    """``[B, D]``; zeros for a cell without a known gene."""
    cells: CellTokens
    """What the vectors were made from."""


def load(
    model: str | Path = "mini",
    *,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
    options: ModelOptions | None = None,
) -> Embedder:
    """Load a model for embedding.

    Parameters
    ----------
    model
        A bundled model's name or a checkpoint directory.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"`` or a CUDA device.
    precision
        Of matrix products: ``"auto"`` (bf16 where the hardware has it; on a GPU without, fp16; on
        a CPU without, float32), ``"float32"``, ``"bf16"`` or ``"fp16"``. Residual stream,
        LayerNorm and the vectors are float32 whatever it is.
    threads
        CPU workers; all usable cores if not given.
    options
        What differs from the way that the model's family publishes as its own: pool, layer.

    Raises
    ------
    InputError
        Unknown or damaged model, no such device, a precision that the device lacks, or an option
        that the model's family does not have.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads must be 1 or more, not {threads}")
    where = choose_device(device)
    chosen = choose_precision(where, precision)
    return Embedder(open_model(model, options), where, chosen, threads or usable_cores())


class Embedder:
    """A loaded model; from `load`.

    Attributes
    ----------
    header
        Name, family, gene table and provenance of the model.
    cells
        The model itself, see `families.contract.CellModel`.
    hash
        SHA-256 of its weights file, the first 16 hexadecimal digits.
    device, precision, threads
        Where and how it computes.
    note
        What a user should know of a slower way that is taken, else "".
    width
        ``D``, the length of a vector.
    context
        Most genes of a cell that are read.
    pooling
        How a vector is made, in words.
    """

    def __init__(
        self, opened: Opened, device: torch.device, precision: Precision, threads: int
    ) -> None:
        self.header, self.hash = opened.header, opened.hash
        self.device = device
        self.precision = precision
        self.threads = threads
        self.note = ""
        if device.type == "cpu" and not has_bf16_kernel():
            self.note = SLOW_CPU[precision]
        self.cells = opened.cells
        self.width, self.context = opened.cells.width, opened.cells.context
        self.pooling = opened.cells.pooling
        set_compute_dtype(opened.cells.network, DTYPES[precision], cast_weights=True)
        opened.cells.network.to(device)

    def __repr__(self) -> str:
        return f"<Embedder {self.header.name} on {self.device}, {self.precision}>"

    def embed(
        self,
        source: str | Path | AnnData | Counts,
        *,
        layer: str | None = None,
        gene_key: str | None = None,
        dtype: OutputDtype = "float32",
        progress: Progress | None = None,
    ) -> npt.NDArray[np.floating]:
        """Embed every cell of a file or an AnnData.

        Parameters
        ----------
        source, layer
            As for `open_counts`: raw counts in any known format.
        gene_key
            Column of ``var`` with Ensembl ids or symbols; found by its values if not given.
        dtype
            Of the result.
        progress
            Told (cells done, cells in all).

        Returns
        -------
        numpy.ndarray
            ``[n_cells, D]`` in the order of the input, made as `pooling` says; zeros for a cell
            without a known gene.

        Raises
        ------
        InputError
            Bad input, see `open_counts` and `map_genes`.
        """
        with open_counts(source, layer=layer) as counts:
            genes = self.header.map_genes(counts.var, gene_key=gene_key, name=counts.name)
            out = np.empty((counts.n_cells, self.width), dtype=dtype)
            done = 0
            for block in self.blocks(counts, genes, progress=progress):
                out[done : done + len(block.vectors)] = block.vectors
                done += len(block.vectors)
        return out

    def blocks(
        self,
        counts: Counts,
        genes: GeneMap,
        *,
        start: int = 0,
        progress: Progress | None = None,
    ) -> Iterator[Block]:
        """Embed block by block from row `start` on; memory does not grow with the file.

        The same rows give the same bytes whatever `start` is, if it is a multiple of
        `pipeline.BLOCK`.
        """
        if self.device.type == "cuda" and isinstance(self.cells, Bert):
            from cellscribe.inference.gpu import gpu_blocks

            yield from gpu_blocks(self.cells, counts, genes, start, progress)
            return
        done = start
        with (
            _workers(1 if self.device.type == "cuda" else self.threads) as workers,
            closing(token_blocks(counts, genes, self.cells.tokenize, start=start)) as tokens,
        ):
            started: deque[_Started] = deque()

            def finish() -> Block:
                nonlocal done
                block = started.popleft()
                done += int((block.cells.lengths == 0).sum())
                for rows, future in block.batches:
                    future.result()
                    done += len(rows)
                    if progress is not None:
                        progress(done, counts.n_cells)
                return Block(vectors=block.vectors, cells=block.cells)

            for cells in tokens:
                started.append(self._start(workers, cells))
                # One block is always queued behind the one at work: no worker runs dry.
                if len(started) == 2:
                    yield finish()
            while started:
                yield finish()

    def each_batch(
        self,
        counts: Counts,
        genes: GeneMap,
        run: Callable[[CellModel, CellTokens, npt.NDArray[np.int64]], T],
        *,
        progress: Progress | None = None,
    ) -> Iterator[tuple[npt.NDArray[np.int64], T]]:
        """Apply `run` to batches of cells, none empty, side by side; results in order, few waiting.

        Yields the rows of each batch in the input, and what `run` made of the model, the block and
        the rows there.
        """

        def batches(
            blocks: Iterator[CellTokens],
        ) -> Iterator[tuple[int, CellTokens, npt.NDArray[np.int64]]]:
            first = 0
            for cells in blocks:
                for rows in self._batches(cells):
                    yield first, cells, rows
                first += len(cells.lengths)

        def work(
            batch: tuple[int, CellTokens, npt.NDArray[np.int64]],
        ) -> tuple[npt.NDArray[np.int64], T]:
            first, cells, rows = batch
            with torch.inference_mode():
                return first + rows, run(self.cells, cells, rows)

        n_workers = 1 if self.device.type == "cuda" else self.threads
        done = 0
        with (
            _workers(n_workers) as workers,
            closing(token_blocks(counts, genes, self.cells.tokenize)) as blocks,
        ):
            for rows, result in ordered_map(workers, work, batches(blocks), ahead=n_workers + 1):
                yield rows, result
                done += len(rows)
                if progress is not None:
                    progress(done, counts.n_cells)

    def _batches(self, cells: CellTokens) -> list[npt.NDArray[np.int64]]:
        """Rows of the cells that are not empty, by like length."""
        places = self.cells.places(cells)
        filled = np.flatnonzero(places)
        budget = GPU_TOKENS if self.device.type == "cuda" else CPU_TOKENS
        return [filled[rows] for rows in length_buckets(places[filled], budget)]

    def _start(self, workers: Executor, cells: CellTokens) -> _Started:
        vectors = np.zeros((len(cells.lengths), self.width), dtype=np.float32)
        batches = self._batches(cells)
        return _Started(
            cells,
            vectors,
            [(rows, workers.submit(self._run, cells, rows, vectors)) for rows in batches],
        )

    def _run(
        self, cells: CellTokens, rows: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]
    ) -> None:
        """Embed one batch of cells, none empty, into its rows of `vectors`."""
        with torch.inference_mode():
            vectors[rows] = self.cells.embed(cells, rows).float().cpu().numpy()


@dataclass(frozen=True)
class _Started:
    """A block whose batches are at work."""

    cells: CellTokens
    vectors: npt.NDArray[np.float32]
    batches: list[tuple[npt.NDArray[np.int64], Future[None]]]


@contextmanager
def _workers(n: int) -> Iterator[Executor]:
    """CPU workers of one torch thread each; meanwhile the caller, who adds up, has one as well."""
    # Torch keeps the number per thread.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(
        n, thread_name_prefix="embed", initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
