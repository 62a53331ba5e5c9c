"""Tables of counts as text: CSV, TSV and their like, compressed or not, read by blocks of lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from cellscribe.callbacks import Log
from cellscribe.cells.readers import number_text
from cellscribe.cells.readers.anndata_files import Source
from cellscribe.cells.readers.gene_axis import share_of_genes
from cellscribe.cells.readers.storage import DAMAGED
from cellscribe.cells.readers.table_source import Piece, Table, table_source
from cellscribe.cells.readers.text_files import (
    TEXT_ERRORS,
    line_blocks,
    open_text,
    plain_name,
    shown,
    unreadable,
)
from cellscribe.cells.readers.text_layout import (
    LONGEST,
    MISSING,
    Layout,
    find_layout,
    first_lines,
    unquoted,
)
from cellscribe.errors import InputError

SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".dge", ".counts")
"""Endings of tables; others are read if they look like one."""
_COMMAS = re.compile(r"[+-]?\d+(?:,\d+)+")


def is_text(path: Path) -> bool:
    """Tell a table of counts from other files by its first lines.

    Raises
    ------
    InputError
        It is named as a table and is none, and what is wrong is known.
    """
    try:
        with open_text(path) as file:
            head = file.read(1 << 16)
    except TEXT_ERRORS as error:
        if plain_name(path).endswith(SUFFIXES):
            raise unreadable(str(path), error) from error
        return False
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: text in UTF-16; save it as UTF-8")
    if not head or re.search(rb"[\x00-\x08\x0e-\x1f]", head):
        return False
    if plain_name(path).endswith(SUFFIXES):
        return True
    try:
        layout = find_layout(first_lines(path, str(path)), str(path))
    except InputError:
        return False
    return share_of_genes(layout.header) > 0 or share_of_genes(layout.first_names) > 0


def open_table(file: Path, *, name: str, path: Path, log: Log) -> Source:
    """Open a text table of counts.

    Parameters
    ----------
    name
        Name of the input in messages.
    path
        The input as it was given, maybe an archive that holds `file`.

    Raises
    ------
    InputError
        It is no table of counts, or its genes are not known.
    """
    layout = find_layout(first_lines(file, name), name)
    if layout.left_out:
        log(f"{name}: columns left out, which hold no counts: {', '.join(layout.left_out)}")
    table = Table(
        name=name,
        path=path,
        form="text-table",
        fields=layout.fields,
        labels=layout.labels,
        pieces=lambda: _pieces(file, name, layout),
    )
    return table_source(table, log)


def _pieces(path: Path, name: str, layout: Layout) -> Iterator[Piece]:
    try:
        file = open_text(path)
    except OSError as error:
        raise unreadable(name, error) from error
    line, skip = 0, layout.n_skipped
    with file, closing(line_blocks(file, name, LONGEST)) as blocks:
        for whole in blocks:
            block = whole
            while skip and block:
                found = re.search(rb"\r\n|\n|\r", block)
                block = block[found.end() :] if found else b""
                skip, line = skip - 1, line + 1
            if block:
                piece = _parse(block, name, layout, line)
                line += piece.n_lines
                yield piece


def _parse(block: bytes, name: str, layout: Layout, line: int) -> Piece:
    text, delimiter = np.frombuffer(block, np.uint8), ord(layout.delimiter)
    room, n_lines = number_text.count_filled(text, delimiter), number_text.count_lines(text)
    lines, columns = np.empty(room, np.int32), np.empty(room, np.int32)
    values, odd = np.empty(room), np.empty((room, 4), np.int64)
    places = np.empty((n_lines, len(layout.labels), 2), np.int64)
    end, n, n_odd, n_lines, n_fields = number_text.parse_table(
        text, delimiter, layout.place, lines, columns, values, places, odd
    )
    if end != number_text.WHOLE:
        more = "more" if n_fields > len(layout.place) else f"{n_fields:,}"
        raise InputError(
            f"{name}: line {line + n_lines + 1:,} has {more} fields, the lines above it "
            f"{len(layout.place):,}; {DAMAGED}"
        )
    names = [
        [unquoted(block[start:stop]) for start, stop in places[:n_lines, at]]
        for at in range(len(layout.labels))
    ]
    for place, start, stop, field in odd[:n_odd]:
        value = number_text.read_odd(block[start:stop])
        if value is None:
            at = int(lines[place])
            row = shown(names[0][at], 30) if names else ""
            raise _no_number(name, layout, block[start:stop], line + at + 1, row, int(field))
        values[place] = value
    return Piece(
        n_lines=n_lines, lines=lines[:n], columns=columns[:n], values=values[:n], names=names
    )


def _no_number(name: str, layout: Layout, field: bytes, line: int, row: str, at: int) -> InputError:
    found = unquoted(field)
    where = f"line {line:,} ({row}), column {shown(layout.header[at], 30)!r}"
    if found.strip() in MISSING:
        what = f"{found.strip()!r}: the value is missing; write 0 if it means no counts"
    elif _COMMAS.fullmatch(found.strip()):
        what = (
            f"{shown(found)!r} has a comma in it; write numbers with a decimal point and no other"
        )
    else:
        what = f"{shown(found)!r} is no number; give a table of counts"
    return InputError(f"{name}: {where}: {what}")
