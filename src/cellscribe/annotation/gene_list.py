"""Lists of genes with labels: a CSV or TSV with columns gene and label."""

from __future__ import annotations

import csv
from pathlib import Path

from cellscribe.errors import InputError


def read_gene_list(path: Path) -> dict[int, str]:
    """Read a CSV or TSV with columns gene and label.

    Returns
    -------
    dict
        Place in `corpus.genes.all_genes` -> label; genes that this table lacks are left out.

    Raises
    ------
    InputError
        There is no such file, it has not these columns, a label is missing, there is one class, or
        a gene has two labels.
    """
    import pandas as pd

    from cellscribe.cells.gene_names.genes import map_genes
    from cellscribe.corpus.build.gene_space import all_genes

    names, labels = _read_table(path)
    if "" in labels:
        raise InputError(f"{path}: row {labels.index('') + 2} has no label; fill or remove it")
    if len(set(labels)) < 2:
        raise InputError(f"{path}: one class ({', '.join(set(labels))}); a probe needs two or more")
    var = pd.DataFrame(index=pd.Index(names, dtype=object))
    try:
        mapped = map_genes(var, all_genes(), name=str(path))
    except InputError:
        found = ", ".join(names[:3])
        raise InputError(
            f"{path}: few of its genes are known ({found}); give Ensembl ids or symbols of human "
            "genes"
        ) from None
    label_of: dict[int, str] = {}
    for name, gene, label in zip(names, mapped.token.tolist(), labels, strict=True):
        if gene >= 0 and label_of.setdefault(gene, label) != label:
            raise InputError(
                f"{path}: {name} has two labels, {label_of[gene]} and {label}; keep one"
            )
    return label_of


def _read_table(path: Path) -> tuple[list[str], list[str]]:
    """Columns gene and label of a CSV or TSV."""
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; --gene-list takes a CSV or TSV of genes and labels"
        )
    want = f"{path}: not a table with a header and columns gene and label, comma or tab between"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(want) from None
    lines = text.splitlines()
    tabs = bool(lines) and "\t" in lines[0]
    header, *rows = list(csv.reader(lines, delimiter="\t" if tabs else ",")) or [[]]
    header = [name.strip().lower() for name in header]
    if not {"gene", "label"} <= set(header):
        raise InputError(f"{want}; it has {', '.join(header[:6]) or 'nothing'}")
    for number, row in enumerate(rows, start=2):
        if row and len(row) != len(header):
            raise InputError(f"{path}: row {number} has {len(row)} fields, not {len(header)}")
    columns = [
        [row[header.index(name)].strip() for row in rows if row] for name in ("gene", "label")
    ]
    return columns[0], columns[1]
