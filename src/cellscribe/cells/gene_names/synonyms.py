"""Further names of a gene table: how a published family reads the gene names of a file.

A family with a rule of its own has ``gene_ids.tsv`` (``name  ensembl_id``) in the folder of
``genes.tsv``: retired ids and other names, in capitals, each with the id of the table that it is
read as. The id is empty for a name that is no gene. An id of the table that no line lists means
itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cellscribe.config.files import read_text
from cellscribe.errors import InputError

FILE = "gene_ids.tsv"
COLUMNS = ("name", "ensembl_id")


def synonyms_to_text(synonyms: Mapping[str, int], ids: Sequence[str]) -> str:
    """Render ``gene_ids.tsv``, sorted by name."""
    rows = [
        f"{name}\t{ids[token] if token >= 0 else ''}" for name, token in sorted(synonyms.items())
    ]
    return "\n".join(["\t".join(COLUMNS), *rows]) + "\n"


def read_synonyms(path: Path, ids: Sequence[str]) -> dict[str, int] | None:
    """Read ``gene_ids.tsv``; None where there is none.

    Parameters
    ----------
    path
        The file.
    ids
        Those of the gene table, in token order.

    Raises
    ------
    InputError
        The file has other columns, a name twice, or an id that the gene table lacks.
    """
    if not path.is_symlink() and not path.exists():
        return None
    lines = read_text(path, fix="copy the whole model folder").splitlines()
    if not lines or tuple(lines[0].split("\t")) != COLUMNS:
        raise InputError(f"{path}: the first line must be {' '.join(COLUMNS)}, tab-separated")
    token_of = {name: token for token, name in enumerate(ids)}
    found: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        name, tab, gene = line.partition("\t")
        token = token_of.get(gene, -1)
        if not name or not tab or name in found or (gene and token < 0):
            raise InputError(
                f"{path}, line {number}: expected a new name, a tab and an id of genes.tsv; gene "
                "table and names belong to different models, or the file is damaged"
            )
        found[name] = token
    return found
