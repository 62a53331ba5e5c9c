"""Which side of a table of counts has the genes: the side whose names are known as genes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from cellscribe.cells.gene_names.symbols import Kind, as_text, recognise
from cellscribe.cells.readers.text_files import listed
from cellscribe.errors import InputError

SAMPLE = 1_000
"""Names looked at on each side."""
LEAST = 0.1
"""Share of known genes that the side of the genes has at least."""
LEAST_KNOWN = 3
"""Known genes that it has at least."""
_NO_GENE = re.compile(
    r"[A-P]\d{1,2}|[ACGTN]{8,}.*|\d+|(?:cell|gene|sample|barcode)s?.*", re.IGNORECASE
)
"""Wells, barcodes, numbers and headers, some of which are aliases of genes too."""


def share_of_genes(names: Sequence[str]) -> float:
    """Share of names that are genes, of people or another species with Ensembl ids or symbols.

    Fewer than `LEAST_KNOWN` genes count as none.
    """
    places = np.unique(np.linspace(0, len(names) - 1, min(len(names), SAMPLE)).astype(np.int64))
    some = [as_text(names[place]) for place in places]
    known = sum(map(is_gene, some))
    return known / len(some) if known >= LEAST_KNOWN else 0.0


def is_gene(name: str) -> bool:
    """Tell the name of a gene from other names."""
    return not _NO_GENE.fullmatch(name) and recognise(name)[0] != Kind.NOTHING


def genes_on_lines(name: str, lines: Sequence[Sequence[str]], fields: Sequence[str]) -> bool:
    """Tell whether each line of a table is a gene; otherwise each line is a cell.

    Parameters
    ----------
    name
        Name of the table in messages.
    lines
        Columns of names of the lines, of which the best one decides.
    fields
        Names of the fields of a line.

    Raises
    ------
    InputError
        The names of neither side are known as genes, or those of both.
    """
    down = max((share_of_genes(names) for names in lines), default=0.0)
    across = share_of_genes(fields)
    if max(down, across) >= LEAST and max(down, across) > 2 * min(down, across):
        return down > across
    first = listed(list(lines[0][:3])) if lines else "no names"
    is_both = min(down, across) >= LEAST
    which = "both lines and columns bear" if is_both else "neither lines nor columns bear"
    raise InputError(
        f"{name}: {which} names of genes (lines: {first}; columns: "
        f"{listed(list(fields[:3]), 3)}); name genes by Ensembl ids or symbols, and cells otherwise"
    )
