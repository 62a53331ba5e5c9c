"""Parts joined: the same rows as the parts hold, in their order."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cellscribe.atlas.collect import Part, collect_parts
from cellscribe.errors import InputError

WIDTH = 5


def part(folder: Path, name: str, n: int, seed: int, **columns: object) -> tuple[Part, np.ndarray]:
    vectors = np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)
    table = pa.table(
        {
            "cell_id": [f"{name}{i}" for i in range(n)],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH),
            "tissue": pa.array([f"t{seed}"] * n).dictionary_encode(),
            **columns,
        }
    )
    pq.write_table(table, folder / f"{name}.parquet", row_group_size=3)
    return Part(name=name, path=folder / f"{name}.parquet", n_cells=n), vectors


@pytest.fixture
def parts(tmp_path: Path) -> tuple[list[Part], np.ndarray, pd.DataFrame]:
    made = [part(tmp_path, name, n, seed) for seed, (name, n) in enumerate([("b", 7), ("a", 4)])]
    cells = pd.DataFrame(
        {
            "source": ["b"] * 7 + ["a"] * 4,
            "cell_id": [f"b{i}" for i in range(7)] + [f"a{i}" for i in range(4)],
            "tissue": ["t0"] * 7 + ["t1"] * 4,
        }
    )
    return [p for p, _ in made], np.concatenate([v for _, v in made]), cells


@pytest.mark.parametrize("form", [".parquet", ".npy", ".zarr"])
def test_all_forms_hold_the_rows_of_the_parts(tmp_path: Path, parts, form: str) -> None:
    found, vectors, cells = parts
    out = tmp_path / f"all{form}"
    seen = []
    done = collect_parts(
        found,
        out,
        width=WIDTH,
        dtype="float32",
        key_added="X_x",
        progress=lambda *a: seen.append(a),
    )
    assert done == 11
    assert seen[-1] == (11, 11)
    if form == ".zarr":
        adata = ad.read_zarr(out)
        got, table = adata.obsm["X_x"], adata.obs.reset_index(names="cell_id")
    elif form == ".npy":
        got = np.load(out, mmap_mode="r")
        table = pd.read_parquet(f"{out}.cells.parquet")
    else:
        table = pd.read_parquet(out)
        got = np.stack(table["embedding"])
    np.testing.assert_array_equal(got, vectors)
    for name in cells:
        assert list(table[name]) == list(cells[name])


def test_parts_that_do_not_fit_are_refused(tmp_path: Path, parts) -> None:
    found, *_ = parts
    out = tmp_path / "all.npy"
    odd, _ = part(tmp_path, "odd", 3, 9, donor=["x"] * 3)
    with pytest.raises(InputError, match=r"odd\.parquet: holds cell_id, tissue, donor and 5"):
        collect_parts([*found, odd], out, width=WIDTH, dtype="float32", key_added="X")
    short = Part(name="a", path=found[1].path, n_cells=5)
    with pytest.raises(InputError, match=r"a\.parquet: 4 cells, the manifest says 5"):
        collect_parts([short], out, width=WIDTH, dtype="float32", key_added="X")
    found[0].path.write_bytes(found[0].path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"b\.parquet cannot be read"):
        collect_parts(found, out, width=WIDTH, dtype="float32", key_added="X")
    with pytest.raises(InputError, match=r"end the output's name in one of \.parquet"):
        collect_parts(found, tmp_path / "x.csv", width=WIDTH, dtype="float32", key_added="X")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".all", "all"))]
