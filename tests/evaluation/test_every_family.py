"""An imported model of any family is evaluated, and its genes are perturbed, as with our own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import every

import cellscribe
from cellscribe.config import EvaluateOptions, ImportOptions
from cellscribe.evaluation.suite import run_suite
from cellscribe.families.importing import import_model

OPTIONS = EvaluateOptions(label="kind", seeds=1, bootstrap=20, precision="float32", device="cpu")


def silent(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module", params=every.FAMILIES)
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    source, genes = every.write(request.param, folder / "published")
    import_model(source, folder / "model", ImportOptions(genes=genes), log=silent)
    every.cells_of(folder / "model", 60).write_h5ad(folder / "cells.h5ad")
    return folder


def test_it_is_evaluated_with_its_twin(imported: Path) -> None:
    results = run_suite(
        [imported / "model"],
        [imported / "cells.h5ad"],
        imported / "evaluated",
        OPTIONS,
        ["confounding"],
        log=silent,
    )
    kinds = [each.kind for each in results]
    assert kinds[:2] == ["model", "random"]
    assert set(kinds[2:]) == {"baseline"}
    model, twin, *_ = results
    assert model.scores.estimates["depth_r2"] != twin.scores.estimates["depth_r2"]
    assert all(np.isfinite(each.value) for each in model.scores.estimates.values())


def test_it_is_asked_what_a_deleted_gene_does(imported: Path) -> None:
    table = cellscribe.perturb(
        imported / "cells.h5ad",
        model=imported / "model",
        top=3,
        max_cells=20,
        precision="float32",
        device="cpu",
        log=silent,
    )
    assert len(table) == 3
    assert (table["n_cells"] > 0).all()
    assert (table["shift"] > 0).all()


def test_its_tokens_embed_as_the_counts_do(imported: Path) -> None:
    out = imported / "tokens.parquet"
    cellscribe.tokenize(imported / "cells.h5ad", out, model=imported / "model", log=silent)
    model = cellscribe.load(imported / "model", precision="float32", device="cpu")
    wanted = model.embed(imported / "cells.h5ad")
    np.testing.assert_array_equal(cellscribe.embed(out, model=model, log=silent), wanted)
