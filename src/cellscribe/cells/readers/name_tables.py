"""Tables of names next to a matrix: features.tsv, genes.tsv, barcodes.tsv and what others call so.

They come with tabs or commas, quoted or not, with a header or without, from R with its row numbers,
and in any encoding. A header is known by its words, or because the matrix has one name less.
"""

from __future__ import annotations

import codecs
import csv
import re
from contextlib import closing
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from cellscribe.cells.gene_names.symbols import Kind, recognise
from cellscribe.cells.readers.frames import names, tidy
from cellscribe.cells.readers.text_files import (
    TEXT_ERRORS,
    line_blocks,
    open_text,
    shown,
    unreadable,
)
from cellscribe.errors import InputError

LARGEST = 1 << 30
"""Bytes of text that a table of names may have."""
LONGEST = 1 << 20
"""Bytes that one of its lines may have."""
_HEADER = re.compile(
    r"x|v\d+|name|names|index|id|ids|unnamed: 0|(?:.*[_. ]|)(?:barcodes?|cells?|genes?|features?|"
    r"symbols?|ensembl|ensg|gene_?ids?|gene_?names?|cell_?ids?|cell_?names?|bc_wells|feature_types?)"
    r"(?:[_. ].*|)",
    re.IGNORECASE,
)
GENE_COLUMNS = ("gene_ids", "name", "feature_types")
"""Columns of a table of genes without a header, as 10x writes it."""


def decoded(data: bytes) -> str:
    """Decode text of an unknown encoding: UTF-8 or UTF-16 by its mark, else Latin-1."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_table(path: Path, name: str, most_lines: int) -> list[list[str]]:
    """Read a table as its columns; empty lines are left out.

    Parameters
    ----------
    most_lines
        Lines that it may have; names are held in memory.

    Raises
    ------
    InputError
        It cannot be read, is empty or too large, or has unclosed quotes.
    """
    parts, size, n_lines = [], 0, 0
    try:
        with open_text(path) as file, closing(line_blocks(file, name, LONGEST)) as blocks:
            for block in blocks:
                parts.append(block)
                size, n_lines = size + len(block), n_lines + block.count(b"\n")
                if size > LARGEST or n_lines > most_lines:
                    raise InputError(
                        f"{name} holds more names than the matrix has ({n_lines:,} and more); "
                        "use files of one run"
                    )
    except TEXT_ERRORS as error:
        raise unreadable(name, error) from error
    text = decoded(b"".join(parts)).replace("\r\n", "\n").replace("\r", "\n")
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    while lines and lines[0].startswith("##"):
        del lines[0]
    if not lines:
        raise InputError(f"{name} is empty; copy it again, or write the names into it")
    delimiter = _delimiter(lines[:20])
    if delimiter is None:
        return [[line.strip().strip('"') for line in lines]]
    try:
        rows = (
            list(csv.reader(lines, delimiter=delimiter))
            if '"' in text
            else [line.split(delimiter) for line in lines]
        )
    except csv.Error as error:
        raise InputError(f"{name} cannot be read ({error}); write it without quotes") from error
    return _without_row_numbers(_columns(rows))


def _delimiter(lines: list[str]) -> str | None:
    """Find what divides the fields; None for one field a line."""
    for delimiter in "\t,;":
        if all(delimiter in line for line in lines):
            return delimiter
    # R's write.table divides by blanks and puts names in quotes
    if all(line.count('" "') or line.startswith('"') for line in lines) and any(
        '" "' in line for line in lines
    ):
        return " "
    return "\t" if any("\t" in line for line in lines) else None


def _columns(rows: list[list[str]]) -> list[list[str]]:
    """Turn rows into columns of equal length; what is missing is empty."""
    if len(rows) > 1 and len(rows[0]) == len(rows[1]) - 1:
        # R writes no name above the names of the rows
        rows[0] = ["", *rows[0]]
    return [list(column) for column in zip_longest(*rows, fillvalue="")]


def _without_row_numbers(columns: list[list[str]]) -> list[list[str]]:
    """Drop the row numbers of R or pandas."""
    for first in (0, 1):
        numbers = columns[0][first:]
        if len(columns) > 1 and numbers and numbers[0] in ("0", "1"):
            start = int(numbers[0])
            if all(number == str(at) for at, number in enumerate(numbers, start)):
                return columns[1:]
    return columns


def fit(columns: list[list[str]], size: int, *, genes: bool) -> tuple[list[str], list[list[str]]]:
    """Split a header off the names, if there is one.

    Parameters
    ----------
    size
        Names that the matrix needs; a table of another size is given back whole.

    Returns
    -------
    The header, empty if there is none, and the columns below it.
    """
    first = [column[0].strip() for column in columns]
    if len(columns[0]) != size + 1 or (genes and any(_is_gene(field) for field in first)):
        return [], columns
    if genes or any(_HEADER.fullmatch(field) for field in first if field):
        return first, [column[1:] for column in columns]
    return [], columns


def _is_gene(field: str) -> bool:
    return bool(field) and recognise(field)[0] in (Kind.SYMBOL, Kind.ENSEMBL, Kind.OTHER_SPECIES)


def gene_frame(header: list[str], columns: list[list[str]]) -> pd.DataFrame:
    """Make the gene table of a source: named by symbols if there are some, else by ids.

    Returns
    -------
    DataFrame with ``gene_ids``, the third column as ``feature_types`` where no header says
    otherwise, and the other columns of a header.
    """
    keys = _gene_columns(header) if header else GENE_COLUMNS
    frame = pd.DataFrame(dict(zip(keys, columns, strict=False)), dtype=object)
    frame.index = names(frame["name" if "name" in frame else "gene_ids"])
    return tidy(frame.drop(columns="name", errors="ignore"))


def _gene_columns(header: list[str]) -> list[str]:
    """Give the columns of a table with a header the names that 10x's have."""
    found: dict[str, int] = {}
    for at, column in enumerate(header):
        folded = re.sub(r"[^a-z]", "", column.lower())
        if folded in ("featuretypes", "featuretype"):
            found.setdefault("feature_types", at)
        elif re.search(r"symbol|genename|^names?$|^genes?$|^featurename", folded):
            found.setdefault("name", at)
        elif re.search(r"ens|ids?$|accession", folded):
            found.setdefault("gene_ids", at)
    if "gene_ids" not in found:
        others = [at for at in range(len(header)) if at not in found.values()]
        found["gene_ids"] = found.pop("name") if "name" in found else (others or [0])[0]
    kinds = {at: kind for kind, at in found.items()}
    # another column of such a name, or one without, is called by its place
    return [
        kinds.get(at) or (f"column_{at}" if column in ("", *GENE_COLUMNS) else column)
        for at, column in enumerate(header)
    ]


def cell_frame(header: list[str], columns: list[list[str]]) -> pd.DataFrame:
    """Make the cell table of a source: the first column has the names."""
    others = {
        key or f"column_{at}": column
        for at, (key, column) in enumerate(zip(header[1:], columns[1:], strict=False), 1)
    }
    return pd.DataFrame(others, index=names(columns[0]))


def size_fault(name: str, columns: list[list[str]], size: int, what: str) -> str:
    """Say how a table does not fit a matrix."""
    n_named = len(columns[0])
    line = f"{n_named:,} {what} are named in {name}, not {size:,}"
    if n_named == size + 1:
        first = shown(" ".join(column[0] for column in columns), 40)
        line += f" (is its first line, {first!r}, a header? delete it then)"
    return line
