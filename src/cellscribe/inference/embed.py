"""One embedding run: opened counts in, a finished file out, resumable in between."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Progress
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.readers.token_source import TokenCells
from cellscribe.config import EmbedOptions, InputOptions, ModelOptions
from cellscribe.errors import InputError, worded
from cellscribe.inference.inputs import HashedCounts, InputChangedError, InputFiles
from cellscribe.inference.obs_columns import lacking
from cellscribe.inference.outputs import check_form, finish, sidecar
from cellscribe.inference.resume import Partial, fingerprint, partial_folder
from cellscribe.inference.session import Cells, Session, part_of
from cellscribe.writing import OutputError, check_place, check_taken

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
    counts_hash: str
    """Of the counts as they were read: the same for the same cells and genes."""


def embed_cells(
    session: Session,
    source: Cells,
    out: Path,
    options: EmbedOptions,
    *,
    files: InputFiles | None = None,
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
    files
        The files of `source`, looked at before it was opened; now if not given.
    progress
        Called with (cells done, cells in all).

    Raises
    ------
    InputError
        Bad input or options, an input that changes, vectors that are not finite.
    OutputError
        The disk is full; what is done is kept and `options.resume` goes on.
    Interrupted
        Ctrl-C; likewise.
    """
    counts, genes, embedder = source.counts, source.genes, session.embedder
    check_output(out, counts.path, options)
    files = files or InputFiles(counts.path)
    partial = Partial(
        out,
        (counts.n_cells, embedder.width),
        options.dtype,
        run_identity(session, source, options),
        resume=options.resume,
        overwrite=options.overwrite,
    )
    began, first = time.perf_counter(), partial.done
    try:
        partial.check_input(counts, files.digest)
        if partial.done < counts.n_cells:
            _add_blocks(partial, session, source, files, progress)
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
            warnings=[
                *find_warnings(cells, embedder.context, genes),
                *(f"obs has no column {name!r}: null." for name in lacking(counts, options.obs)),
            ],
            cells=cells,
            shown=shown,
            vectors=np.concatenate([partial.vectors(row, row + 1) for row in shown]),
            counts_hash=partial.counts_hash(),
        )
        finish(out, partial, counts, result.provenance, options.key_added, files, options.obs)
        return result
    except InputChangedError as error:
        if not partial.done:
            partial.discard()
            raise
        raise InputChangedError(
            f"{error}, and go on with the same command and --resume: what is done is kept, and "
            "used if the counts of its cells are still the same"
        ) from None
    except InputError as error:
        # Space can be made; the input will not get better by going on.
        if partial.fresh and not (partial.done and isinstance(error, OutputError)):
            partial.discard()
        raise
    except Exception:
        if not partial.done:
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


def _add_blocks(
    partial: Partial,
    session: Session,
    source: Cells,
    files: InputFiles,
    progress: Progress | None,
) -> None:
    """Embed the rows that are not done."""
    with (
        HashedCounts(source.counts) as hashed,
        closing(
            session.embedder.blocks(
                hashed.counts, source.genes, start=partial.done, progress=progress
            )
        ) as blocks,
    ):
        for block in blocks:
            stop = partial.done + len(block.vectors)
            files.check(now=stop == source.counts.n_cells)
            partial.append(block.vectors, block.cells, hashed.take(partial.done, stop))


def run_identity(session: Session, source: Cells, options: EmbedOptions) -> dict[str, Any]:
    """All that decides the vectors of a run; their places are told by `Partial`."""
    counts, genes, embedder = source.counts, source.genes, session.embedder
    chosen = part_of(ModelOptions, options), part_of(InputOptions, options)
    read = {name: value for part in chosen for name, value in asdict(part).items()}
    return {
        **embedder.identity,
        **{name: value if value is None else str(value) for name, value in read.items()},
        # as they were resolved, in place of as they were asked for
        "pooling": embedder.pooling,
        "layer": counts.layer,
        "counts": counts.kind,
        "gene_key": genes.key,
        "species": genes.species,
        "precision": embedder.precision,
        "device": embedder.device.type,
        "dtype": options.dtype,
        "input": fingerprint(counts, genes),
        "version of cellscribe": metadata.version("cellscribe"),
    }


def check_where(out: Path, source: Path | None, options: EmbedOptions) -> None:
    """Refuse an output of an unknown form, or in a place that `check_place` refuses."""
    check_form(out, options.key_added, options.obs)
    for path in _outputs(out):
        check_place(path, source)


def check_output(out: Path, source: Path | None, options: EmbedOptions) -> None:
    """Refuse an output before anything is opened for it.

    Raises
    ------
    InputError
        `check_where` or `check_taken` refuses it.
    """
    check_where(out, source, options)
    # Who goes on with a run has agreed to what it replaces.
    replacing = options.overwrite or (options.resume and partial_folder(out).exists())
    for path in _outputs(out):
        check_taken(path, overwrite=replacing)


def _outputs(out: Path) -> list[Path]:
    return [out, sidecar(out)] if out.suffix in (".npy", ".parquet") else [out]


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
    return [worded(sentence) for sentence in found]


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
    totals = {name: int(cells[name].sum()) for name in ("umis", "umis_known")}
    return session.about(
        source,
        dtype=dtype,
        n_empty_cells=int((cells["tokens"] == 0).sum()),
        # tokens do not tell how many counts they were made of
        **({} if isinstance(source.counts, TokenCells) else totals),
    )
