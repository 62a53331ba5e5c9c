"""A table of counts, genes x cells or cells x genes, as a source.

One pass over the table gathers its names and counts its values; small tables are held on the way,
larger ones are read again when `convert` puts them in order. The side whose names are known as
genes is the genes' (`gene_axis`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellscribe.callbacks import Log
from cellscribe.cells.gene_names.features import genes_only
from cellscribe.cells.readers.anndata_files import Source
from cellscribe.cells.readers.convert import IN_MEMORY
from cellscribe.cells.readers.frames import names
from cellscribe.cells.readers.gene_axis import genes_on_lines, share_of_genes
from cellscribe.cells.readers.matrices import SAMPLE, Entries
from cellscribe.cells.readers.storage import Array
from cellscribe.cells.readers.text_files import listed
from cellscribe.errors import InputError

BD_ANTIBODY = "|pAbO"
"""Ending of BD Rhapsody's names of antibodies."""
MOST_LINES = 20_000_000
"""Lines of a table; each has a name in memory."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some lines of a table: the values that are not zero, and the names of the lines.

    Attributes
    ----------
    lines, columns, values
        int32 (from the piece's first line), int32, any number.
    names
        For each column of names, the names of the lines.
    """

    n_lines: int
    lines: Array
    columns: Array
    values: Array
    names: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that can be read from its beginning as often as one likes.

    Attributes
    ----------
    fields
        Names of the columns of numbers.
    labels
        Names of the columns of names.
    pieces
        Reads the table.
    """

    name: str
    path: Path
    form: str
    fields: list[str]
    labels: list[str]
    pieces: Callable[[], Iterator[Piece]]


@dataclass(kw_only=True)
class _Scan:
    """What one pass over a table finds."""

    names: list[list[str]]
    n_lines: int = 0
    n_values: int = 0
    whole: bool = True
    held: list[tuple[Array, Array, Array]] | None


def table_source(table: Table, log: Log) -> Source:
    """Make a source of a table.

    Raises
    ------
    InputError
        It has no cells or genes, a field that is no number, or genes on neither side.
    """
    if not table.fields:
        raise InputError(f"{table.name}: no column of numbers; give a table of counts")
    scan = _scan(table)
    if not scan.n_lines:
        raise InputError(f"{table.name}: no line below the header; give a table of counts")
    columns = _line_names(table, scan)
    down = genes_on_lines(table.name, list(columns.values()), table.fields)
    _refuse_long(table, columns, down)
    lines, fields = _frame(columns), pd.DataFrame(index=names(table.fields))
    var, obs = (lines, fields) if down else (fields, lines)
    _mark_antibodies(var)
    log(
        f"{table.name}: {'lines are genes and columns' if down else 'columns are genes and lines'} "
        f"are cells ({len(obs):,} cells x {len(var):,} genes; "
        f"genes: {listed(list(var.index[:2]))}, cells: {listed(list(obs.index[:2]))})"
    )
    entries = _entries(table, scan, down, (len(obs), len(var)))
    return Source(
        name=table.name,
        path=table.path,
        form=table.form,
        matrices={"X": lambda: entries},
        var=lambda layer: var,
        obs=lambda: obs,
        keep=genes_only(var, table.name, log),
    )


def _scan(table: Table) -> _Scan:
    scan = _Scan(names=[[] for _ in table.labels], held=[])
    for piece in table.pieces():
        for known, more in zip(scan.names, piece.names, strict=True):
            known.extend(more)
        values = piece.values
        if values.dtype.kind == "f" and scan.whole:
            with np.errstate(invalid="ignore"):
                scan.whole = bool((values == values.astype(np.int32)).all())
        scan.n_values += len(values)
        if scan.n_values > IN_MEMORY:
            scan.held = None
        if scan.held is not None and len(values):
            scan.held.append(_placed(piece, scan.n_lines, scan.whole))
        scan.n_lines += piece.n_lines
        if scan.n_lines > MOST_LINES:
            raise InputError(
                f"{table.name}: more than {MOST_LINES:,} lines; write the cells as .h5ad"
            )
    return scan


def _placed(piece: Piece, first: int, whole: bool) -> tuple[Array, Array, Array]:
    lines = piece.lines + np.int32(first)
    values = piece.values
    return lines, piece.columns, values.astype(np.int32) if whole else values


def _line_names(table: Table, scan: _Scan) -> dict[str, list[str]]:
    """Columns of names by their label; those of the lines' places if there is none."""
    columns: dict[str, list[str]] = {}
    for at, (label, values) in enumerate(zip(table.labels, scan.names, strict=True)):
        key = label if label and label not in columns else f"column_{at}"
        columns[key] = values
    rows = [key for key, values in columns.items() if _are_places(values)]
    for key in rows if len(rows) < len(columns) else rows[1:]:
        # row numbers next to true names
        del columns[key]
    return columns or {"place": [str(at) for at in range(scan.n_lines)]}


def _are_places(values: Sequence[str]) -> bool:
    if values[0] not in ("0", "1"):
        return False
    return all(value == str(at) for at, value in enumerate(values, int(values[0])))


def _frame(columns: dict[str, list[str]]) -> pd.DataFrame:
    first, *others = columns
    return pd.DataFrame({key: columns[key] for key in others}, index=names(columns[first]))


def _mark_antibodies(var: pd.DataFrame) -> None:
    antibodies = [name.endswith(BD_ANTIBODY) for name in var.index]
    if any(antibodies) and "feature_types" not in var:
        var["feature_types"] = np.where(antibodies, "Antibody Capture", "Gene Expression")


def _refuse_long(table: Table, columns: dict[str, list[str]], down: bool) -> None:
    """Refuse a table with a line for each gene of each cell: it would be read as one cell."""
    if not down or len(columns) < 2:
        return
    genes = max(columns.values(), key=share_of_genes)
    # names of genes that stand twice are few, but for one cell they may not be taken for many
    if len(set(genes)) < (0.9 if len(table.fields) == 1 else 0.5) * len(genes):
        raise InputError(
            f"{table.name}: a long table, with a line for each gene of each cell "
            f"({listed([*columns, *table.fields])}); write it wide, with "
            "pandas.DataFrame.pivot_table(index=cell, columns=gene, values=count, fill_value=0)"
        )


def _entries(table: Table, scan: _Scan, down: bool, sizes: tuple[int, int]) -> Entries:
    dtype = np.dtype(np.int32 if scan.whole else np.float64)

    def placed() -> Iterator[tuple[Array, Array, Array]]:
        if scan.held is not None:
            yield from scan.held
            return
        first = done = 0
        for piece in table.pieces():
            done += len(piece.values)
            if first + piece.n_lines > scan.n_lines or done > scan.n_values:
                break
            yield _placed(piece, first, scan.whole)
            first += piece.n_lines
        if (first, done) != (scan.n_lines, scan.n_values):
            raise InputError(f"{table.name} changed while it was read; run again when it is whole")

    def chunks(with_values: bool) -> Iterator[tuple[Array, Array, Array]]:
        for lines, columns, values in placed():
            cells, genes = (columns, lines) if down else (lines, columns)
            yield cells, genes, values.astype(dtype, copy=False)

    return Entries(
        shape=sizes,
        n_entries=scan.n_values,
        dtype=dtype,
        where=f"{table.name}: X",
        chunks=chunks,
        sample=lambda: next(chunks(True), (np.empty(0),) * 3)[2][:SAMPLE],
    )
