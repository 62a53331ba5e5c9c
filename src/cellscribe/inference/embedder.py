"""A model ready to embed: ranked cells in, one vector a cell out.

How batches are worked on is in ``cpu.py`` and ``gpu.py``, which give the same blocks.

Letters: ``B`` cells of a block, ``D`` width.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from cellscribe.callbacks import Progress
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.pipeline import usable_cores
from cellscribe.cells.readers.token_source import holds_tokens
from cellscribe.config import (
    CountsKind,
    DeviceOptions,
    InputOptions,
    ModelOptions,
    OutputDtype,
    Precision,
    Species,
    choose_options,
)
from cellscribe.errors import boundary
from cellscribe.families.bert.model import Bert
from cellscribe.families.named import hub_name, local_model
from cellscribe.families.registry import ModelHeader, Opened, open_model
from cellscribe.inference.cpu import CPU_TOKENS, Block, Rows, Work, cpu_blocks, map_batches
from cellscribe.inference.finite import check_finite, check_float16
from cellscribe.inference.gpu import GPU_TOKENS, gpu_blocks
from cellscribe.inference.resume import CELL, cell_facts
from cellscribe.lease import claim
from cellscribe.model.attention_cpu import has_bf16_kernel
from cellscribe.model.device import DTYPES, SLOW_CPU, choose_device, choose_precision
from cellscribe.model.encoder import set_compute_dtype
from cellscribe.notebook import facts_html, with_bar
from cellscribe.writing import writing

if TYPE_CHECKING:
    from anndata import AnnData

T = TypeVar("T")


def load(
    model: str | Path | ModelHeader = "mini",
    *,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
    pool: str | None = None,
    hidden_layer: int | None = None,
    target_depth: str | None = None,
    options: ModelOptions | None = None,
) -> Embedder:
    """Load a model for embedding.

    Parameters
    ----------
    model
        A bundled model's name or a checkpoint directory; or its header, already read.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"`` or a CUDA device.
    precision
        Precision of matrix products: ``"auto"`` (bf16 where the hardware has it; on a GPU without,
        fp16; on a CPU without, float32), ``"float32"``, ``"bf16"`` or ``"fp16"``. Residual stream,
        LayerNorm and the vectors are float32 whatever it is.
    threads
        CPU workers; all usable cores if not given.
    pool, hidden_layer, target_depth
        How vectors are made, where it differs from what the model's family publishes; see
        `ModelOptions`.
    options
        The last three as `ModelOptions`.

    Raises
    ------
    InputError
        Unknown or damaged model, no such device, a precision that the device lacks, or an option
        that the model's family does not have.
    """
    given = {"pool": pool, "hidden_layer": hidden_layer, "target_depth": target_depth}
    options = choose_options(ModelOptions, options, "load", given)
    run = DeviceOptions(device=device, precision=precision, threads=threads)
    where = choose_device(run.device)
    chosen = choose_precision(where, run.precision)
    if isinstance(model, str | Path):
        model = local_model(model)
    return Embedder(open_model(model, options), where, chosen, run.threads or usable_cores())


class Embedder:
    """A loaded model; from `load`. Every verb takes it in place of a model's name.

    Attributes
    ----------
    header
        Name, family, gene table and provenance of the model.
    options
        How its vectors are made; what is not given is the family's own.
    cells
        The model itself, see `families.base.CellModel`.
    hash
        SHA-256 of its weights file, the first 16 hexadecimal digits.
    identity
        Hashes of weights, gene table and configuration, see `registry.Opened.identity`.
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
        self.header, self.hash, self.options = opened.header, opened.hash, opened.options
        self.identity = opened.identity
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

    @classmethod
    @boundary
    def from_pretrained(
        cls,
        model: str | Path = "mini",
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        **settings: Any,
    ) -> Embedder:
        """Load a model; `load` under the name that Hugging Face gives it.

        Parameters
        ----------
        model
            A bundled model's name, a checkpoint directory, or a repository of the Hugging Face hub.
        revision, subfolder
            Branch, tag or commit of the repository, and the folder in it that holds the model.
        **settings
            Keywords of `load`.

        Raises
        ------
        InputError
            See `load` and `families.named.find_model`.
        """
        return load(hub_name(model, revision, subfolder), **settings)

    @boundary
    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model to a folder: a checkpoint directory, as `load` reads it.

        Its files are those that it was loaded from; options of `load` are not among them.

        Parameters
        ----------
        folder
            The new directory; appears when it is whole.
        overwrite
            Replace it if it exists.

        Raises
        ------
        InputError
            It exists, or cannot be written.
        """
        folder, source = Path(folder), self.header.directory
        with (
            claim(folder, [source], overwrite=overwrite, is_folder=True),
            writing(folder) as partial,
        ):
            shutil.copytree(source, partial)
        return folder

    def __repr__(self) -> str:
        return f"<Embedder {self.header.name} on {self.device}, {self.precision}>"

    def _repr_html_(self) -> str:
        return facts_html(
            f"cellscribe model {self.header.name}",
            {
                "family": self.header.family,
                "vector": f"{self.width:,} values a cell: {self.pooling}",
                "genes": f"{len(self.header.table):,} known, {self.context:,} read of a cell",
                "computes": f"{self.precision} on {self.device}",
                "weights": f"hash {self.hash}",
            },
        )

    @boundary
    @with_bar
    def embed(
        self,
        source: str | Path | AnnData | Counts,
        *,
        layer: str | None = None,
        gene_key: str | None = None,
        species: Species = "human",
        counts: CountsKind = "raw",
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
        species
            ``"mouse"`` for mouse genes, which are read as their one-to-one human orthologues.
        counts
            What the values are: ``"raw"`` counts, ``"fractional"`` ones or ``"tpm"``.
        dtype
            Type of the result.
        progress
            Called with (cells done, cells in all).

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
        options = InputOptions(layer=layer, counts=counts)
        with open_counts(source, options=options) as opened:
            genes = self.header.map_genes(
                opened.var,
                gene_key=gene_key,
                species=species,
                cells=opened.cell_names,
                name=opened.name,
            )
            return self.embed_counts(opened, genes, dtype=dtype, progress=progress)[0]

    def embed_counts(
        self,
        counts: Counts,
        genes: GeneMap,
        *,
        dtype: OutputDtype = "float32",
        progress: Progress | None = None,
    ) -> tuple[npt.NDArray[np.floating], npt.NDArray[Any]]:
        """Embed opened counts, which stay open.

        Returns
        -------
        vectors
            ``[n_cells, D]`` of `dtype`.
        cells
            ``[n_cells]`` of `resume.CELL`.
        """
        vectors = np.empty((counts.n_cells, self.width), dtype=dtype)
        cells = np.zeros(counts.n_cells, CELL)
        done = 0
        for block in self.blocks(counts, genes, progress=progress):
            rows = slice(done, done + len(block.vectors))
            if dtype == "float16":
                check_float16(block.vectors, done)
            vectors[rows], cells[rows] = block.vectors, cell_facts(block.cells)
            done += len(block.vectors)
        return vectors, cells

    def blocks(
        self,
        counts: Counts,
        genes: GeneMap,
        *,
        start: int = 0,
        progress: Progress | None = None,
    ) -> Generator[Block]:
        """Embed block by block from row `start` on; memory does not grow with the file.

        The same rows give the same bytes whatever `start` is, if it is a multiple of
        `pipeline.BLOCK`.

        Raises
        ------
        InputError
            Bad input; vectors that are not finite, see `finite.check_finite`.
        """
        ranked = holds_tokens(counts)
        if self.device.type == "cuda" and isinstance(self.cells, Bert) and not ranked:
            blocks = gpu_blocks(self.cells, counts, genes, start, progress)
        else:
            run = partial(cpu_blocks, workers=self._workers, tokens=self.batch_tokens)
            blocks = run(self.cells, counts, genes, start, progress)
        with closing(blocks):  # type: ignore[type-var]
            for block in blocks:
                check_finite(block.vectors, block.cells, start, self.cells, self.precision)
                start += len(block.vectors)
                yield block

    def each_batch(
        self,
        counts: Counts,
        genes: GeneMap,
        work: Work[T],
        *,
        progress: Progress | None = None,
    ) -> Iterator[tuple[Rows, T]]:
        """Apply `work` to batches of cells, none empty, side by side; results in order.

        Few results wait at a time. Yields the rows of each batch in the input, and its result.
        """
        done = 0
        for batch in map_batches(
            self.cells,
            counts,
            genes,
            work,
            workers=self._workers,
            tokens=self.batch_tokens,
            ahead=1,
        ):
            if batch.rows is None:
                continue
            yield batch.first + batch.rows, batch.result  # type: ignore[misc]
            done += len(batch.rows)
            if progress is not None:
                progress(done, counts.n_cells)

    @property
    def batch_tokens(self) -> int:
        """Tokens a batch on this device."""
        return GPU_TOKENS if self.device.type == "cuda" else CPU_TOKENS

    @property
    def _workers(self) -> int:
        return 1 if self.device.type == "cuda" else self.threads
