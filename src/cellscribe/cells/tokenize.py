"""A file of counts -> a Parquet file of tokens.

Columns: ``cell_id``, ``input_ids`` (``list<uint16>``, [CLS] first where the model has it) and
``length``. The file opens with ``datasets.load_dataset("parquet", ...)``; what the tokens mean
stands in its schema's metadata under ``cellscribe``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numba
import numpy as np
import numpy.typing as npt

from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.genes import GeneMap, map_genes
from cellscribe.cells.pipeline import ranked_blocks
from cellscribe.cells.rank import RankedCells
from cellscribe.cells.vocabulary import CLS, Vocabulary
from cellscribe.errors import InputError
from cellscribe.writing import check_target, writing

if TYPE_CHECKING:
    import pyarrow as pa
    from anndata import AnnData

Progress = Callable[[int, int], None]
"""Told (cells done, cells in all) now and then."""


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """What `tokenize_file` did."""

    n_cells: int
    n_tokens: int
    n_empty: int
    genes: GeneMap


def tokenize_file(
    source: str | Path | AnnData | Counts,
    out: str | Path,
    *,
    vocabulary: Vocabulary,
    context: int,
    cls_token: bool = True,
    layer: str | None = None,
    gene_key: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Tokenized:
    """Rank the genes of every cell and write the tokens.

    Parameters
    ----------
    source, layer
        As for `open_counts`.
    out
        The ``.parquet`` file; it appears whole or not at all.
    vocabulary, context, cls_token
        Gene table, most genes a cell, and whether [CLS] stands in front.
    gene_key
        As for `map_genes`.
    overwrite
        Replace `out` if it exists.
    progress
        Told how far it is.

    Raises
    ------
    InputError
        Bad input, see `open_counts` and `map_genes`; `out` exists, is no ``.parquet`` or cannot
        be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = Path(out)
    if out.suffix != ".parquet":
        raise InputError(f"{out}: tokens are written as Parquet; name it {out.stem}.parquet")
    with open_counts(source, layer=layer) as counts:
        check_target(out, counts.path, overwrite=overwrite)
        genes = map_genes(counts.var, vocabulary, gene_key=gene_key, name=counts.name)
        about = {
            "vocabulary_hash": vocabulary.hash,
            "context": context,
            "cls_token": cls_token,
            "layer": counts.layer,
            "source": Path(counts.name).name,
        }
        schema = pa.schema(
            {"cell_id": pa.string(), "input_ids": pa.list_(pa.uint16()), "length": pa.int32()},
            metadata={"cellscribe": json.dumps(about)},
        )
        names = counts.obs.index.to_numpy(dtype=object)
        done = n_tokens = n_empty = 0
        with (
            writing(out) as partial,
            # A dictionary takes 15 bits a token, plain Parquet 32; compression adds nothing.
            pq.ParquetWriter(partial, schema, compression="none", write_statistics=False) as writer,
            closing(ranked_blocks(counts, genes, vocabulary, context)) as blocks,
        ):
            for ranked in blocks:
                size = len(ranked.lengths)
                writer.write_batch(
                    _record_batch(ranked, names[done : done + size], cls_token, schema)
                )
                done += size
                n_tokens += len(ranked.tokens)
                n_empty += int((ranked.lengths == 0).sum())
                if progress is not None:
                    progress(done, counts.n_cells)
    return Tokenized(n_cells=done, n_tokens=n_tokens, n_empty=n_empty, genes=genes)


@numba.njit(cache=True, nogil=True)
def _behind(front: int, tokens, offsets):  # type: ignore[no-untyped-def]
    """Put `front` before each cell's tokens."""
    out = np.empty(len(tokens) + len(offsets) - 1, dtype=tokens.dtype)
    for cell in range(len(offsets) - 1):
        start, end = offsets[cell], offsets[cell + 1]
        out[start + cell] = front
        out[start + cell + 1 : end + cell + 1] = tokens[start:end]
    return out


def _record_batch(
    ranked: RankedCells, names: npt.NDArray[np.object_], cls_token: bool, schema: pa.Schema
) -> pa.RecordBatch:
    import pyarrow as pa

    tokens, offsets = ranked.tokens, ranked.offsets
    if cls_token:
        tokens = _behind(CLS, tokens, offsets)
        offsets = offsets + np.arange(len(offsets))
    ids = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(tokens))
    lengths = np.diff(offsets).astype(np.int32)
    return pa.record_batch([pa.array(names, pa.string()), ids, pa.array(lengths)], schema=schema)
