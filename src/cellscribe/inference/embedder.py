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
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from cellscribe.cells.batches import length_buckets
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.genes import GeneMap, map_genes
from cellscribe.cells.pipeline import ranked_blocks, usable_cores
from cellscribe.cells.rank import RankedCells
from cellscribe.cells.vocabulary import CLS
from cellscribe.config import OutputDtype, Precision
from cellscribe.errors import InputError
from cellscribe.model.attention import Cells
from cellscribe.model.attention_cpu import has_bf16_kernel
from cellscribe.model.checkpoint import Checkpoint, load_checkpoint
from cellscribe.model.device import DTYPES, SLOW_CPU, choose_device, choose_precision
from cellscribe.model.encoder import Encoder, set_compute_dtype
from cellscribe.model.heads import mean_over_genes

if TYPE_CHECKING:
    from anndata import AnnData

CPU_TOKENS = 2_048
"""Tokens a batch and worker: enough to fill a product, few enough for the second-level cache."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive cells, embedded."""

    vectors: npt.NDArray[np.float32]
    """``[B, D]``; zeros for a cell without a known gene."""
    cells: RankedCells
    """What the vectors were made from."""


def load(
    model: str | Path = "mini",
    *,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
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

    Raises
    ------
    InputError
        Unknown or damaged model, no such device, or a precision that the device lacks.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads must be 1 or more, not {threads}")
    where = choose_device(device)
    chosen = choose_precision(where, precision)
    checkpoint = load_checkpoint(model)
    return Embedder(checkpoint, where, chosen, threads or usable_cores())


class Embedder:
    """A loaded model; from `load`.

    Attributes
    ----------
    checkpoint
        Name, configuration, gene table, provenance and hash of the model.
    device, precision, threads
        Where and how it computes.
    note
        What a user should know of a slower way that is taken, else "".
    width
        ``D``, the length of a vector.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, precision: Precision, threads: int
    ) -> None:
        self.checkpoint = checkpoint
        self.device = device
        self.precision = precision
        self.threads = threads
        self.note = ""
        if device.type == "cpu" and not has_bf16_kernel():
            self.note = SLOW_CPU[precision]
        self.width = checkpoint.config.hidden_size
        self._encoder: Encoder = checkpoint.model.encoder.eval()
        set_compute_dtype(self._encoder, DTYPES[precision], cast_weights=True)
        self._encoder.to(device)

    def __repr__(self) -> str:
        return f"<Embedder {self.checkpoint.name} on {self.device}, {self.precision}>"

    def embed(
        self,
        source: str | Path | AnnData | Counts,
        *,
        layer: str | None = None,
        gene_key: str | None = None,
        dtype: OutputDtype = "float32",
        progress: Callable[[int, int], None] | None = None,
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
            ``[n_cells, D]`` in the order of the input: the mean of the last hidden layer over a
            cell's genes, zeros for a cell without a known gene.

        Raises
        ------
        InputError
            Bad input, see `open_counts` and `map_genes`.
        """
        with open_counts(source, layer=layer) as counts:
            genes = map_genes(
                counts.var, self.checkpoint.vocabulary, gene_key=gene_key, name=counts.name
            )
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
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Block]:
        """Embed block by block from row `start` on; memory does not grow with the file.

        The same rows give the same bytes whatever `start` is, if it is a multiple of
        `pipeline.BLOCK`.
        """
        if self.device.type == "cuda":
            from cellscribe.inference.gpu import gpu_blocks

            yield from gpu_blocks(self._encoder, self.checkpoint, counts, genes, start, progress)
            return
        config, vocabulary = self.checkpoint.config, self.checkpoint.vocabulary
        done = start
        with (
            _workers(self.threads) as workers,
            closing(
                ranked_blocks(counts, genes, vocabulary, config.context, start=start)
            ) as ranked_cells,
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

            for cells in ranked_cells:
                started.append(self._start(workers, cells))
                # One block is always queued behind the one at work: no worker runs dry.
                if len(started) == 2:
                    yield finish()
            while started:
                yield finish()

    def _start(self, workers: Executor, cells: RankedCells) -> _Started:
        vectors = np.zeros((len(cells.lengths), self.width), dtype=np.float32)
        filled = np.flatnonzero(cells.lengths)
        front = int(self.checkpoint.config.cls_token)
        batches = [
            filled[places] for places in length_buckets(cells.lengths[filled] + front, CPU_TOKENS)
        ]
        return _Started(
            cells,
            vectors,
            [(rows, workers.submit(self._run, cells, rows, vectors)) for rows in batches],
        )

    def _run(
        self, cells: RankedCells, rows: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]
    ) -> None:
        """Embed one batch of cells, none empty, into its rows of `vectors`."""
        front = [np.array([CLS], np.uint16)] if self.checkpoint.config.cls_token else []
        parts, lengths = [], []
        for row in rows:
            tokens = cells.tokens[cells.offsets[row] : cells.offsets[row + 1]]
            parts += [*front, tokens]
            lengths.append(len(front) + len(tokens))
        tokens_N = torch.from_numpy(np.concatenate(parts).astype(np.int64))
        with torch.inference_mode():
            where = Cells(tuple(lengths), torch.device("cpu"))
            hidden_ND = self._encoder(tokens_N, where)
            vectors[rows] = mean_over_genes(hidden_ND, where, len(front)).numpy()


@dataclass(frozen=True)
class _Started:
    """A block whose batches are at work."""

    cells: RankedCells
    vectors: npt.NDArray[np.float32]
    batches: list[tuple[npt.NDArray[np.int64], Future[None]]]


@contextmanager
def _workers(n: int) -> Iterator[Executor]:
    """CPU workers of one torch thread each; the caller's number of threads stays as it was."""
    # Once asked for, torch keeps the number per thread; else the workers' would spread.
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        n, thread_name_prefix="embed", initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
