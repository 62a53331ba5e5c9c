"""How far to trust annotate without labelled cells: the bundled index, and what it never saw.

Three questions: how often a cell of a study or donor that was left out gets its label back; what
the cells of a type are called that was left out of the index; and what cells are called of tissues
that are not in it. Each time the index is built anew from the rest, with all that it learns.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import cellscribe
from benchmarks.record import write_result
from cellscribe.config import IndexOptions, QueryOptions
from cellscribe.index.ontology import ancestors, match_labels
from cellscribe.index.store import CELL_ID, Index, bundled_index, open_index
from cellscribe.model.heads import UNKNOWN

if TYPE_CHECKING:
    from anndata import AnnData

LABEL, GROUP, REP = "cell_type", "donor", "X_cellscribe"
FEWEST = 10
"""Cells of a type that is left out."""
ASKED = 200
"""Cells of each file of another tissue."""
FOREIGN = {
    "hek293t_hgmm1k_human": "HEK293T, a kidney cell line",
    "celllines_scmixology_sc_dropseq": "lung cancer cell lines, Drop-seq",
    "celllines_scmixology_sc_celseq2": "lung cancer cell lines, CEL-seq2",
    "lung_hlca_query_delorey": "lung, of which blood cells are a part",
    "malt_10x_streak": "MALT lymphoma: B and T cells of a tumour",
    "pbmc4k_soupx": "blood, 10x v2",
    "pbmc_frozen_donorA_10x": "blood, frozen, 10x v1",
    "pbmc1k_v3_10x": "blood, 10x v3",
}
"""File -> what it holds."""


SHARES = {
    "unknown": "unknown",
    "exact": "right",
    "broader": "right, broader kind",
    "narrower": "narrower than its label",
    "wrong": "wrong",
}
"""Outcome -> its column."""


def cells_of(index: Index) -> AnnData:
    """Give the cells of an index as an AnnData with vectors and their provenance."""
    from anndata import AnnData

    header = index.header
    made = header["model"]
    about = {
        "model_hash": made["hash"],
        "vocabulary_hash": made["vocabulary_hash"],
        "pooling": made["pooling"],
        "context": made["context"],
    }
    names = [*header["labels"], *header["obs"], GROUP]
    places = np.arange(index.n_cells)
    obs = pd.DataFrame(
        {name: index.take(name, places) for name in names},
        index=[f"{n} {cell}" for n, cell in enumerate(index.take(CELL_ID, places))],
    )
    return AnnData(obs=obs, obsm={REP: index.rows(places)}, uns={"cellscribe": {REP: about}})


def ask(cells: AnnData, known: npt.NDArray[np.bool_], asked: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """Build an index of some cells, and ask it for others."""
    options = IndexOptions(label=(LABEL,), group=GROUP, use_rep=REP, search="exact")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rest.index"
        cellscribe.build_index(cells[known].copy(), path, options, log=_silent)
        return cellscribe.search(cells[asked].copy(), path, QueryOptions(use_rep=REP), log=_silent)


def _silent(_: str) -> None:
    pass


def outcomes(found: pd.DataFrame, terms: list[str]) -> dict[str, Any]:
    """Count what cells of known terms are called.

    Returns
    -------
    dict
        Shares: ``unknown``, ``exact``, ``broader`` (a kind that the cell is of), ``narrower``
        (a kind of its label, which nobody can judge), ``wrong``; and ``called``, the name that
        most of the wrong ones get.
    """
    given = found[f"{LABEL}_ontology_id"].tolist()
    pairs = list(zip(given, terms, strict=True))
    kinds = [_outcome(one, term) for one, term in pairs]
    shares: dict[str, Any] = {name: kinds.count(name) / len(kinds) for name in SHARES}
    names = found[LABEL].astype(str)
    wrong = Counter(name for name, kind in zip(names, kinds, strict=True) if kind == "wrong")
    return shares | {"cells": len(kinds), "called": wrong.most_common(1)[0][0] if wrong else "–"}


def _outcome(given: str, truth: str) -> str:
    if not given:
        return "unknown"
    if given == truth:
        return "exact"
    if given in ancestors(truth):
        return "broader"
    return "narrower" if truth in ancestors(given) else "wrong"


def by_type(cells: AnnData) -> dict[str, dict[str, Any]]:
    """Leave out each type of enough cells, with all below it."""
    terms = match_labels(cells.obs[LABEL].unique())
    each = cells.obs[LABEL].map(terms).to_numpy(object)
    found = {}
    for name, n in cells.obs[LABEL].value_counts().items():
        if n < FEWEST:
            continue
        gone = np.array([terms[str(name)] in ancestors(term) for term in each])
        asked = cells.obs[LABEL].to_numpy() == name
        found[str(name)] = outcomes(ask(cells, ~gone, asked), [terms[str(name)]] * int(n))
    return found


def by_group(cells: AnnData) -> dict[str, dict[str, Any]]:
    """Leave out each donor or study; types that no other has are not asked for."""
    terms = match_labels(cells.obs[LABEL].unique())
    found = {}
    for name in sorted(cells.obs[GROUP].unique()):
        away = cells.obs[GROUP].to_numpy() == name
        there = cells.obs[LABEL][~away].value_counts()
        seen = away & cells.obs[LABEL].isin(there[there >= FEWEST].index).to_numpy()
        found[str(name)] = outcomes(
            ask(cells, ~away, seen), [terms[label] for label in cells.obs[LABEL][seen]]
        )
    return found


def by_file(data: Path, index: Path) -> dict[str, dict[str, Any]]:
    """Annotate cells of files that are not in the index."""
    import anndata

    found = {}
    for name, what in FOREIGN.items():
        adata = anndata.read_h5ad(data / f"{name}.h5ad")
        rows = np.random.default_rng(0).permutation(adata.n_obs)[:ASKED]
        asked: AnnData = adata[np.sort(rows)].copy()
        cellscribe.annotate(asked, index=index, log=_silent)
        counts = asked.obs["cellscribe_label"].astype(str).value_counts(normalize=True)
        unknown = float(counts.pop(UNKNOWN)) if UNKNOWN in counts else 0.0
        top = [f"{label} {share:.0%}" for label, share in counts.head(3).items()]
        found[what] = {"cells": len(rows), "unknown": unknown, "called": ", ".join(top) or "–"}
    return found


def percent(share: float) -> str:
    return f"{share:.0%}"


def bench_bundled_index(data: Path, out: Path) -> list[Path]:
    """Measure and write the three tables; returns their paths."""
    index = bundled_index(cellscribe.load("mini").header.directory)
    assert index is not None
    cells = cells_of(open_index(index))
    called = "most often called"
    parts: dict[str, tuple[dict[str, dict[str, Any]], dict[str, str]]] = {
        "annotate-groups": (by_group(cells), {"": "left out", **SHARES}),
        "annotate-types": (
            by_type(cells),
            {"": "type left out", **{key: SHARES[key] for key in ("unknown", "broader", "wrong")}},
        ),
        "annotate-tissues": (by_file(data, index), {"": "cells of", "unknown": SHARES["unknown"]}),
    }
    paths = []
    for name, (found, columns) in parts.items():
        first, *kept = columns.values()
        keys = list(columns)[1:]
        rows = [
            [what, f"{row['cells']:,}", *(percent(row[key]) for key in keys), row["called"]]
            for what, row in found.items()
        ]
        if "wrong" in keys:
            mean = [float(np.mean([row[key] for row in found.values()])) for key in keys]
            rows.append(["**mean**", "", *map(percent, mean), ""])
        table = {"columns": [first, "cells", *kept, called], "rows": rows}
        figures = {"found": found, "table": table}
        paths.append(write_result(out, name, name, {"index": index.name}, figures))
    return paths
