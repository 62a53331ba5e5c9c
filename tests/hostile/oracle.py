"""Damaged cells as other readers see them: what a result that is not the clean one's must equal.

Flipped bits in counts that nothing protects are other counts, and then other vectors are right. The
independent reader is anndata, h5py with scipy, or scipy and pandas; what it cannot read, it does
not judge.
"""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp


def read(path: Path, kind: str) -> ad.AnnData | None:
    """The cells, or None where this reader cannot read them either."""
    reader = next((READERS[key] for key in READERS if kind.startswith(key)), None)
    if reader is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return reader(path)
        # a reader that breaks has no opinion, whatever it breaks with
        except Exception:  # noqa: BLE001
            return None


def _elements(group: Any) -> ad.AnnData:
    """X, obs and var alone: damage elsewhere is none of our business."""
    x, obs, var = (ad.io.read_elem(group[key]) for key in ("X", "obs", "var"))
    return ad.AnnData(x, obs=obs, var=var)


def _h5ad(path: Path) -> ad.AnnData:
    import h5py

    with h5py.File(path, "r") as file:
        return _elements(file)


def _h5mu(path: Path) -> ad.AnnData:
    import h5py

    with h5py.File(path, "r") as file:
        return _elements(file["mod/rna"])


def _whole_h5ad(path: Path) -> ad.AnnData:
    return ad.read_h5ad(path)


def _zarr(path: Path) -> ad.AnnData:
    import zarr

    return _elements(zarr.open_group(str(path), mode="r"))


def _text(values: Any) -> list[str]:
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]


def _csr(group: Any, shape: Any) -> sp.csr_matrix:
    parts = [np.asarray(group[key][()]) for key in ("data", "indices", "indptr")]
    if any(part.dtype.kind not in "iu" for part in parts[1:]):
        raise ValueError("indices that are no integers")
    x = sp.csr_matrix(tuple(parts), shape=tuple(int(n) for n in shape))
    x.check_format(full_check=True)
    return x


def _tenx_v3(path: Path) -> ad.AnnData:
    import h5py

    with h5py.File(path, "r") as file:
        group = file["matrix"]
        x = _csr(group, group["shape"][()][::-1])
        ids, names, kinds = (
            _text(group["features"][key][()]) for key in ("id", "name", "feature_type")
        )
        cells = _text(group["barcodes"][()])
    var = pd.DataFrame({"gene_ids": ids}, index=names)
    made = ad.AnnData(x, obs=pd.DataFrame(index=cells), var=var)
    genes = np.array(kinds) == "Gene Expression"
    # words that are all damaged say nothing; then the names tell that these are genes
    return made[:, genes].copy() if genes.any() else made


def _tenx_v2(path: Path) -> ad.AnnData:
    import h5py

    with h5py.File(path, "r") as file:
        (group,) = file.values()
        x = _csr(group, group["shape"][()][::-1])
        var = pd.DataFrame(
            {"gene_ids": _text(group["genes"][()])}, index=_text(group["gene_names"][()])
        )
        return ad.AnnData(x, obs=pd.DataFrame(index=_text(group["barcodes"][()])), var=var)


def _loom(path: Path) -> ad.AnnData:
    import h5py

    with h5py.File(path, "r") as file:
        names, ids = (_text(file["row_attrs"][key][()]) for key in ("Gene", "Accession"))
        cells = _text(file["col_attrs/CellID"][()])
        x = np.asarray(file["matrix"][()]).T
    var = pd.DataFrame({"Accession": ids}, index=names)
    return ad.AnnData(sp.csr_matrix(x), obs=pd.DataFrame(index=cells), var=var)


def _mtx(path: Path) -> ad.AnnData:
    if path.is_dir():
        parts = {each.name.removesuffix(".gz"): _content(each) for each in path.iterdir()}
    else:
        with tarfile.open(path) as archive:
            members = [m for m in archive if m.isfile()]
            parts = {}
            for member in members:
                name, data = Path(member.name).name, archive.extractfile(member)
                assert data is not None
                parts[name.removesuffix(".gz")] = gzip.decompress(data.read())
    x = scipy.io.mmread(io.BytesIO(parts["matrix.mtx"]))
    table = parts["features.tsv"] if "features.tsv" in parts else parts["genes.tsv"]
    # a quoted line is one field, to csv and to pandas
    lines = list(csv.reader(table.decode().splitlines(), delimiter="\t"))
    names = [(w[1:2] or w)[0] for w in lines]
    var = pd.DataFrame({"gene_ids": [w[0] for w in lines]}, index=names)
    cells = parts["barcodes.tsv"].decode().splitlines()
    made = ad.AnnData(sp.csr_matrix(x.T), obs=pd.DataFrame(index=cells), var=var)
    genes = np.array([len(w) < 3 or w[2] == "Gene Expression" for w in lines])
    return made[:, genes].copy()


def _csv(path: Path) -> ad.AnnData:
    made = pd.read_csv(path, index_col=0)
    return _from_frame(made)


def _csv_turned(path: Path) -> ad.AnnData:
    return _from_frame(pd.read_csv(path, index_col=0, sep="\t").T)


def _parquet(path: Path) -> ad.AnnData:
    return _from_frame(pd.read_parquet(path))


def _from_frame(made: pd.DataFrame) -> ad.AnnData:
    x = made.to_numpy(dtype=np.float64, na_value=0.0)
    obs, var = (pd.DataFrame(index=axis.astype(str)) for axis in (made.index, made.columns))
    return ad.AnnData(sp.csr_matrix(x), obs=obs, var=var)


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


READERS: dict[str, Callable[[Path], ad.AnnData]] = {
    "h5ad_06": _whole_h5ad,
    "h5ad": _h5ad,
    "h5mu": _h5mu,
    "zarr": _zarr,
    "tenx_v3": _tenx_v3,
    "tenx_v2": _tenx_v2,
    "loom": _loom,
    "mtx": _mtx,
    "csv_turned": _csv_turned,
    "csv": _csv,
    "parquet_table": _parquet,
}


def same_counts(adata: ad.AnnData, x: np.ndarray) -> bool:
    """Whether a matrix holds exactly the counts of these cells."""
    other = adata.X
    dense = other.toarray() if sp.issparse(other) else np.asarray(other)
    return dense.shape == x.shape and bool(np.array_equal(dense.astype(np.float64), x))
