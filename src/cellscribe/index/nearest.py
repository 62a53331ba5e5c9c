"""The nearest cells of an index: exactly by all products, or by a library and then exactly.

Vectors are centred, scaled (`Space`) and compared by cosine. Below `EXACT_CELLS` all products are
computed, in blocks. From there on faiss names candidates from codes of one bit a dimension
(inverted lists and RaBitQ, Gao and Long 2024, arXiv:2405.12497), and their stored vectors, read
from the disk, say which are nearest.

Letters: ``B`` queries, ``D`` width, ``K`` neighbours, ``M`` candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.errors import InputError
from cellscribe.index.store import AGAIN, Index, Space, StoredFile, verify

EXACT_CELLS = 100_000
"""Cells from which on a library searches unless told otherwise; see docs/reference-index.md."""
CACHED_BYTES = 1 << 30
"""Standardised vectors of an index are kept in memory up to this size."""
ROWS, QUERIES = 32_768, 1_024
"""Cells and queries of one block of products."""
RANKED = 256
"""Queries whose candidates are sorted at once: their vectors fit the processor's cache."""
PROBED, CANDIDATES = 16, 100
"""Inverted lists that a query looks at, of as many as the square root of the cells; candidates."""
LEAST_FROM, LEARNT_FROM = 39, 64
"""Cells per list that faiss wants, and that the lists are learnt from."""

