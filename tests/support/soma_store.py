"""A small store laid out as the CELLxGENE Census is, of real cells, and what it was made from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

N_GENES = 900
DATASETS = ("alpha-1", "beta-2", "gamma-3")
LOG, TORN = "log-4", "torn-5"
"""Datasets of bad cells: log-normalised values; a wrong number of non-zeros in obs."""


@dataclass
class Organism:
    """One experiment: obs and var by id, counts by place."""

    obs: pd.DataFrame
    var: pd.DataFrame
    counts: sp.csr_matrix


def human() -> Organism:
    """Cells of three datasets, two of them interleaved, and two bad datasets behind them."""
    path = resources.files("cellscribe") / "bundled" / "pbmc3k_sample.h5ad"
    sample = ad.read_h5ad(str(path))
    counts = sp.csr_matrix(sample.X, dtype=np.float32)[:, :N_GENES]
    n = sample.n_obs
    rng = np.random.default_rng(3)
    mixed = rng.choice(DATASETS[1:], 400, p=[0.6, 0.4])
    dataset = np.concatenate([[DATASETS[0]] * 240, mixed, [LOG] * 30, [TORN] * 30])
    disease = rng.choice(["normal", "Crohn's disease", "glioma"], n, p=[0.7, 0.2, 0.1])
    disease[640:670], disease[670:] = "logged", "torn"
    obs = pd.DataFrame(
        {
            "soma_joinid": np.sort(rng.choice(3 * n, n, replace=False)),
            "dataset_id": pd.Categorical(dataset),
            "assay": pd.Categorical(rng.choice(["10x 3' v2", "10x 3' v3", "Smart-seq2"], n)),
            "sex": pd.Categorical(rng.choice(["female", "male", "unknown"], n)),
            "development_stage": rng.choice(["adult stage", "64-year-old human stage"], n),
            "tissue_general": pd.Categorical(rng.choice(["blood", "lung", "brain"], n)),
            "self_reported_ethnicity": rng.choice(["European", "unknown"], n),
            "disease": pd.Categorical(disease),
            "suspension_type": pd.Categorical(rng.choice(["cell", "nucleus", "na"], n)),
            "is_primary_data": rng.random(n) < 0.8,
            "donor_age": rng.integers(20, 90, n),
        }
    )
    counts[640:670] = np.log1p(counts[640:670])
    obs["nnz"] = np.diff(counts.indptr).astype(np.int64)
    obs.loc[obs["dataset_id"] == TORN, "nnz"] += 1
    var = pd.DataFrame(
        {
            "soma_joinid": np.arange(N_GENES),
            "feature_id": sample.var["ensembl_id"].to_numpy()[:N_GENES].astype(str),
            "feature_name": sample.var_names.to_numpy()[:N_GENES].astype(str),
            "feature_length": rng.integers(200, 9_000, N_GENES),
        }
    )
    return Organism(obs, var, counts)


def mouse(human: Organism) -> Organism:
    """Other counts under the ids and dataset names of the human cells."""
    var = human.var.copy()
    var["feature_id"] = [f"ENSMUSG{i:011d}" for i in range(N_GENES)]
    return Organism(human.obs[:300], var, sp.csr_matrix(human.counts[:300] * 2))


def context() -> Any:
    """Leave Ctrl-C to Python: the first context that does not takes it for the whole process."""
    import tiledbsoma as soma

    from cellscribe.census.soma import CONFIG

    return soma.SOMATileDBContext(tiledb_config=CONFIG)


def write_census(path: Path, organisms: dict[str, Organism]) -> Path:
    """Write ``path/census_data/<organism>``."""
    import tiledbsoma as soma

    with (
        soma.Collection.create(str(path), context=context()) as top,
        top.add_new_collection("census_data") as data,
    ):
        for name, organism in organisms.items():
            with data.add_new_collection(name, soma.Experiment) as experiment:
                _frame(experiment, "obs", organism.obs)
                with (
                    experiment.add_new_collection("ms") as ms,
                    ms.add_new_collection("RNA", soma.Measurement) as rna,
                    rna.add_new_collection("X") as layers,
                ):
                    _frame(rna, "var", organism.var)
                    _matrix(layers, organism)
    return path


def _frame(parent: Any, key: str, frame: pd.DataFrame) -> None:
    import pyarrow as pa
    import tiledbsoma as soma

    table = pa.Table.from_pandas(frame, preserve_index=False)
    made = parent.add_new_dataframe(
        key,
        schema=table.schema,
        index_column_names=["soma_joinid"],
        domain=[(0, int(frame["soma_joinid"].max()))],
    )
    made.close()
    # through the parent it would be written at the parent's time, before its categories
    with soma.DataFrame.open(made.uri, "w", context=context()) as child:
        child.write(table)


def _matrix(layers: Any, organism: Organism) -> None:
    import pyarrow as pa

    entries = organism.counts.tocoo()
    ids = organism.obs["soma_joinid"].to_numpy()
    genes = organism.var["soma_joinid"].to_numpy()
    shape = (int(ids.max()) + 1, int(genes.max()) + 1)
    with layers.add_new_sparse_ndarray("raw", type=pa.float32(), shape=shape) as raw:
        raw.write(
            pa.table(
                {
                    "soma_dim_0": ids[entries.row],
                    "soma_dim_1": genes[entries.col],
                    "soma_data": entries.data,
                }
            )
        )


HUMAN = human()
MOUSE = mouse(HUMAN)
GOOD = HUMAN.obs["is_primary_data"] & (HUMAN.obs["suspension_type"] != "na")
SCFM = GOOD & (HUMAN.obs["disease"] == "normal")


def silent(line: str) -> None:
    raise AssertionError(f"nothing was to be said: {line}")


def expect(out: Path, chosen: pd.Series, organism: Organism | None = None) -> None:
    """Files hold the chosen cells, all of them, each in its dataset's file, and nothing else."""
    from cellscribe.config import CensusOptions

    organism = organism or HUMAN
    listed = json.loads((out / "census.json").read_text())["datasets"]
    datasets = organism.obs["dataset_id"].astype(str)
    assert set(listed) == set(datasets[chosen])
    assert {p.name for p in out.iterdir()} == {f"{d}.h5ad" for d in listed} | {"census.json"}
    for name, about in listed.items():
        rows = np.flatnonzero(chosen & (datasets == name))
        cells = ad.read_h5ad(out / about["file"])
        counts = organism.counts[rows]
        assert cells.X.dtype == np.float32
        np.testing.assert_array_equal(cells.X.toarray(), counts.toarray())
        obs = organism.obs.iloc[rows]
        assert list(cells.obs_names) == list(obs["soma_joinid"].astype(str))
        assert list(cells.obs.columns) == [*CensusOptions().obs, "soma_joinid"]
        for column in cells.obs:
            assert list(cells.obs[column]) == list(obs[column]), column
        assert list(cells.var_names) == list(organism.var["feature_id"])
        assert list(cells.var["feature_name"]) == list(organism.var["feature_name"])
        assert about["cells"] == len(rows)
        assert about["non_zeros"] == counts.nnz
        assert about["umis"] == counts.sum(dtype=np.float64)
        assert about["sha256"] == hashlib.sha256((out / about["file"]).read_bytes()).hexdigest()
