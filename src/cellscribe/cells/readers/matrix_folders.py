"""Matrix Market files with the tables of genes and cells that belong to them.

The tables are known by their names, whatever pipeline wrote them (10x, STARsolo, kallisto|bustools,
alevin-fry, Parse, BD Rhapsody, Expression Atlas), those that share the matrix' prefix first. The
matrix is genes x cells or cells x genes, which the sizes of the tables tell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cellscribe.callbacks import Log
from cellscribe.cells.gene_names.features import genes_only
from cellscribe.cells.readers.anndata_files import Source
from cellscribe.cells.readers.matrix_market import MatrixMarket, read_header
from cellscribe.cells.readers.name_tables import (
    cell_frame,
    fit,
    gene_frame,
    read_table,
    size_fault,
)
from cellscribe.cells.readers.text_files import listed, plain_name
from cellscribe.errors import InputError

MATRIX = ".mtx"
_TABLE = re.compile(r".*\.(?:tsv|csv|txt|mtx_rows|mtx_cols)|[^.]*")
_GENES = re.compile(r"feature|gene|symbol")
_CELLS = re.compile(r"barcode|cell|sample|bc_wells")
_ROWS = re.compile(r"(?:row|col)[_-]?(?:s|names?|umns?)?(?:\.|$)")
_OWN = re.compile(r"(?:all_)?(?:features?|genes?|symbols?|barcodes?|cells?|samples?|bc_wells)")
FIRST = (
    *("features.tsv", "genes.tsv", "barcodes.tsv", "features.txt", "genes.txt", "barcodes.txt"),
    *("features.csv", "all_genes.csv", "genes.csv", "barcodes.csv", "cell_metadata.csv"),
)
"""Names that are taken before others, in this order."""
MOST_NAMES = 50_000_000
"""Cells or genes that may have names: they are held in memory."""
PARTS = ("spliced", "unspliced", "ambiguous", "mature", "nascent")
"""Matrices that hold one part of the counts of a cell."""


def is_matrix(path: Path) -> bool:
    """Tell a Matrix Market file by its name."""
    return plain_name(path).endswith(MATRIX)


def matrices_in(folder: Path) -> list[Path]:
    """List the Matrix Market files of a folder."""
    return [
        path
        for path in sorted(folder.iterdir())
        if is_matrix(path) and path.is_file() and not path.name.startswith(".")
    ]


def choose_matrix(folder: Path, name: str, log: Log) -> Path | None:
    """Find the matrix that a folder stands for; None if it has no matrix.

    One called matrix.mtx stands for the folder next to others such as STARsolo's
    UniqueAndMult-EM.mtx, and a log line says so.

    Raises
    ------
    InputError
        There are several.
    """
    found = matrices_in(folder)
    if len(found) < 2:
        return found[0] if found else None
    main = [path for path in found if plain_name(path).endswith(f"matrix{MATRIX}")]
    if len(main) == 1 and plain_name(main[0]) == f"matrix{MATRIX}":
        others = listed([path.name for path in found if path not in main])
        log(f"{name}: reading {main[0].name}; name another to read it: {others}")
        return main[0]
    kinds = {plain_name(path).split(".")[-2] for path in found}
    parts = "each holds a part of the counts; " if kinds & set(PARTS) else ""
    raise InputError(
        f"{name}: several matrices ({listed([path.name for path in found])}); {parts}"
        f"name one of them, as in {folder / found[0].name}"
    )


def open_matrix(matrix: Path, *, name: str, path: Path, log: Log) -> Source:
    """Open a Matrix Market file with the tables next to it.

    Parameters
    ----------
    name
        Name of the input in messages.
    path
        The input as it was given.

    Raises
    ------
    InputError
        A table is missing, is damaged, or does not fit the matrix.
    """
    shown_as = str(matrix) if matrix.is_relative_to(path) else f"{path}: {matrix.name}"
    header = read_header(matrix, shown_as)
    tables = _Tables(matrix, name, header)
    genes, cells, cells_first = tables.choose()
    sizes = header.shape if cells_first else header.shape[::-1]
    entries = header.entries(cells_first=cells_first, sizes=sizes)
    var = gene_frame(*genes)
    _refuse_parts(var, name)
    return Source(
        name=name,
        path=path,
        form="10x-mtx",
        matrices={"X": lambda: entries},
        var=lambda layer: var,
        obs=lambda: cell_frame(*cells),
        keep=genes_only(var, name, log),
    )


def _refuse_parts(var: pd.DataFrame, name: str) -> None:
    """Refuse alevin-fry's matrix of three columns for each gene."""
    ids = list(map(str, var["gene_ids"]))
    some, known = ids[:: len(ids) // 1000 + 1], set(ids)
    parts = sum(gene.endswith(("-U", "-A")) and gene[:-2] in known for gene in some)
    if len(some) > 2 and 2 * parts > len(some):
        raise InputError(
            f"{name}: three columns for each gene, spliced, unspliced (-U) and ambiguous (-A), as "
            "alevin-fry's USA mode writes them; sum them first, in R with "
            "fishpond::loadFry(DIR, outputFormat = 'scRNA') ('snRNA' for nuclei)"
        )


Table = tuple[list[str], list[list[str]]]
"""A header, maybe empty, and the columns below it."""


@dataclass
class _Tables:
    """The tables next to a matrix, of which two are its genes and its cells."""

    matrix: Path
    name: str
    header: MatrixMarket

    def __post_init__(self) -> None:
        stem = plain_name(self.matrix).removesuffix(MATRIX)
        self.found: dict[str, list[tuple[int, int, str, Path]]] = {}
        for path in sorted(self.matrix.parent.iterdir()):
            base = plain_name(path)
            if path.is_file() and _TABLE.fullmatch(base) and not is_matrix(path):
                prefix = _shared_prefix(stem, base)
                rest = base[prefix:].lstrip("._-")
                order = FIRST.index(rest) if rest in FIRST else len(FIRST) + (rest[:1] not in "gfb")
                self.found.setdefault(_role(rest), []).append((-prefix, order, rest, path))
        for candidates in self.found.values():
            candidates.sort()
        self.read: dict[Path, list[list[str]]] = {}
        self.most_names = min(max(self.header.shape), MOST_NAMES) + 10_000

    def choose(self) -> tuple[Table, Table, bool]:
        """Give the genes, the cells, and whether rows are cells."""
        genes = self._of("genes") or self._axis(genes=True)
        if not genes:
            raise InputError(
                f"{self.name}: no {self._word('features.tsv')} or "
                f"{self._word('features.tsv')}.gz; put it beside {self.matrix.name}"
            )
        cells = self._of("cells") or self._axis(genes=False)
        if not cells:
            raise InputError(
                f"{self.name}: no {self._word('barcodes.tsv')} or "
                f"{self._word('barcodes.tsv')}.gz; put it beside {self.matrix.name}"
            )
        shape = self.header.shape
        for gene_path in genes:
            for cell_path in cells:
                for cells_first in (False, True):
                    n_genes, n_cells = shape[::-1] if cells_first else shape
                    gene_table = fit(self._columns(gene_path), n_genes, genes=True)
                    cell_table = fit(self._columns(cell_path), n_cells, genes=False)
                    if (len(gene_table[1][0]), len(cell_table[1][0])) == (n_genes, n_cells):
                        return self._with_symbols(gene_table, gene_path), cell_table, cells_first
        raise self._misfit(genes[0], cells[0])

    def _of(self, role: str) -> list[Path]:
        """Candidates for a role, best first; names that begin as another sample's are none."""
        candidates = self.found.get(role, [])
        own = [path for *_, rest, path in candidates if _OWN.match(rest)]
        return own or [path for *_, path in candidates if len(candidates) == 1]

    def _axis(self, *, genes: bool) -> list[Path]:
        """Tables called rows and columns: the names in them tell which are genes."""
        from cellscribe.cells.readers.gene_axis import share_of_genes

        pair = [path for *_, path in self.found.get("axes", [])]
        pair.sort(key=lambda path: -share_of_genes(self._columns(path)[0]))
        return pair[:1] if genes else pair[1:2]

    def _columns(self, path: Path) -> list[list[str]]:
        if path not in self.read:
            self.read[path] = read_table(path, self._called(path), self.most_names)
        return self.read[path]

    def _called(self, path: Path) -> str:
        return self.header.name.removesuffix(self.matrix.name) + path.name

    def _word(self, kind: str) -> str:
        name = self.matrix.name
        return name[: name.find(f"matrix{MATRIX}")] + kind if f"matrix{MATRIX}" in name else kind

    def _with_symbols(self, table: Table, path: Path) -> Table:
        """Add kallisto|bustools' second table, which has a symbol for each id."""
        base = plain_name(path)
        header, columns = table
        if len(columns) > 1 or not base.endswith("genes.txt"):
            return table
        for _, _, _, other in self.found["genes"]:
            if plain_name(other) == base.removesuffix("txt") + "names.txt":
                symbols = self._columns(other)[0]
                if len(symbols) == len(columns[0]):
                    return header, [columns[0], symbols]
        return table

    def _misfit(self, genes: Path, cells: Path) -> InputError:
        n_rows, n_columns = self.header.shape
        gene_columns, cell_columns = self._columns(genes), self._columns(cells)
        swapped = abs(len(gene_columns[0]) - n_rows) > abs(len(gene_columns[0]) - n_columns)
        n_genes, n_cells = (n_columns, n_rows) if swapped else (n_rows, n_columns)
        faults = [
            size_fault(path.name, columns, size, what)
            for path, columns, size, what in (
                (genes, gene_columns, n_genes, "genes"),
                (cells, cell_columns, n_cells, "cells"),
            )
            if len(columns[0]) != size
        ]
        return InputError(
            f"{self.header.name}: {n_rows:,} x {n_columns:,}, but {' and '.join(faults)}; "
            "use files of one run"
        )


def _shared_prefix(stem: str, base: str) -> int:
    """Length of the prefix that two names share, up to a boundary of words."""
    n = 0
    while n < min(len(stem), len(base)) and stem[n] == base[n]:
        n += 1
    if n == len(stem) and base[n : n + 1] in ("", ".", "_", "-"):
        return n
    while n and base[n - 1] not in "._-":
        n -= 1
    return n


def _role(rest: str) -> str:
    genes, cells = bool(_GENES.search(rest)), bool(_CELLS.search(rest))
    if genes != cells:
        return "genes" if genes else "cells"
    return "axes" if not genes and _ROWS.search(rest) else ""
