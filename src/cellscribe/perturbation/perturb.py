"""Genes deleted from cells or promoted in them, and how far the vectors move.

In-silico perturbation as Geneformer has it (Theodoris et al., Nature 2023): which cells and genes,
and a table of them. How a cell is edited is in ``by_tokens.py`` and
``by_counts.py``, how the table is made in ``statistics.py``.

Letters: ``B`` cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log, Progress
from cellscribe.cells.columns import text_column
from cellscribe.cells.counts import Counts
from cellscribe.config import PerturbOptions
from cellscribe.errors import InputError
from cellscribe.families.registry import RankedHeader
from cellscribe.inference.session import Session
from cellscribe.perturbation.genes import find_genes
from cellscribe.perturbation.statistics import NULL, Shifts, tabulate

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from cellscribe.cells.gene_names.genes import GeneMap
    from cellscribe.perturbation.by_tokens import Edits


def perturb_cells(
    session: Session,
    source: str | Path | AnnData,
    options: PerturbOptions,
    *,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Perturb genes in cells of a source, see `api.perturb`.

    Parameters
    ----------
    session
        The model and the device.
    source
        Raw counts.
    options
        Cells, genes and what is done to them.
    progress
        Called with (cells or genes done, in all).

    Returns
    -------
    pandas.DataFrame
        A row a group and gene; its provenance in ``attrs["cellscribe"]``.

    Raises
    ------
    InputError
        Bad input or options; a gene that the model does not know or that no cell shows.
    """
    _check(options)
    header = session.header
    ranks = isinstance(header, RankedHeader)
    if options.mode == "promote" and not ranks:
        raise InputError(
            f"{header.name}: --mode promote puts a gene in front of a ranking, and the family "
            f"{header.family} has none; use --mode delete"
        )
    named = find_genes(header, options.genes)
    cells = session.open(source)
    counts, genes = cells.counts, cells.genes
    cohort = _cohort(counts, options, session.log)
    block = _read(counts, cohort.rows)
    goal = None if cohort.goal is None else _read(counts, cohort.goal)
    edits = _edits(block, genes, named, options, counts.name)
    # torch takes its time to import: all that can be refused without it was refused before.
    embedder = session.embedder
    from cellscribe.families.base import BulkModel
    from cellscribe.perturbation.by_counts import by_counts, direction_to
    from cellscribe.perturbation.by_tokens import by_tokens

    if counts.kind == "tpm" and isinstance(embedder.cells, BulkModel):
        raise InputError(
            f"{header.name}: its rule for bulk samples depends on all samples, so that no gene can "
            "be taken out of one; give raw counts, or name a model that ranks genes"
        )
    direction = None if goal is None else direction_to(embedder, block, goal, genes)
    work = by_tokens if ranks else by_counts
    shifts = Shifts.concatenate(list(work(embedder, block, genes, edits, direction, progress)))
    if not (shifts.edit != NULL).any():
        raise InputError(
            f"{counts.name}: none of the {len(block.indptr) - 1:,} cells shows the gene to the "
            f"model ({', '.join(edits.names(header.table)['symbol'][:3])}); name others, or look "
            "at more --max-cells"
        )
    names = edits.names(header.table)
    table = tabulate(shifts, names, cohort.group, cohort.names, with_goal=goal is not None)
    table.attrs["cellscribe"] = session.about(cells, mode=options.mode, seed=options.seed)
    return table


def _check(options: PerturbOptions) -> None:
    """Refuse what options say of each other."""
    if not options.genes and options.top is None:
        raise InputError("name genes to perturb with --genes, or so many of them with --top")
    if options.combine and (options.top is not None or len(set(options.genes)) < 2):
        raise InputError("--combine perturbs two or more --genes together, and takes no --top")
    if options.group_by is None and (options.start is not None or options.goal is not None):
        raise InputError("--start and --goal are values of a column of obs; name it: --group-by")
    if options.goal is not None and options.start is None:
        raise InputError("--goal needs --start, the value of --group-by whose cells are perturbed")
    if options.goal is not None and options.goal == options.start:
        raise InputError(f"--start and --goal are both {options.goal!r}; name two values")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cohort:
    rows: npt.NDArray[np.int64]
    """``[B]`` rows of the file whose cells are perturbed, ascending."""
    group: npt.NDArray[np.int64]
    """``[B]`` number of each cell's group."""
    names: list[str]
    """Names of the groups."""
    goal: npt.NDArray[np.int64] | None
    """Rows of cells whose centre is the goal."""


def _cohort(counts: Counts, options: PerturbOptions, log: Log) -> _Cohort:
    """Draw the cells."""
    rng = np.random.default_rng(options.seed)

    def draw(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if len(rows) > options.max_cells:
            rows = np.sort(rng.choice(rows, options.max_cells, replace=False))
        return rows

    if options.group_by is None:
        rows = draw(np.arange(counts.n_cells))
        return _Cohort(rows=rows, group=np.zeros(len(rows), np.int64), names=["all"], goal=None)
    labels = text_column(counts.obs, options.group_by, "--group-by", counts.name)
    known = labels != ""
    there = sorted(set(labels[known]))
    for flag, value in (("--start", options.start), ("--goal", options.goal)):
        if value is not None and value not in there:
            raise InputError(
                f"{counts.name}: no cell has {options.group_by} {value!r} ({flag}); there are "
                f"{', '.join(there[:8]) or 'no values'}"
                f"{f', and {len(there) - 8:,} more' if len(there) > 8 else ''}"
            )
    if not known.any():
        raise InputError(f"{counts.name}: obs column {options.group_by!r} is empty; name another")
    if not known.all():
        log(f"{(~known).sum():,} cells without a {options.group_by} are left out.")
    rows = draw(np.flatnonzero(known if options.start is None else labels == options.start))
    names, group = np.unique(labels[rows], return_inverse=True)
    goal = None if options.goal is None else draw(np.flatnonzero(labels == options.goal))
    return _Cohort(
        rows=rows, group=group.astype(np.int64), names=[str(each) for each in names], goal=goal
    )


def _read(counts: Counts, rows: npt.NDArray[np.int64]) -> csr_matrix:
    """Some rows of opened counts."""
    from scipy.sparse import csr_matrix, vstack

    size, parts = 4_096, []
    for number, block in enumerate(counts.blocks(size)):
        here = rows[(rows >= number * size) & (rows < (number + 1) * size)] - number * size
        parts.append(csr_matrix(block[here], dtype=np.float32))
    return csr_matrix(vstack(parts))


def _edits(
    block: csr_matrix, genes: GeneMap, named: list[int], options: PerturbOptions, name: str
) -> Edits:
    """Decide what is done to the drawn cells."""
    from cellscribe.cells.tokens import known_counts
    from cellscribe.perturbation.by_tokens import Edits

    n_cells = np.bincount(known_counts(block, genes.token).tokens)
    if not n_cells.any():
        raise InputError(f"{name}: no cell has a count on a gene that the model knows")
    shown = np.flatnonzero(n_cells)
    if options.combine:
        tokens = [np.array(named)]
    else:
        often = shown[np.argsort(-n_cells[shown], kind="stable")][: options.top or 0]
        tokens = [np.array([token]) for token in dict.fromkeys([*named, *often.tolist()])]
    return Edits(tokens=tokens, promote=options.mode == "promote", shown=shown, seed=options.seed)
