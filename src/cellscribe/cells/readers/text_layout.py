"""How a text table is laid out: what divides its fields, its header, its columns of names.

Told by the first lines. Tables come from pandas (an unnamed first column), from R (a header that is
one field shorter than the lines, names in quotes), with lines of comments above, and with columns
of annotation next to the counts.
"""

from __future__ import annotations

import csv
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellscribe.cells.readers.gene_axis import is_gene
from cellscribe.cells.readers.name_tables import decoded
from cellscribe.cells.readers.storage import Array
from cellscribe.cells.readers.text_files import (
    TEXT_ERRORS,
    line_blocks,
    open_text,
    shown,
    unreadable,
)
from cellscribe.errors import InputError

LONGEST = 64 << 20
"""Bytes that a line of a table may have."""
LOOKED_AT = 50
"""Lines looked at."""
ENOUGH = 10
"""Numbers in a header that can be told from counts."""
DELIMITERS = "\t,; |"
MISSING = ("", "NA", "NaN", "nan", "N/A", "null", "None")
_LIKE_NUMBER = re.compile(r"\s*[+-]?[\d.,\s]*\d[\d.,\s]*(?:[eE][+-]?\d+)?\s*")
NOT_COUNTS = re.compile(
    # of genes: featureCounts and biomaRt
    r"(?:(?:gene|exon|transcript|eff(?:ective)?|merged)?[._ ]?length|start|end|width|strand|"
    r"chr|chrom|chromosome|(?:entrez|ncbi)[._ ]?(?:gene)?[._ ]?(?:id)?|n_?cells(?:_by_counts)?|"
    # of cells: Seurat, scanpy and clinical tables; some are older names of genes too
    r"ncount(?:_\w+)?|nfeature(?:_\w+)?|n_?(?:counts?|genes?|umis?)|n_genes_by_counts|"
    r"(?:log1p_)?total_counts(?:_\w+)?|log1p_\w+|total_umis?|\w*res\.[\d.]+|"
    r"(?:percent|pct)[._](?:counts[._])?(?:mt|mito\w*|ribo)|size_?factors?|\w*clusters?|"
    r"leiden|louvain|(?:s|g2m|phase|doublet)[._]?scores?|umap_?\d|tsne_?\d|pc_?\d+|"
    r"in_tissue|array_(?:row|col)|(?:center_)?[xy]|cpm|tpm|fpkm|rpkm|"
    r"sex|gender|age|rin|ph|pmi|bmi|type|mt|batch|lib|library|donor|day|time|std)",
    re.IGNORECASE,
)
"""Names of columns of numbers that are no counts of a gene or a cell."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of a text table.

    Attributes
    ----------
    header
        Name of every field of a line.
    place
        For `number_text.parse_table`: what becomes of each field.
    fields, labels
        Names of the columns of numbers, and of those of names.
    left_out
        Names of the columns, for a log line, that hold numbers which are no counts.
    first_names
        First field of the lines that were looked at.
    n_skipped
        Lines up to the end of the header.
    """

    delimiter: str
    header: list[str]
    place: Array
    fields: list[str]
    labels: list[str]
    left_out: list[str]
    first_names: list[str]
    n_skipped: int


def unquoted(field: bytes) -> str:
    """Give a field as text, without its quotes."""
    text = decoded(field).strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def first_lines(path: Path, name: str) -> list[bytes]:
    """Read the first lines of a text file.

    Raises
    ------
    InputError
        It cannot be read, or a line is too long.
    """
    lines: list[bytes] = []
    size = 0
    try:
        with open_text(path) as file, closing(line_blocks(file, name, LONGEST)) as blocks:
            for block in blocks:
                lines += re.split(rb"\r\n|\n|\r", block.rstrip(b"\r\n"))
                size += len(block)
                if len(lines) > LOOKED_AT or size > LONGEST:
                    break
    except TEXT_ERRORS as error:
        raise unreadable(name, error) from error
    return lines[:LOOKED_AT]


