"""Genes that a user names, looked up in a model's gene table."""

from __future__ import annotations

from collections.abc import Sequence

from cellscribe.cells.gene_names.genes import resolve
from cellscribe.errors import InputError
from cellscribe.families.registry import ModelHeader

NEAR = 5
"""Names that are suggested in place of one that is not known."""


def find_genes(header: ModelHeader, names: Sequence[str]) -> list[int]:
    """Tokens of genes that are named by Ensembl id, symbol or an older symbol, each once.

    Raises
    ------
    InputError
        The model knows no such gene; the line names one that is spelled nearly so.
    """
    table = header.table
    spelled = {symbol: token for token, symbol in reversed(list(enumerate(table.symbols)))}
    spelled |= table.token_of
    real = [name for name in spelled if name and name[0] not in "[<"]
    found = []
    for name in names:
        wanted = name.strip()
        token = spelled.get(wanted) if wanted and wanted[0] not in "[<" else None
        if token is None:
            token = table.token_of.get(resolve([wanted])[0] or wanted)
        if token is None or table.ids[token][0] in "[<":
            raise InputError(f"{header.name} knows no gene {name!r}{_near(wanted, real)}")
        found.append(int(token))
    return list(dict.fromkeys(found))


def _near(name: str, names: Sequence[str]) -> str:
    """Names that are spelled nearly so, as the end of a line."""
    from difflib import get_close_matches

    folded = {each.upper(): each for each in names}
    wanted = name.upper()
    # CD3 is the complex of CD3D, CD3E and CD3G: these are meant more often than CHD3 or CD33
    number = wanted[-1:].isdigit()
    near = sorted(
        (each for each in folded if wanted and each.startswith(wanted)),
        key=lambda each: (number and each[len(wanted) :][:1].isdigit(), len(each), each),
    )
    near += [each for each in get_close_matches(wanted, folded, n=NEAR) if each not in near]
    near = [folded[each] for each in near[:NEAR]]
    return f"; near it: {', '.join(near)}" if near else "; give an Ensembl id or a symbol"
