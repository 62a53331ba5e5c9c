"""The nearest cells of an index for every cell of a source, and what they say, as one table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.callbacks import Progress
from cellscribe.index.query import Querying, need_cells, nobody
from cellscribe.index.store import CELL_ID, SOURCE
from cellscribe.index.vectors import Opened


def find_hits(
    querying: Querying, opened: Opened, *, progress: Progress | None = None
) -> pd.DataFrame:
    """Find the nearest cells of every cell of an opened source, and what they say.

    Returns
    -------
    pandas.DataFrame
        A row a cell. For each column of labels ``NAME``, ``NAME_probability``, ``NAME_best``,
        ``NAME_second``, ``NAME_distance`` (above 1 outside of what the index knows) and, where
        labels are known to the Cell Ontology, ``NAME_ontology_id``;
        ``distance``, the mean of the neighbours'; and lists, nearest first: ``neighbor_id``,
        ``neighbor_source``, ``neighbor_distance`` and ``neighbor_NAME`` for labels and columns of
        obs. Empty lists for a cell without a count on a known gene.

    Raises
    ------
    InputError
        No cell has a count on a gene that the model knows; damage.
    """
    n_cells, k = len(opened.obs), querying.n_neighbors
    distance, places = np.full((n_cells, k), np.inf), np.zeros((n_cells, k), np.int64)
    filled = np.zeros(n_cells, bool)
    calls = {name: nobody(n_cells) for name in querying.voters}
    for near in querying.blocks(opened):
        rows = near.rows
        distance[rows], places[rows], filled[rows] = near.distance, near.places, True
        for name, voter in querying.voters.items():
            calls[name].put(rows, voter.call(near))
        if progress is not None:
            progress(int(rows[-1]) + 1, n_cells)
    need_cells(int(filled.sum()), opened)
    table: dict[str, Any] = {}
    for name, voter in querying.voters.items():
        for key, values in voter.table(calls[name]).items():
            table[name if key == "label" else f"{name}_{key}"] = values
    table["distance"] = np.where(filled, distance.mean(axis=1), np.nan)
    index = querying.index
    columns = [CELL_ID, SOURCE, *index.header["labels"], *index.header["obs"]]
    for name in columns:
        key = "id" if name == CELL_ID else name
        table[f"neighbor_{key}"] = _lists(index.take(name, places), filled)
    table["neighbor_distance"] = _lists(distance, filled)
    return pd.DataFrame(table, index=pd.Index(opened.obs.index.astype(str), name=CELL_ID))


def _lists(values: Any, filled: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_]:
    found = np.empty(len(values), object)
    for row in range(len(values)):
        found[row] = values[row] if filled[row] else values[row][:0]
    return found
