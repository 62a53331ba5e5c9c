"""What models are evaluated on: the draw, names, labels, and hashes that tell data apart."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from support.corpus import write_corpus
from support.tiny import real_genes, some_counts

from cellscribe.cells import counts as reading
from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import column, draw, read_cells, read_data
from cellscribe.evaluation.scores import UnfitError

N = 130
DENSE = some_counts(N)


def annotated(dense: np.ndarray = DENSE) -> ad.AnnData:
    n, g = dense.shape
    kinds = pd.Categorical(["a", "b", None] * n)[:n]
    obs = pd.DataFrame({"kind": kinds, "number": np.arange(n)}, index=[f"c{i}" for i in range(n)])
    ids, symbols = real_genes(g)
    return ad.AnnData(csr_matrix(dense), obs=obs, var=pd.DataFrame({"symbol": symbols}, index=ids))


def test_the_draw_is_by_the_seed_alone_and_in_order() -> None:
    assert draw(5, 50, 0).tolist() == [0, 1, 2, 3, 4]
    some = draw(1_000, 300, 7)
    assert (np.diff(some) > 0).all()
    assert len(some) == 300
    assert draw(1_000, 300, 7).tolist() == some.tolist()
    assert draw(1_000, 300, 8).tolist() != some.tolist()
    # every cell is as likely as any
    often = np.bincount(np.concatenate([draw(40, 10, seed) for seed in range(800)]), minlength=40)
    assert often.min() > 200 - 5 * np.sqrt(150)
    assert often.max() < 200 + 5 * np.sqrt(150)


def test_drawn_cells_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.cells.h5ad"
    annotated().write_h5ad(path)
    blocks = reading.Counts.blocks
    # several blocks, so that rows are taken out of each
    monkeypatch.setattr(reading.Counts, "blocks", lambda self: blocks(self, 32))
    data = read_data(path, EvaluateOptions(max_cells=50, seed=4))
    assert data.name == "some.cells"
    assert data.corpus is None
    cells = data.cells
    rows = draw(N, 50, 4)
    np.testing.assert_array_equal(cells.counts.toarray(), DENSE[rows])
    assert cells.obs["number"].tolist() == rows.tolist()
    assert (cells.n_cells, cells.n_in_file) == (50, N)
    assert cells.counts.dtype == np.float32
    np.testing.assert_array_equal(cells.adata.X.toarray(), DENSE[rows])
    fewer = cells.take(np.array([3, 1]))
    np.testing.assert_array_equal(fewer.counts.toarray(), DENSE[rows[[3, 1]]])
    assert fewer.obs["number"].tolist() == rows[[3, 1]].tolist()


def test_hashes_tell_counts_genes_and_labels_apart() -> None:
    options = EvaluateOptions()
    first = read_cells(annotated(), options)
    again = read_cells(annotated(), options)
    assert (first.hash, first.labels_hash) == (again.hash, again.labels_hash)
    changed = DENSE.copy()
    changed[5, 5] += 1
    assert read_cells(annotated(changed), options).hash != first.hash
    renamed = annotated()
    renamed.var_names = real_genes(200)[0][::-1]
    assert read_cells(renamed, options).hash != first.hash
    # the same counts, whose genes are read from another column
    by_symbol = read_cells(annotated(), EvaluateOptions(gene_key="symbol"))
    assert by_symbol.hash != first.hash
    relabelled = annotated()
    relabelled.obs["kind"] = "b"
    other = read_cells(relabelled, options)
    assert other.hash == first.hash
    assert other.labels_hash != first.labels_hash


def test_a_column_of_labels_is_text() -> None:
    cells = read_cells(annotated(), EvaluateOptions())
    assert column(cells, "kind", "--label")[:4].tolist() == ["a", "b", "", "a"]
    assert column(cells, "number", "--label")[:3].tolist() == ["0", "1", "2"]
    with pytest.raises(UnfitError, match=r"no column 'type' \(--label\); near it: kind, number"):
        column(cells, "type", "--label")


def test_names_that_come_twice_are_no_matter() -> None:
    """Files of several samples often have them; nobody is warned of what does not matter here."""
    twice = annotated(some_counts(60, n_genes=40))
    twice.obs.index = ["same"] * 60
    cells = read_cells(twice, EvaluateOptions(max_cells=50))
    assert cells.adata.n_obs == 50


def test_a_corpus_is_opened(tmp_path: Path) -> None:
    write_corpus(tmp_path / "store", {"train": [8], "val": [4]})
    data = read_data(tmp_path / "store", EvaluateOptions())
    assert data.cells is None
    assert data.corpus.splits["train"]["cells"] == 8
    assert data.name == "store"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_data(tmp_path / "none.h5ad", EvaluateOptions())
    logs = annotated(np.log1p(DENSE))
    with pytest.raises(InputError, match="counts"):
        read_cells(logs, EvaluateOptions())
