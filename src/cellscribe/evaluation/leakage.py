"""Whether a model may know its exam: datasets and cells that it says it was trained on.

A model's header lists the datasets of its training cells by name. Models that this program trained
carry the hashes of those cells too (`training.trained_cells`), so that a copy under another name,
with columns in another order, is found out. What a published model saw it mostly does not say: an
empty answer is no acquittal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellscribe.corpus.build.gene_space import all_genes
from cellscribe.corpus.build.packing import gene_hashes, to_space
from cellscribe.errors import InputError
from cellscribe.evaluation.data import Cells, stem
from cellscribe.evaluation.models import Model
from cellscribe.families.registry import ModelHeader
from cellscribe.model.heads import HEADER
from cellscribe.training.trained_cells import read_trained_cells

DATASET_COLUMNS = ("dataset_id", "source_dataset")
"""Columns of obs that name where cells come from."""
FEW_CELLS, FEW_SHARE = 10, 0.01
"""Up to so many cells, if they are less than this share, may be alike by chance."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Origin:
    """Where the cells of a problem come from."""

    names: frozenset[str]
    """Names of their datasets: the file's stem and what its obs says."""
    hashes: npt.NDArray[np.uint64] | None = None
    """``[B]`` hashes of the cells that show a gene, see `corpus.packed`."""


def origin_of(cells: Cells) -> Origin:
    """Names and hashes of the cells of a file.

    A file whose genes are not known human ones (a family goes by names of its own) has no hashes: a
    corpus could not have been built of it.
    """
    names = {cells.name}
    for name in DATASET_COLUMNS:
        if name in cells.obs:
            names |= set(cells.obs[name].dropna().astype(str).unique())
    try:
        hashes = cell_hashes(cells)
    except InputError:  # what a build refuses it with
        hashes = None
    return Origin(names=frozenset(names), hashes=hashes)


def cell_hashes(cells: Cells) -> npt.NDArray[np.uint64]:
    """Hashes of cells, the very ones that a corpus built from the file gives them.

    A corpus whose ``--vocabulary`` has genes beyond the table of human genes counts these too, and
    gives other hashes to cells that show them; cells without a known gene have none.

    Raises
    ------
    InputError
        See `cells.genes.map_genes`.
    """
    from cellscribe.cells.genes import map_genes

    genes = all_genes()
    mapped = map_genes(cells.var, genes, gene_key=cells.gene_key, name=cells.name)
    rows = to_space(cells.counts, mapped.token, gene_hashes(genes.ids))
    return rows.cell_hash[rows.n_genes > 0]


def seen(model: Model, origin: Origin) -> str:
    """Why a model may have seen the cells of a problem; "" if nothing says so.

    A twin of random weights has seen nothing.
    """
    if model.random:
        return ""
    reasons = []
    known = sorted(_listed(model.header) & origin.names)
    if known:
        reasons.append(f"trained on {', '.join(known)}")
    trained = read_trained_cells(model.header.directory)
    if trained is not None and origin.hashes is not None and len(origin.hashes):
        n, of = int(_among(origin.hashes, trained).sum()), len(origin.hashes)
        if n > FEW_CELLS or n / of >= FEW_SHARE:
            share = f"{n / of:.0%}" if n / of >= FEW_SHARE else "less than 1%"
            reasons.append(f"{share.replace('%', ' %')} of these cells were in its training")
    return "; ".join(reasons)


def _listed(header: ModelHeader) -> set[str]:
    """Names of the datasets that a model was trained or fine-tuned on."""
    names = set()
    for key in ("trained on", "trained before on"):
        told = header.provenance.get(key, ())
        # one entry a dataset, "NAME (1,000 cells)"; another program may say it in a sentence
        entries: Iterable[object] = (told,) if isinstance(told, str) else told
        names |= {str(entry).rpartition(" (")[0] or str(entry) for entry in entries}
    head = header.directory / HEADER
    if head.is_file():
        sources = json.loads(head.read_text(encoding="utf-8")).get("sources", ())
        names |= {stem(Path(source["name"])) for source in sources}
    return names


def _among(
    hashes: npt.NDArray[np.uint64], trained: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """``[B]`` whether each hash is among sorted ones."""
    if not len(trained):
        return np.zeros(len(hashes), dtype=np.bool_)
    places = np.minimum(np.searchsorted(trained, hashes), len(trained) - 1)
    return np.asarray(trained[places] == hashes, dtype=np.bool_)
