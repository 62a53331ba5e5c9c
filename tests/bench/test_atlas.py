"""The files that the benchmarks of many sources are run on, and the memory of processes."""

from __future__ import annotations

import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from benchmarks import atlas, memory, real_cells
from scipy.sparse import csr_matrix

GENES = [f"ENSG{i:011d}" for i in range(1, 151)]
DEEP = 60


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(real_cells, "FEWEST_GENES", 100)
    folder = tmp_path / "data"
    folder.mkdir()
    counts = np.random.default_rng(0).poisson(3, size=(DEEP, len(GENES))).astype(np.int32)
    var = pd.DataFrame({"ensembl_id": GENES}, index=GENES)
    obs = pd.DataFrame(index=[str(i) for i in range(DEEP)])
    anndata.AnnData(csr_matrix(counts), obs=obs, var=var).write_h5ad(folder / "some.h5ad")
    return folder


def test_shards_are_distinct_cells_thinned(data: Path, tmp_path: Path) -> None:
    atlas.write_shards(tmp_path / "whole", data, 3, 20, counts=None)
    atlas.write_shards(tmp_path / "thin", data, 3, 20, counts=40)
    whole, thin = (
        [anndata.read_h5ad(path) for path in sorted((tmp_path / name).iterdir())]
        for name in ("whole", "thin")
    )
    names = [name for part in whole for name in part.obs_names]
    assert len(names) == len(set(names)) == DEEP
    for before, after in zip(whole, thin, strict=True):
        assert list(before.obs_names) == list(after.obs_names)
        assert (before.X.toarray() >= after.X.toarray()).all()
        # 20 sums of binomials whose mean is 40 and whose variance is below it
        assert abs(after.X.sum() - 20 * 40) < 6 * np.sqrt(20 * 40)


def test_the_largest_process_is_told_from_all() -> None:
    child = "x = bytearray(80_000_000); import time; time.sleep(0.6)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    curve = memory.measure_memory([sys.executable, "-c", parent], interval=0.1)
    assert 80 < curve.largest_mb < curve.peak_mb
