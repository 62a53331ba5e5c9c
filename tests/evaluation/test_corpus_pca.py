"""Rows of a training corpus's principal components: what they hold, and for whom they are there."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from support.tiny import real_genes, some_counts

from cellscribe.config import EvaluateOptions
from cellscribe.corpus.components import COMPONENTS, Components
from cellscribe.errors import InputError
from cellscribe.evaluation.corpus_pca import corpus_pcas
from cellscribe.evaluation.data import Cells, Data
from cellscribe.evaluation.models import read_models
from cellscribe.evaluation.tasks import celltype, confounding, integration
from cellscribe.model.checksums import seal

OPTIONS = EvaluateOptions(bootstrap=20, batch="donor")
N, GENES, AXES = 60, 200, 4


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with components of a made-up corpus: tokens 5, 7, 9 ..."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "with"))
    rng = np.random.default_rng(0)
    tokens = np.arange(5, 105, 2)
    axes = np.linalg.qr(rng.normal(size=(len(tokens), AXES)))[0].astype(np.float16)
    Components(
        tokens=tokens,
        mean=rng.random(len(tokens)).astype(np.float32),
        loadings=axes.astype(np.float32),
        spread=np.ones(AXES, np.float32),
    ).save(folder)
    seal(folder)
    return folder


@pytest.fixture
def data() -> Data:
    names = {"cell_type": [f"t{i % 3}" for i in range(N)], "donor": [f"d{i % 2}" for i in range(N)]}
    # the columns in another order than the tokens, and one gene that no model knows
    order = np.random.default_rng(1).permutation(GENES)
    var = pd.DataFrame(index=[*np.array(real_genes(GENES)[0])[order], "nobody's gene"])
    counts = np.c_[np.asarray(some_counts(N))[:, order], np.full(N, 7)]
    cells = Cells(
        name="made up", counts=csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(names, index=[f"c{i}" for i in range(N)]), var=var, gene_key=None,
        n_in_file=N,
    )  # fmt: skip
    return Data(name="made up", path=Path("made up.h5ad"), cells=cells)


def test_scores_are_a_projection_by_hand(model: Path, tiny_model: Path, data: Data) -> None:
    models = read_models([tiny_model, model], OPTIONS)
    [pca] = corpus_pcas(models)  # neither the model without components nor a random twin
    assert data.cells is not None
    ids = models[0].header.table.ids
    dense = pd.DataFrame(data.cells.counts.toarray(), columns=data.cells.var.index)
    known = [gene for gene in dense.columns if gene in ids]
    assert len(known) == GENES
    logs = np.log1p(1e4 * dense[known].div(dense[known].sum(axis=1), axis=0))
    parts = pca.components
    own = logs.fillna(0)[[ids[token] for token in parts.tokens]].to_numpy()
    np.testing.assert_allclose(
        pca.scores(data.cells), (own - parts.mean) @ parts.loadings, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("task", [celltype, confounding, integration])
def test_tasks_about_cells_have_its_row(task: ModuleType, model: Path, data: Data) -> None:
    [case] = task.load(data, read_models([model], OPTIONS), OPTIONS)
    rows = {method.name: method for method in task.baselines(case)}
    [name] = [name for name in rows if "PCA-4 of the training corpus of with" in name]
    assert rows[name].kind == "baseline"
    assert rows[name].fitted
    scores = task.score(case, rows[name].predict(), 0)
    assert all(np.isfinite(each.value) for each in scores.estimates.values())


def test_another_corpus_is_another_result(model: Path, data: Data) -> None:
    [before] = corpus_pcas(read_models([model], OPTIONS))
    changed = dict(vars(before.components), mean=before.components.mean + 1)
    (model / COMPONENTS).unlink()
    Components(**changed).save(model)
    seal(model)
    [after] = corpus_pcas(read_models([model], OPTIONS))
    assert (before.name, before.fingerprint) != (after.name, after.fingerprint)
    assert before.name == after.name


def test_damaged_components_are_refused(model: Path) -> None:
    (model / COMPONENTS).write_bytes(b"no tensors")
    with pytest.raises(InputError, match="damaged"):
        corpus_pcas(read_models([model], OPTIONS))
