"""One embedding run: opened counts in, a finished file out, resumable in between."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Progress
from cellscribe.cells.genes import GeneMap
from cellscribe.config import EmbedOptions
from cellscribe.errors import InputError
from cellscribe.inference.outputs import check_form, finish, sidecar
from cellscribe.inference.resume import Partial, fingerprint, partial_folder
from cellscribe.inference.session import Cells, Session
from cellscribe.writing import OutputError, check_target

MOST_SHOWN = 10_000
"""Cells that a map shows; of more, a random sample."""
LOW_COVERAGE = 0.8
FEW_GENES = 200


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what was done and how to go on."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Result of `embed_cells`."""

    n_cells: int
    width: int
    seconds: float
    """Time of this run, without loading model and file."""
    cells_per_second: float
    """Speed on the cells embedded in this run."""
    provenance: dict[str, Any]
    genes: GeneMap
    warnings: list[str]
    cells: npt.NDArray[Any]
    """``[n_cells]`` of `partial.CELL`."""
    shown: npt.NDArray[np.int64]
    """Rows of `vectors`: all, or a sample of `MOST_SHOWN`."""
    vectors: npt.NDArray[Any]
    """``[n_shown, D]``."""


def embed_cells(
    session: Session,
    source: Cells,
    out: Path,
    options: EmbedOptions,
    *,
    progress: Progress | None = None,
) -> Embedded:
    """Embed every cell of opened counts into a file.

    Parameters
    ----------
    session
        The model and the device.
    source
        The cells, opened by the session.
    out
        ``.npy``, ``.h5ad``, ``.zarr`` or ``.parquet``; it appears under this name when it is whole.
        Until then the work lies in ``OUT.partial``.
    options
        Type of the vectors, whether to resume or overwrite.
    progress
        Called with (cells done, cells in all).

    Raises
    ------
    InputError
        Bad input or options.
    OutputError
        The disk is full; what is done is kept and `options.resume` goes on.
    Interrupted
        Ctrl-C; likewise.
    """
    counts, genes, embedder = source.counts, source.genes, session.embedder
    check_output(out, counts.path, options)
    identity = {
        "model": embedder.hash,
        "gene_table": session.header.table.hash,
        "pooling": embedder.pooling,
        "layer": counts.layer,
        "counts": counts.kind,
        "input": fingerprint(counts),
        "gene_key": genes.key,
        "species": genes.species,
        "precision": embedder.precision,
        "device": embedder.device.type,
        "dtype": options.dtype,
    }
    partial = Partial(
        out,
        (counts.n_cells, embedder.width),
        options.dtype,
        identity,
        resume=options.resume,
        overwrite=options.overwrite,
    )
    began, first = time.perf_counter(), partial.done
    try:
        if partial.done < counts.n_cells:
            blocks = embedder.blocks(counts, genes, start=partial.done, progress=progress)
            for block in blocks:
                partial.append(block.vectors, block.cells)
        seconds = time.perf_counter() - began
        cells = partial.cells()
        if not cells["tokens"].any():
            raise InputError(f"{counts.name}: no cell has a count on a gene that the model knows")
        shown = sample_rows(counts.n_cells, MOST_SHOWN)
        result = Embedded(
            n_cells=counts.n_cells,
            width=embedder.width,
            seconds=seconds,
            cells_per_second=(counts.n_cells - first) / max(seconds, 1e-9),
            provenance=about_vectors(session, source, cells, options.dtype),
            genes=genes,
            warnings=find_warnings(cells, embedder.context, genes),
            cells=cells,
            shown=shown,
            vectors=np.concatenate([partial.vectors(row, row + 1) for row in shown]),
        )
        finish(out, partial, counts, result.provenance, options.key_added)
        return result
    except InputError as error:
        # Space can be made; the input will not get better by going on.
        if partial.fresh and not (partial.done and isinstance(error, OutputError)):
            partial.discard()
        raise
    except KeyboardInterrupt:
        if not partial.done:
            partial.discard()
            raise
        raise Interrupted(
            f"interrupted with {partial.done:,} of {counts.n_cells:,} cells done; "
            "the same command with --resume goes on from there"
        ) from None
    finally:
        partial.close()


def check_output(out: Path, source: Path | None, options: EmbedOptions) -> None:
    """Refuse an output before anything is opened for it.

    Raises
    ------
    InputError
        Unknown form, or `check_target` refuses it.
    """
    check_form(out, options.key_added)
    # Who goes on with a run has agreed to what it replaces.
    replacing = options.overwrite or (options.resume and partial_folder(out).exists())
    check_target(out, source, overwrite=replacing)
    if out.suffix in (".npy", ".parquet"):
        check_target(sidecar(out), source, overwrite=replacing)


def sample_rows(n_cells: int, most: int) -> npt.NDArray[np.int64]:
    """All rows, or an ascending random sample, always the same."""
    if n_cells <= most:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(0).choice(n_cells, most, replace=False))


def find_warnings(cells: npt.NDArray[Any], context: int, genes: GeneMap) -> list[str]:
    """What a user should know about these cells before trusting the vectors.

    Parameters
    ----------
    cells
        ``[n_cells]`` of `partial.CELL`.
    context
        Most genes that the model reads.
    genes
        Tokens of the file's columns.
    """
    found = []
    n_empty = int((cells["tokens"] == 0).sum())
    if n_empty:
        rows = np.flatnonzero(cells["tokens"] == 0)
        examples = ", ".join(map(str, rows[:5])) + (", …" if n_empty > 5 else "")
        found.append(
            f"{n_empty:,} of {len(cells):,} cells have no count on a gene that the model knows; "
            f"their vectors are zero (rows {examples}, counted from 0)."
        )
    total, known = int(cells["umis"].sum()), int(cells["umis_known"].sum())
    if genes.n_no_orthologue:
        found.append(
            f"{1 - known / max(total, 1):.0%} of the UMIs lie on {genes.species} genes that have "
            "no one-to-one human orthologue, or one that the model does not know; they are left "
            "out."
        )
    elif known < LOW_COVERAGE * total:
        found.append(
            f"Only {known / total:.0%} of the UMIs lie on genes that the model knows; "
            "check the gene identifiers (--gene-key)."
        )
    median = float(np.median(cells["genes"]))
    if median < FEW_GENES:
        found.append(
            f"Shallow cells: a median of {median:.0f} genes. Vectors of cells with fewer than "
            f"{FEW_GENES} genes are dominated by chance."
        )
    cut = int((cells["genes_known"] > context).sum())
    if 2 * cut > len(cells):
        found.append(
            f"{cut / len(cells):.0%} of the cells have more known genes than the {context:,} that "
            "the model reads; the others are left out."
        )
    return found


def about_vectors(
    session: Session, source: Cells, cells: npt.NDArray[Any], dtype: str
) -> dict[str, Any]:
    """Provenance of a source's vectors, in memory or in a file.

    Parameters
    ----------
    cells
        ``[n_cells]`` of `resume.CELL`.
    dtype
        Type of the vectors.
    """
    return session.about(
        source,
        dtype=dtype,
        n_empty_cells=int((cells["tokens"] == 0).sum()),
        umis=int(cells["umis"].sum()),
        umis_known=int(cells["umis_known"].sum()),
    )
