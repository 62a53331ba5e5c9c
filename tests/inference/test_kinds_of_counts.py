"""Fractional counts and TPM through the verbs: ranks need no whole numbers."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from support.tiny import N_GENES, real_genes

import cellscribe
from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import read_cells
from cellscribe.evaluation.models import read_models

RANDOM = np.random.default_rng(0)
COUNTS = RANDOM.poisson(RANDOM.gamma(0.5, 6, (40, N_GENES))).astype(np.float32)


def cells(values: np.ndarray) -> ad.AnnData:
    return ad.AnnData(X=sp.csr_matrix(values), var=pd.DataFrame(index=real_genes(N_GENES)[0]))


def per_million() -> np.ndarray:
    # a power of two for every cell, so that no value is rounded
    return COUNTS * 2.0 ** RANDOM.integers(4, 8, (len(COUNTS), 1))


@pytest.fixture(scope="module")
def whole(tiny_model: Path) -> np.ndarray:
    return cellscribe.load(tiny_model, precision="float32", device="cpu").embed(cells(COUNTS))


def test_halves_of_counts_have_the_vectors_of_the_counts(
    whole: np.ndarray, tiny_model: Path, tmp_path: Path
) -> None:
    halves = cells(COUNTS / 2)
    model = cellscribe.load(tiny_model, precision="float32", device="cpu")
    with pytest.raises(InputError, match='counts="fractional"'):
        cellscribe.embed(halves, model=model)
    cellscribe.embed(halves, model=model, counts="fractional")
    np.testing.assert_array_equal(halves.obsm["X_cellscribe"], whole)
    about = halves.uns["cellscribe"]["X_cellscribe"]
    assert about["counts"] == "fractional"
    assert about["umis"] == sum(round(total / 2) for total in COUNTS.sum(axis=1).tolist())
    np.testing.assert_array_equal(model.embed(cells(COUNTS / 2), counts="fractional"), whole)


def test_a_cell_scaled_as_a_whole_has_its_vector(whole: np.ndarray, tiny_model: Path) -> None:
    model = cellscribe.load(tiny_model, precision="float32", device="cpu")
    np.testing.assert_array_equal(model.embed(cells(per_million()), counts="tpm"), whole)


def test_cells_that_are_drawn_to_be_evaluated_stay_what_they_are(
    whole: np.ndarray, tiny_model: Path
) -> None:
    found = read_cells(cells(COUNTS / 2), EvaluateOptions(counts="fractional"))
    assert found.kind == "fractional" and found.take(np.arange(3)).kind == "fractional"
    options = EvaluateOptions(precision="float32", device="cpu")
    [model, _] = read_models([tiny_model], options)
    np.testing.assert_array_equal(model.vectors(found), whole)
    assert found.provenance.hashes is None
    raw = read_cells(cells(COUNTS / 2 * 2), EvaluateOptions())
    assert raw.hash != read_cells(cells(COUNTS), EvaluateOptions(counts="fractional")).hash


def test_a_run_is_resumed_with_the_same_kind_of_counts_alone(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellscribe.inference import embed

    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    source, out = tmp_path / "cells.h5ad", tmp_path / "out.npy"
    cells(COUNTS).write_h5ad(source)
    monkeypatch.setattr(embed, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        cellscribe.embed_file(source, out, model=tiny_model)
    monkeypatch.undo()
    with pytest.raises(InputError, match="begun with another counts"):
        cellscribe.embed_file(source, out, model=tiny_model, counts="tpm", resume=True)


def test_deleted_genes_of_fractional_counts(tiny_model: Path) -> None:
    tables = [
        cellscribe.perturb(cells(COUNTS / part), model=tiny_model, top=3, counts=kind)
        for part, kind in ((1, "raw"), (2, "fractional"))
    ]
    pd.testing.assert_frame_equal(*tables)


def test_a_corpus_is_of_whole_counts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="round the values"):
        cellscribe.BuildOptions(counts="fractional")