Floats = npt.NDArray[np.floating]
Places = npt.NDArray[np.int64]
Groups = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Group of each query, and of each cell of the index."""


def unit(vectors: Floats, space: Space) -> npt.NDArray[np.float32]:
    """Bring vectors to where products are cosines, ``[B, D]``."""
    found = np.array(vectors, np.float32)
    if space["kind"] != "cosine":
        found -= np.array(space["mean"], np.float32)
        found /= np.array(space["scale"], np.float32)
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    norms[norms == 0] = 1.0
    found /= norms
    return found


class Exact:
    """Search by all products.

    Parameters
    ----------
    index
        An index.
    space
        In place of the index's own.
    """

    def __init__(self, index: Index, space: Space | None = None) -> None:
        self.index, self.space = index, space or index.header["space"]
        self._cached: npt.NDArray[np.float32] | None = None
        if index.n_cells * index.width * 4 <= CACHED_BYTES:
            self._cached = np.concatenate([unit(part, self.space) for part in index.vectors])

    def _blocks(self) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        if self._cached is None:
            for first, block in self.index.blocks(ROWS):
                yield first, unit(block, self.space)
            return
        for first in range(0, len(self._cached), ROWS):
            yield first, self._cached[first : first + ROWS]

    def nearest(
        self,
        vectors: Floats,
        n_neighbors: int,
        *,
        groups: Groups | None = None,
    ) -> tuple[Floats, Places]:
        """Find the nearest cells, nearest first.

        Parameters
        ----------
        vectors
            ``[B, D]`` as the model makes them.
        n_neighbors
            ``K``.
        groups
            Group of each query ``[B]`` and of each cell of the index; a cell of the query's own
            group is no neighbour.

        Returns
        -------
        distance
            ``[B, K]`` one minus the cosine; infinite where there are fewer cells.
        places
            ``[B, K]`` rows of the index.
        """
        parts = [
            nearest_in(
                unit(vectors[start : start + QUERIES], self.space),
                self._blocks(),
                n_neighbors,
                groups and (groups[0][start : start + QUERIES], groups[1]),
            )
            for start in range(0, len(vectors), QUERIES)
        ]
        return np.concatenate([d for d, _ in parts]), np.concatenate([p for _, p in parts])


def nearest_in(
    queries: npt.NDArray[np.float32],
    blocks: Iterable[tuple[int, npt.NDArray[np.float32]]],
    k: int,
    groups: Groups | None = None,
) -> tuple[Floats, Places]:
    """Find the nearest among blocks of vectors of length one, see `Exact.nearest`."""
    import torch

    rows = torch.from_numpy(queries)
    best = torch.full((len(queries), k), -math.inf)
    place = torch.zeros((len(queries), k), dtype=torch.int64)
    for first, block in blocks:
        cosine = rows @ torch.from_numpy(block).T
        if groups is not None:
            own = groups[0][:, None] == groups[1][None, first : first + len(block)]
            cosine[torch.from_numpy(own)] = -math.inf
        value, where = cosine.topk(min(k, len(block)))
        best, order = torch.cat([best, value], 1).topk(k)
        place = torch.cat([place, where + first], 1).gather(1, order)
    return np.maximum(1.0 - best.numpy().astype(np.float64), 0.0), place.numpy()


class Approximate:
    """Search by a faiss index, its candidates sorted by their stored vectors."""

    def __init__(self, index: Index) -> None:
        stored = index.header["search"]
        assert stored is not None
        # a damaged file would end the process from within the library
        verify(index, [stored])
        self.index, self.space = index, index.header["space"]
        faiss = import_faiss()
        path = index.folder / stored["file"]
        try:
            self._search = faiss.read_index(str(path))
        except RuntimeError as error:
            raise InputError(f"{path}: damaged ({str(error)[:100]}); {AGAIN}") from None
        if self._search.d != index.width or self._search.ntotal != index.n_cells:
            raise InputError(f"{path}: not the search index of these cells; {AGAIN}")
        self._search.nprobe = PROBED

    def nearest(self, vectors: Floats, n_neighbors: int) -> tuple[Floats, Places]:
        """Find near cells, see `Exact.nearest`; recall is in docs/reference-index.md."""
        queries = unit(vectors, self.space)
        distances, places = [], []
        for start in range(0, len(queries), RANKED):
            part = queries[start : start + RANKED]
            _, found = self._search.search(part, max(CANDIDATES, 4 * n_neighbors))
            near = unit(self.index.rows(np.maximum(found, 0).ravel()), self.space)
            near = near.reshape(*found.shape, -1)
            distance = np.maximum(1.0 - np.matmul(near, part[:, :, None])[:, :, 0], 0.0)
            distance[found < 0] = np.inf
            order = np.argsort(distance, axis=1, kind="stable")[:, :n_neighbors]
            distances.append(np.take_along_axis(distance, order, 1).astype(np.float64))
            places.append(np.take_along_axis(found, order, 1))
        return np.concatenate(distances), np.concatenate(places)


Search = Exact | Approximate


def open_search(index: Index) -> Search:
    """Open the search that an index was built for."""
    return Exact(index) if index.header["search"] is None else Approximate(index)


def import_faiss() -> Any:
    """Import faiss.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise InputError(
            'a large index is searched with faiss: pip install "cellscribe[index]", or build it '
            "with --search exact"
        ) from None
    return faiss


def write_search(
    index: Index, path: Path, former: StoredFile | None = None, n_known: int = 0
) -> None:
    """Write the codes of all cells, in lists that are learnt from some of them.

    Parameters
    ----------
    index
        Its parts; the space is settled.
    path
        The file.
    former, n_known
        An earlier file and the cells in it, whose lists are kept and which is added to.
    """
    faiss = import_faiss()
    space, n_cells = index.header["space"], index.n_cells
    if former is not None:
        verify(index, [former])
        made = faiss.read_index(str(index.folder / former["file"]))
    else:
        lists = max(1, min(int(math.sqrt(n_cells)), n_cells // LEAST_FROM))
        made = faiss.index_factory(index.width, f"IVF{lists},RaBitQ", faiss.METRIC_INNER_PRODUCT)
        drawn = np.random.default_rng(0).choice(
            n_cells, min(n_cells, LEARNT_FROM * lists), replace=False
        )
        made.train(unit(index.rows(np.sort(drawn)), space))
    for first, block in index.blocks(ROWS):
        if first + len(block) > n_known:
            made.add(unit(block[max(0, n_known - first) :], space))
    faiss.write_index(made, str(path))
