"""The nearest cells of an index for every cell of a source, and what they say, as one table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.callbacks import Log
from cellscribe.config.annotate import Align
from cellscribe.index.query import Querying, nobody, vectors_of
from cellscribe.index.store import CELL_ID, SOURCE
from cellscribe.index.vectors import Opened


def find_hits(querying: Querying, opened: Opened, align: Align, log: Log) -> pd.DataFrame:
    """Find the nearest cells of every cell of an opened source, and what they say.

    Parameters
    ----------
    querying
        The index.
    opened
        The source.
    align
        How its vectors are brought to those of the index.
    log
        Called with each line that a user should read.

    Returns
    -------
    pandas.DataFrame
        A row a cell. For each column of labels ``NAME``, ``NAME_probability``, ``NAME_best``,
        ``NAME_second``, ``NAME_distance`` (1 where 95 % of the index's held-out cells lie nearer)
        and, where labels are known to the Cell Ontology, ``NAME_ontology_id``;
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
    calls = {name: nobody(n_cells) for name in querying.voters}
    with vectors_of(opened) as kept:
        filled, meeting = kept.filled, querying.meet(kept, align, log)
        for near in querying.blocks(kept, meeting):
            distance[near.rows], places[near.rows] = near.distance, near.places
            for name, voter in querying.voters.items():
                calls[name].put(near.rows, voter.call(near, meeting.alignment.spread))
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
