"""Files as people have them, cut down: the oddity of each field case on twenty cells of our own.

`test_field_cases.py` runs the cases themselves where they lie next to the checkout.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from support import formats
from support.command import Cli, refused
from support.tiny import N_GENES, real_genes, some_counts

import cellscribe
from cellscribe.cells.counts import open_counts

DENSE = some_counts(20)
IDS, SYMBOLS = real_genes(N_GENES)
CELLS = [f"cell{i}" for i in range(20)]
FLAT: dict[str, Any] = {"device": "cpu", "precision": "float32", "threads": 1}
HEAD = "%%MatrixMarket matrix coordinate integer general\n"


@pytest.fixture(scope="module")
def clean(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    path = h5ad(tmp_path_factory.mktemp("clean"), IDS)
    return vectors(path, tiny_model)


def vectors(path: Path, model: Path) -> np.ndarray:
    found = cellscribe.embed(path, model=model, log=lambda line: None, **FLAT)
    assert isinstance(found, np.ndarray)
    return found


def h5ad(folder: Path, names: list[str], x: Any = None, **more: Any) -> Path:
    var = pd.DataFrame(more.pop("var", {}), index=names)
    matrix = sp.csr_matrix(DENSE if x is None else x)
    made = ad.AnnData(matrix, obs=pd.DataFrame(index=CELLS), var=var, **more)
    made.write_h5ad(folder / "in.h5ad")
    return folder / "in.h5ad"


def lines(sep: str = " ", value: Callable[[int], str] = str, tail: str = "") -> str:
    x = sp.coo_matrix(DENSE.T)
    order = np.lexsort((x.row, x.col))
    size = f"{N_GENES}{sep}20{sep}{x.nnz}\n"
    return size + "".join(
        f"{x.row[k] + 1}{sep}{x.col[k] + 1}{sep}{value(x.data[k])}{tail}\n" for k in order
    )


def features(line: str = "{id}\t{name}\tGene Expression") -> str:
    return "".join(
        line.format(id=i, name=name) + "\n" for i, name in zip(IDS, SYMBOLS, strict=True)
    )


def folder(at: Path, **files: str) -> Path:
    at = at / "folder"
    at.mkdir()
    told = {
        "matrix.mtx": HEAD + lines(),
        "features.tsv": features(),
        "barcodes.tsv": "\n".join(CELLS) + "\n",
    }
    for name, text in (told | {key.replace("_", "."): text for key, text in files.items()}).items():
        (at / name).write_text(text)
    return at


def raw_tar(at: Path) -> Path:
    made = folder(at)
    with tarfile.open(at / "GSE1_RAW.tar", "w") as archive:
        for path in sorted(made.iterdir()):
            data = gzip.compress(path.read_bytes())
            member = tarfile.TarInfo(f"GSM1_one_{path.name}.gz")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return at / "GSE1_RAW.tar"


def loom(at: Path) -> Path:
    made = formats.loom(DENSE, at, real_genes)
    with h5py.File(made, "r+") as file:
        pairs = np.zeros(20, [("a", "f4"), ("b", "f4")])
        file["col_attrs/RegulonsAUC"] = pairs
    return made


def antibodies(at: Path) -> Path:
    """Antibodies named like genes, with larger counts, in the words of the NeurIPS sets."""
    names = [*SYMBOLS, *(f"{name}-1" for name in SYMBOLS[:20])]  # as anndata makes them unique
    kinds = ["GEX"] * N_GENES + ["ADT"] * 20
    x = np.concatenate([DENSE, np.full((20, 20), 500)], axis=1)
    var = pd.DataFrame({"feature_types": kinds}, index=names)
    made = ad.AnnData(sp.csr_matrix(x), obs=pd.DataFrame(index=CELLS), var=var)
    made.write_h5ad(at / "in.h5ad")
    return at / "in.h5ad"


def other_estimate(at: Path) -> Path:
    """The file that is named, next to a matrix.mtx of other counts."""
    made = folder(at, matrix_mtx=HEAD + f"{N_GENES} 20 1\n1 1 9\n")
    (made / "UniqueAndMult-Uniform.mtx").write_text(HEAD + lines())
    return made / "UniqueAndMult-Uniform.mtx"


SAME: dict[str, Callable[[Path], Path]] = {
    "ENSG_SYMBOL": lambda at: h5ad(at, [f"{i}_{n}" for i, n in zip(IDS, SYMBOLS, strict=True)]),
    "SYMBOL|ENSG": lambda at: h5ad(at, [f"{n}|{i}" for i, n in zip(IDS, SYMBOLS, strict=True)]),
    "ENSG.version": lambda at: h5ad(at, [f"{i}.7" for i in IDS]),
    "genome before": lambda at: h5ad(at, [f"GRCh38_premrna_{n}" for n in SYMBOLS]),
    "dots for dashes": lambda at: h5ad(at, [n.replace("-", ".") for n in SYMBOLS]),
    "types missing": lambda at: h5ad(
        at, IDS, var={"feature_types": ["Gene Expression"] * 100 + [np.nan] * 100}
    ),
    "quoted": lambda at: folder(at, features_tsv=features('"{id}"\t"{name}"\t"Gene Expression"')),
    "tabs": lambda at: folder(at, matrix_mtx=HEAD + lines("\t")),
    "word float": lambda at: folder(at, matrix_mtx=HEAD.replace("integer", "float") + lines()),
    "header lines": lambda at: folder(at, barcodes_tsv="x\n" + "\n".join(CELLS) + "\n"),
    "raw tar": raw_tar,
    "loom with pairs": loom,
    "antibodies": antibodies,
    "another estimate": other_estimate,
}


@pytest.mark.parametrize("name", SAME)
def test_the_vectors_are_those_of_the_clean_file(
    name: str, clean: np.ndarray, tiny_model: Path, tmp_path: Path
) -> None:
    np.testing.assert_array_equal(vectors(SAME[name](tmp_path), tiny_model), clean)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "three values": (
        lambda at: folder(at, matrix_mtx=HEAD.replace("integer", "real") + lines(tail=" 0 0")),
        "spliced",
    ),
    "a few fractions": (
        lambda at: h5ad(at, IDS, x=np.where(DENSE.max() == DENSE, DENSE - 0.25, DENSE)),
        "--counts fractional",
    ),
    "placeholder": (
        lambda at: h5ad(at, IDS, x=DENSE * 0, layers={"counts": sp.csr_matrix(DENSE)}),
        "--layer counts",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_line_says_the_way_on(name: str, embed: Cli, tmp_path: Path) -> None:
    make, words = REFUSED[name]
    assert words in refused(embed(make(tmp_path)))


def test_genes_in_obs_are_seen(embed: Cli, tmp_path: Path) -> None:
    turned = ad.AnnData(
        sp.csr_matrix(DENSE.T), obs=pd.DataFrame(index=IDS), var=pd.DataFrame(index=CELLS)
    )
    turned.write_h5ad(tmp_path / "in.h5ad")
    assert "ranspose" in refused(embed(tmp_path / "in.h5ad"))


def test_labels_of_old_files_are_names(tmp_path: Path) -> None:
    path = formats.old_h5ad(DENSE, tmp_path, real_genes)
    with h5py.File(path, "r+") as file:
        old = file["obs"][()]
        del file["obs"]
        new = np.zeros(20, [("index", "S16"), ("cell_type", "i1")])
        new["index"], new["cell_type"] = old["index"], np.arange(20) % 2
        file["obs"] = new
        file["uns/cell_type_categories"] = np.array(["B cells", "T cells"], h5py.string_dtype())
    with open_counts(path) as opened:
        assert set(opened.obs["cell_type"].astype(str)) == {"B cells", "T cells"}