def find_layout(lines: list[bytes], name: str) -> Layout:
    """Find the layout of a table by its first lines.

    Raises
    ------
    InputError
        There is none; the message says why.
    """
    n_comments = _n_comments(lines)
    kept = [line for line in lines[n_comments:] if line.strip()]
    if len(kept) < 2:
        raise InputError(f"{name}: no line below the header; give a table of counts")
    first_kept = lines.index(kept[0])
    best: tuple[tuple[int, int], str] | None = None
    for delimiter in DELIMITERS:
        head, width, *others = [_n_fields(line, delimiter) for line in kept]
        alike = sum(other == width for other in others)
        if width > 1 and head in (width, width - 1) and (best is None or (alike, width) > best[0]):
            best = (alike, width), delimiter
    if best is None:
        raise InputError(
            f"{name}: no table; the first lines are not divided into as many fields by tabs, "
            f"commas, semicolons or blanks ({shown(kept[0], 40)!r})"
        )
    (_, width), delimiter = best
    # a line of another length is refused when the table is read
    alike_lines = [line for line in kept[1:] if _n_fields(line, delimiter) == width]
    rows = [_fields(line, delimiter) for line in [kept[0], *alike_lines]]
    return _layout(rows, delimiter, first_kept + 1, name)


def _n_comments(lines: list[bytes]) -> int:
    """Count the lines above the header: "##", or "#" of another shape; GCT's and Excel's first."""
    if lines and lines[0].startswith((b"#1.2", b"#1.3")):
        return 2
    n = 1 if lines and re.fullmatch(rb"(?:\xef\xbb\xbf)?sep=.", lines[0]) else 0
    while n < len(lines) - 1:
        line, following = lines[n].lstrip(b'"'), lines[n + 1]
        shape = [line.count(mark) for mark in (b"\t", b",", b";")]
        after = [following.count(mark) for mark in (b"\t", b",", b";")]
        is_comment = line.startswith(b"##") or (line.startswith(b"#") and shape != after)
        if not is_comment and line.strip():
            break
        n += 1
    return n


def _fields(line: bytes, delimiter: str) -> list[str]:
    text = decoded(line)
    if '"' not in text:
        return text.split(delimiter)
    try:
        return next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error:
        return []


def _n_fields(line: bytes, delimiter: str) -> int:
    if b'"' in line:
        return len(_fields(line, delimiter))
    return line.count(delimiter.encode()) + 1


def _layout(rows: list[list[str]], delimiter: str, n_skipped: int, name: str) -> Layout:
    header, data = [field.strip() for field in rows[0]], rows[1:]
    width = len(data[0])
    tail = all(not row[-1].strip() for row in data)
    if len(header) == width - 1:
        # a delimiter at the end of each line, or R's header without a name for the first column
        header = [*header, ""] if tail else ["", *header]
    _refuse_no_header(header, data, name)
    place = np.zeros(width, np.int64)
    fields: list[str] = []
    labels: list[str] = []
    left_out: list[str] = []
    for at in range(width):
        values = [row[at] for row in data]
        if at == width - 1 and tail and not header[at]:
            place[at] = -1
        elif _holds_names(at, header, values):
            place[at] = -2 - len(labels)
            labels.append(header[at])
        elif NOT_COUNTS.fullmatch(header[at]):
            place[at] = -1
            left_out.append(shown(header[at], 30))
        else:
            place[at] = len(fields)
            fields.append(header[at])
    return Layout(
        delimiter=delimiter,
        header=header,
        place=place,
        fields=fields,
        labels=labels,
        left_out=left_out,
        first_names=[row[0] for row in data],
        n_skipped=n_skipped,
    )


def _refuse_no_header(header: list[str], data: list[list[str]], name: str) -> None:
    numbers = [field for field in header[1:] if _LIKE_NUMBER.fullmatch(field)]
    if not header[1:] or len(numbers) < len(header) - 1:
        return
    start = numbers[0]
    if start in ("0", "1") and numbers == [str(int(start) + at) for at in range(len(numbers))]:
        return
    # cells may be named by numbers, of which none stands twice
    if len(numbers) >= ENOUGH and len(set(numbers)) == len(numbers):
        return
    raise InputError(
        f"{name}: the first line holds numbers ({shown(', '.join(numbers[:3]))}); "
        "write a header of names above it"
    )


def _holds_names(at: int, header: list[str], values: list[str]) -> bool:
    """Tell a column of names; the first column is one, unless it is headed by a gene."""
    if at and any(value.isdigit() for value in values):
        return False
    like_numbers = [
        bool(_LIKE_NUMBER.fullmatch(value)) for value in values if value.strip() not in MISSING
    ]
    if at == 0:
        return not all(like_numbers) or not is_gene(header[0])
    return bool(like_numbers) and not any(like_numbers)
