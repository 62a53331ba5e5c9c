"""The model as a step of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from support.formats import annotated
from support.tiny import real_genes, some_counts

import cellscribe
from cellscribe import CellEmbedder, InputError

CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
)
"""Those that do not hand it an array of numbers without genes."""


def some_cells() -> ad.AnnData:
    return annotated(sp.csr_matrix(some_counts(40)), real_genes)


@pytest.fixture
def estimator(tiny_model: Path) -> CellEmbedder:
    return CellEmbedder(str(tiny_model), device="cpu", precision="float32", threads=1)


@pytest.mark.parametrize("name", CHECKS)
def test_what_scikit_learn_asks(name: str, estimator: CellEmbedder) -> None:
    getattr(estimator_checks, name)("CellEmbedder", estimator)


def test_vectors_are_those_of_the_model(estimator: CellEmbedder, tiny_model: Path) -> None:
    cells = some_cells()
    model = cellscribe.load(tiny_model, device="cpu", precision="float32", threads=1)
    expected = model.embed(cells)
    np.testing.assert_array_equal(estimator.fit_transform(cells), expected)
    loaded = CellEmbedder(model).fit(cells)
    np.testing.assert_array_equal(loaded.transform(cells), expected)
    frame = pd.DataFrame(cells.X.toarray(), index=cells.obs_names, columns=cells.var_names)
    named = clone(estimator).set_output(transform="pandas").fit_transform(frame)
    np.testing.assert_array_equal(named, expected)
    assert list(named.index) == list(cells.obs_names)
    assert list(named.columns) == [f"cellembedder{i}" for i in range(expected.shape[1])]


def test_a_pipeline_over_folds(estimator: CellEmbedder) -> None:
    cells = some_cells()
    labels = np.arange(cells.n_obs) % 2
    steps = make_pipeline(estimator, LogisticRegression())
    scores = cross_val_score(steps, cells.to_df(), labels, cv=3, error_score="raise")
    assert ((scores >= 0) & (scores <= 1)).all()
    assert steps.fit(cells[:30], labels[:30]).predict(cells[30:]).shape == (cells.n_obs - 30,)


def test_what_has_no_genes_is_refused(estimator: CellEmbedder) -> None:
    cells = some_cells()
    with pytest.raises(InputError, match="ndarray does not say which gene each column is"):
        estimator.fit(cells).transform(np.ones((3, 4)))
    with pytest.raises(InputError, match="no model 'nope'"):
        CellEmbedder("nope").fit(cells)


def test_without_fit_it_says_so(estimator: CellEmbedder) -> None:
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        estimator.transform(ad.AnnData())
