"""A file of counts -> a Parquet file of tokens.

Columns: ``cell_id``, ``input_ids`` (``list<uint16>``, with the model's special tokens), ``values``
(``list<float32>``) for models that read them, and ``length``. The file opens with
``datasets.load_dataset("parquet", ...)``; what the tokens mean is written into its schema's
metadata under ``cellscribe``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Progress, number_of
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.pipeline import token_blocks
from cellscribe.cells.tokens import CellTokens, Tokenize
from cellscribe.config import InputOptions
from cellscribe.errors import InputError
from cellscribe.lease import claim
from cellscribe.writing import check_place, writing

if TYPE_CHECKING:
    import pyarrow as pa
    from anndata import AnnData

# Differences take 16 bits a token, plain Parquet 32, a dictionary 15 and a third more time;
# compression adds nothing.
STORED: dict[str, Any] = {
    "compression": "none",
    "write_statistics": False,
    "use_dictionary": ["cell_id", "values.list.element", "length"],
    "column_encoding": {"input_ids.list.element": "DELTA_BINARY_PACKED"},
}
"""How the columns are stored."""


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """What `write_tokens` did."""

    n_cells: int
    n_tokens: int
    n_empty: int
    genes: GeneMap

    @property
    def warnings(self) -> list[str]:
        """What to know before using the tokens, a line each."""
        if not self.n_empty:
            return []
        cells = number_of(self.n_empty, "cell")
        return [f"{cells} without a count on a gene that the model knows."]


def write_tokens(
    source: str | Path | AnnData | Counts,
    out: str | Path,
    look_up: Callable[[Counts], GeneMap],
    tokenize: Tokenize,
    *,
    front: Sequence[int] = (),
    back: Sequence[int] = (),
    about: Mapping[str, Any],
    options: InputOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Tokenized:
    """Write the tokens of every cell, as any model reads them.

    Parameters
    ----------
    source, options
        As for `open_counts`.
    out
        The ``.parquet`` file; it appears whole or not at all.
    look_up
        From opened counts to the token of each column.
    tokenize
        From a block of counts and those tokens to each cell's tokens.
    front, back
        Special tokens before and after each cell's.
    about
        What the tokens mean, for the schema's metadata.
    overwrite
        Replace `out` if it exists.
    progress
        Called with (cells done, cells in all).

    Raises
    ------
    InputError
        Bad input, see `open_counts` and `look_up`; `out` exists, is no ``.parquet`` or cannot be
        written.
    """
    out = Path(out)
    if out.suffix != ".parquet":
        raise InputError(f"{out}: tokens are written as Parquet; name it {out.stem}.parquet")
    given = Path(source) if isinstance(source, str | Path) else None
    with (
        claim(out, [given], overwrite=overwrite),
        open_counts(source, options=options) as counts,
    ):
        check_place(out, counts.path)
        return write_opened(
            counts,
            out,
            look_up(counts),
            tokenize,
            front=front,
            back=back,
            about=about,
            progress=progress,
        )


def write_opened(
    counts: Counts,
    out: Path,
    genes: GeneMap,
    tokenize: Tokenize,
    *,
    front: Sequence[int],
    back: Sequence[int],
    about: Mapping[str, Any],
    progress: Progress | None,
) -> Tokenized:
    """Write the tokens of opened counts; see `write_tokens`.

    Parameters
    ----------
    counts, genes
        The cells, and the token of each of their columns.
    out
        A place that nobody else writes to.
    tokenize, front, back, about, progress
        As for `write_tokens`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    description = {**about, "layer": counts.layer, "counts": counts.kind}
    description["source"] = Path(counts.name).name
    metadata = {"cellscribe": json.dumps(description)}
    names = counts.obs.index.to_numpy(dtype=object)
    done = n_tokens = n_empty = 0
    with (
        writing(out) as partial,
        ExitStack() as stack,
        closing(token_blocks(counts, genes, tokenize)) as blocks,
    ):
        writer = None
        for cells in blocks:
            size = len(cells.lengths)
            batch = record_batch(cells, names[done : done + size], front, back)
            if writer is None:
                schema = batch.schema.with_metadata(metadata)
                writer = stack.enter_context(pq.ParquetWriter(partial, schema, **STORED))
            writer.write_table(pa.Table.from_batches([batch]))
            done += size
            n_tokens += len(cells.tokens)
            n_empty += int((cells.lengths == 0).sum())
            if progress is not None:
                progress(done, counts.n_cells)
        stack.close()
    return Tokenized(n_cells=done, n_tokens=n_tokens, n_empty=n_empty, genes=genes)


@numba.njit(cache=True, nogil=True)
def _around(front, back, tokens, offsets):  # type: ignore[no-untyped-def]
    """Put `front` before and `back` after each cell's tokens."""
    more = len(front) + len(back)
    out = np.empty(len(tokens) + more * (len(offsets) - 1), dtype=tokens.dtype)
    for cell in range(len(offsets) - 1):
        start, end = offsets[cell], offsets[cell + 1]
        first = start + cell * more
        out[first : first + len(front)] = front
        first += len(front)
        out[first : first + end - start] = tokens[start:end]
        first += end - start
        out[first : first + len(back)] = back
    return out


def record_batch(
    cells: CellTokens,
    names: npt.NDArray[np.object_],
    front: Sequence[int],
    back: Sequence[int],
) -> pa.RecordBatch:
    """Put the tokens of some cells into the columns of the file.

    Parameters
    ----------
    cells
        Tokens of ``B`` cells.
    names
        ``[B]`` names of the cells.
    front, back
        Special tokens before and after each cell's.
    """
    import pyarrow as pa

    tokens, offsets, more = cells.tokens, cells.offsets, len(front) + len(back)
    if more:
        first, last = (np.array(part, dtype=tokens.dtype) for part in (front, back))
        tokens = _around(first, last, tokens, offsets)
        offsets = offsets + more * np.arange(len(offsets))
    ends = pa.array(offsets.astype(np.int32))
    columns = {
        "cell_id": pa.array(names, pa.string()),
        "input_ids": pa.ListArray.from_arrays(ends, pa.array(tokens)),
    }
    if cells.values is not None:
        columns["values"] = pa.ListArray.from_arrays(ends, pa.array(cells.values))
    columns["length"] = pa.array(np.diff(offsets).astype(np.int32))
    return pa.record_batch(columns)
