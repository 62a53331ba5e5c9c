"""Genes that a map is coloured by: found by their names, read from the counts, log-normalised."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix

from cellscribe.cells.gene_names.symbols import resolve
from cellscribe.cells.log_norm import log_norm
from cellscribe.errors import InputError
from cellscribe.explorer.columns import scale_of
from cellscribe.explorer.packing import Packing

SHOWN = 3
"""Names that a message suggests."""
FULL = 65_535
UNIT = "log(1 + counts per 10,000)"


def find_genes(var: pd.DataFrame, wanted: Sequence[str], source: str) -> list[int]:
    """Find the columns of genes, by a name of the file or as what the name means.

    Parameters
    ----------
    var
        Table of the genes.
    wanted
        Names or Ensembl ids.
    source
        Name of the cells in messages.

    Returns
    -------
    list of int
        Places in `var`; the first where a name stands twice.

    Raises
    ------
    InputError
        The file has no such gene.
    """
    texts: list[Any] = [var.index.astype(str)]
    texts += [
        var[column].astype(str)
        for column in var
        if var[column].dtype == object
        or isinstance(var[column].dtype, pd.CategoricalDtype | pd.StringDtype)
    ]
    found = []
    for name in wanted:
        place = next((at for each in texts if (at := _place(each, name)) is not None), None)
        if place is None:
            place = _by_meaning(texts, name)
        if place is None:
            near = _near(name, [text for each in texts for text in dict.fromkeys(each)])
            raise InputError(f"{source} has no gene {name!r} (--gene){near}")
        found.append(place)
    return found


def _place(texts: Any, name: str) -> int | None:
    at = np.flatnonzero(np.asarray(texts) == name)
    return int(at[0]) if len(at) else None


def _by_meaning(texts: Sequence[Any], name: str) -> int | None:
    """Place of a gene that the file names otherwise: by symbol or id, in another spelling."""
    wanted = resolve([name])[0]
    if not wanted:
        return None
    for each in texts:
        meanings = np.asarray(resolve(each), dtype=object)
        if (place := _place(meanings, wanted)) is not None:
            return place
    return None


def _near(name: str, names: Sequence[str]) -> str:
    folded = {each.upper(): each for each in names}
    near = [folded[each] for each in difflib.get_close_matches(name.upper(), folded, n=SHOWN)]
    return f"; near it: {', '.join(near)}" if near else "; give a name of var, or an Ensembl id"


def pack_genes(
    counts: csr_matrix, places: Sequence[int], names: Sequence[str], packing: Packing
) -> list[dict[str, Any]]:
    """Pack genes: log-normalised, in steps of 1/65,535 of the largest value.

    Parameters
    ----------
    counts
        ``[n, G]`` raw counts.
    places
        Columns of the genes.
    names
        Their names on the page.
    packing
        Takes the numbers.
    """
    values = log_norm(counts)[:, list(places)].tocsc()
    return [
        _pack(values[:, [at]].toarray().ravel(), name, packing) for at, name in enumerate(names)
    ]


def _pack(values: npt.NDArray[np.float64], name: str, packing: Packing) -> dict[str, Any]:
    scale = scale_of(values)
    expressed = values[values > 0]
    scale["from"] = 0.0
    scale["to"] = float(np.quantile(expressed, 0.99)) if len(expressed) else 1.0
    step = (scale["high"] or 1.0) / FULL
    return {
        "name": name,
        "kind": "numbers",
        "gene": True,
        "unit": UNIT,
        "step": step,
        **scale,
        "data": packing.add(np.rint(values / step).astype(np.uint16)),
    }
