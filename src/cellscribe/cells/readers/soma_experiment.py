"""A SOMA experiment in a local folder, read by blocks of cells as other containers are.

Its measurement with the genes is the one called RNA or the like, or ``--modality``; its layers of X
are layers here, of which "raw", or the only one, is X. tiledbsoma is optional, and imported when a
folder of TileDB is met. What lies in a cloud is downloaded with ``cellscribe corpus census --uri``.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from cellscribe.cells.readers.anndata_files import Source
from cellscribe.cells.readers.frames import tidy
from cellscribe.cells.readers.multimodal import Wanted, choose_measurement
from cellscribe.cells.readers.storage import DAMAGED, Array, reading
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SIGNS = ("__group", "__tiledb_group.tdb")
"""Members of a folder that is a group of TileDB."""
ID = "soma_joinid"
NAMES = {"obs": ("obs_id", "cell_id"), "var": ("var_id", "feature_id")}
"""Columns that name the rows of a frame, the first one that is there."""
CONFIG: dict[str, str | float] = {
    "soma.init_buffer_bytes": 1 << 26,
    "sm.enable_signal_handlers": "false",
}
"""Settings of TileDB: 64 MiB of buffer a column, Ctrl-C left to Python."""
SAMPLE_CELLS = 64


def is_experiment(path: Path) -> bool:
    """Whether a folder is a group of TileDB."""
    return any((path / name).exists() for name in SIGNS)


@dataclass(kw_only=True)
class SomaRows:
    """A sparse matrix of a SOMA measurement.

    Attributes
    ----------
    array
        The SOMA object.
    cells, genes
        Ascending ids of its rows and columns.
    where
        Name in messages.
    """

    array: Any
    cells: Array
    genes: Array
    where: str
    shape: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = (len(self.cells), len(self.genes))

    def read(self, first: int, last: int) -> csr_matrix:
        """Read rows `first` to `last` (exclusive) as canonical CSR."""
        ids = self.cells[first:last]
        if not len(ids):
            return csr_matrix((0, self.shape[1]), dtype=np.float32)
        solid = ids[-1] - ids[0] + 1 == len(ids)
        with reading(self.where):
            found = self.array.read((slice(int(ids[0]), int(ids[-1])) if solid else ids,))
            parts = [
                tuple(part[name].to_numpy() for name in ("soma_dim_0", "soma_dim_1", "soma_data"))
                for part in found.tables()
            ]
        rows, columns, values = (np.concatenate(each) for each in zip(*parts, strict=True))
        places = _places(ids, rows, self.where), _places(self.genes, columns, self.where)
        block = coo_matrix((values, places), (len(ids), self.shape[1])).tocsr()
        block.sum_duplicates()
        return block

    def sample(self) -> Array:
        """Read the values of the first cells."""
        return self.read(0, min(SAMPLE_CELLS, self.shape[0])).data


def _places(ids: Array, wanted: Array, where: str) -> Array:
    found = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    if not np.array_equal(ids[found], wanted):
        raise InputError(f"{where} has entries for ids that obs or var does not list; {DAMAGED}")
    return found.astype(np.int32)


def open_experiment(path: Path, stack: ExitStack, wanted: Wanted) -> Source:
    """Open an experiment.

    Raises
    ------
    InputError
        tiledbsoma is not installed; the folder is damaged or no experiment; the measurement is
        open to choice.
    """
    try:
        import tiledbsoma as soma
    except ModuleNotFoundError as error:
        raise InputError(
            f'{path}: a SOMA experiment needs tiledbsoma: pip install "cellscribe[census]"'
        ) from error
    name = str(path)
    with reading(name):
        context = soma.SOMATileDBContext(tiledb_config=CONFIG)
        top: Any = soma.open(name, context=context)
        stack.enter_context(top)
        if top.soma_type != "SOMAExperiment":
            raise InputError(
                f"{path} is a {top.soma_type}; give an experiment in it (of a Census a folder in "
                "census_data), or take its cells with cellscribe corpus census"
            )
        key = choose_measurement(sorted(top["ms"]), name, wanted.modality)
        measured = top["ms"][key]
        layers = {each: measured["X"][each] for each in sorted(measured["X"])}
        sparse = {k: x for k, x in layers.items() if x.soma_type == "SOMASparseNDArray"}
        cells, genes = (_ids(frame) for frame in (top.obs, measured["var"]))
    if not sparse:
        raise InputError(f"{path}: {key} has no sparse layer of X; write the counts as sparse")
    plain = "raw" if "raw" in sparse else next(iter(sparse)) if len(sparse) == 1 else None
    addresses = {"X": plain} if plain is not None else {}
    addresses |= {f"layers/{each}": each for each in sparse}

    def opener(layer: str) -> Any:
        where = f"{name}: {layer}"
        array = sparse[addresses[layer]]
        return lambda: SomaRows(array=array, cells=cells, genes=genes, where=where)

    return Source(
        name=name,
        path=path,
        form="soma",
        matrices={layer: opener(layer) for layer in addresses},
        var=lambda layer: _frame(measured["var"], "var", name),
        obs=lambda: _frame(top.obs, "obs", name),
        obs_rows=lambda first, last: _frame(top.obs, "obs", name, cells[first:last]),
        part=f"ms/{key}/",
    )


def _ids(frame: Any) -> Array:
    found = frame.read(column_names=[ID]).concat()[ID].to_numpy()
    return np.sort(found)


def _frame(frame: Any, kind: str, name: str, ids: Array | None = None) -> pd.DataFrame:
    """Read obs or var, or the rows of some ascending ids, in the order of the ids."""
    some = () if ids is None or not len(ids) else (slice(int(ids[0]), int(ids[-1])),)
    with reading(f"{name}: {kind}"):
        table: pd.DataFrame = frame.read(some).concat().to_pandas().sort_values(ID)
    names = next((key for key in NAMES[kind] if key in table), ID)
    return tidy(table.set_index(names).rename_axis(None).drop(columns=ID, errors="ignore"))
