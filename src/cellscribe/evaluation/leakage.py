"""Data leakage: whether a model was trained on the cells it is evaluated on.

A model's header lists the datasets of its training cells by name. Models that this program trained
also carry the hashes of those cells (`training.trained_cells`), so a copy of a file under another
name, or with its columns in another order, is recognised. Most published models do not list their
training data: no reason found does not mean that there was no leakage.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from cellscribe.cells.readers.endings import stem
from cellscribe.evaluation.data import CellProvenance
from cellscribe.evaluation.models import Model
from cellscribe.families.registry import ModelHeader
from cellscribe.model.heads import has_head, read_head_header
from cellscribe.training.trained_cells import read_trained_cells

FEW_CELLS, FEW_SHARE = 10, 0.01
"""Up to this many cells, and less than this share, may be equal by chance."""


def seen(model: Model, cells: CellProvenance) -> str:
    """Return why a model may have been trained on the cells of a case; "" without a reason.

    A twin with random weights was trained on nothing.
    """
    if model.random:
        return ""
    reasons = []
    known = sorted(_listed(model.header) & cells.names)
    if known:
        reasons.append(f"trained on {', '.join(known)}")
    trained = read_trained_cells(model.header.directory)
    if trained is not None and cells.hashes is not None and len(cells.hashes):
        n, of = int(_among(cells.hashes, trained).sum()), len(cells.hashes)
        if n > FEW_CELLS or n / of >= FEW_SHARE:
            share = f"{n / of:.0%}" if n / of >= FEW_SHARE else "less than 1%"
            reasons.append(f"{share.replace('%', ' %')} of these cells were in its training")
    return "; ".join(reasons)


def _listed(header: ModelHeader) -> set[str]:
    """Return the names of the datasets that a model was trained or fine-tuned on."""
    names = set()
    for key in ("trained on", "trained before on"):
        listed = header.provenance.get(key, ())
        # one entry per dataset, "NAME (1,000 cells)"; another program may write one sentence
        entries: Iterable[object] = (listed,) if isinstance(listed, str) else listed
        names |= {str(entry).rpartition(" (")[0] or str(entry) for entry in entries}
    if has_head(header.directory):
        sources = read_head_header(header.directory).get("sources", ())
        names |= {stem(source["name"]) for source in sources}
    return names


def _among(
    hashes: npt.NDArray[np.uint64], trained: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """Find which hashes are among the sorted ones of a model, ``[B]``."""
    if not len(trained):
        return np.zeros(len(hashes), dtype=np.bool_)
    places = np.minimum(np.searchsorted(trained, hashes), len(trained) - 1)
    return np.asarray(trained[places] == hashes, dtype=np.bool_)
