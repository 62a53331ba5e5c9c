"""Speed: that the work was done, all of it, and that figures follow from the clock. No times."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from support.tiny import CONTEXT, N_GENES, real_genes, some_counts

from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import Data, read_cells
from cellscribe.evaluation.models import Model, read_models
from cellscribe.evaluation.scores import UnfitError
from cellscribe.evaluation.tasks import performance
from cellscribe.inference.embedder import Embedder

OPTIONS = EvaluateOptions(bootstrap=20, threads=1, device="cpu")
N_CELLS = 80
DENSE = some_counts(N_CELLS, seed=4)


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> list[Model]:
    return read_models([tiny_model], OPTIONS)


@pytest.fixture(scope="module")
def case(models: list[Model]) -> performance.Case:
    var = pd.DataFrame(
        {"note": ["text", 3.5] * (N_GENES // 2)},
        index=pd.Index(real_genes(N_GENES)[0], name="note"),
    )
    cells = read_cells(ad.AnnData(csr_matrix(DENSE), var=var), OPTIONS, name="made")
    [case] = performance.load(Data(name="made", path=Path(), cells=cells), models, OPTIONS)
    return case


def ticking(*gaps: float) -> Any:
    """A clock that moves by a gap between two looks, and stands still outside."""
    looks: Iterator[float] = iter(np.cumsum([each for gap in gaps for each in (100.0, gap)]))
    return lambda: float(next(looks))


def order_of(case: performance.Case, folder: Path, model: str | None) -> dict[str, Any]:
    performance._write(case.cells, N_CELLS, folder / "cells.h5ad")
    performance._write(case.cells, 10, folder / "warm_up.h5ad")
    return {
        "path": str(folder / "cells.h5ad"),
        "warm_up": str(folder / "warm_up.h5ad"),
        "model": model,
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "gene_key": None,
    }


def test_the_clock_is_read_around_the_whole_work(
    case: performance.Case, models: list[Model], tmp_path: Path, monkeypatch: Any
) -> None:
    """Loading, then warming up off the clock, then all cells, and their vectors are right."""
    made = []
    whole = Embedder.embed

    def embed(self: Embedder, path: str, **more: Any) -> np.ndarray:
        made.append(whole(self, path, **more))
        return made[-1]

    monkeypatch.setattr(Embedder, "embed", embed)
    job = order_of(case, tmp_path, models[0].path)
    found = performance.measure(job, ticking(7, 4))
    assert [len(vectors) for vectors in made] == [10, N_CELLS]
    assert (found.cells, found.load_seconds, found.seconds) == (N_CELLS, 7, 4)
    assert found.gpu_memory_mb is None
    np.testing.assert_array_equal(made[0][:4], made[1][:4])
    in_memory = read_models([models[0].path], EvaluateOptions(precision="float32", device="cpu"))
    np.testing.assert_allclose(made[1], in_memory[0].vectors(case.cells), atol=1e-6)


def test_the_baseline_reads_and_fits_all_cells(
    case: performance.Case, tmp_path: Path, monkeypatch: Any
) -> None:
    seen = []
    usual = performance.pca

    def pca(counts: Any, components: int) -> np.ndarray:
        seen.append(counts)
        return usual(counts, components)

    monkeypatch.setattr(performance, "pca", pca)
    found = performance.measure(order_of(case, tmp_path, None), ticking(1, 5))
    assert (found.cells, found.seconds, found.load_seconds) == (N_CELLS, 5, None)
    assert [counts.shape[0] for counts in seen] == [10, N_CELLS]
    np.testing.assert_array_equal(seen[1].toarray(), DENSE)


def test_figures_are_medians_from_least_to_most(case: performance.Case) -> None:
    repeats = [
        performance.Repeat(cells=N_CELLS, seconds=seconds, load_seconds=load, memory_mb=300.0)
        for seconds, load in ((2.0, 1.0), (1.0, 5.0), (4.0, 1.5))
    ]
    scores = performance.score(case, performance.Timings(repeats=repeats, gflop=8.0), seed=0)
    told = {name: (e.low, e.value, e.high) for name, e in scores.estimates.items()}
    assert told == {
        "cells_per_second": (20, 40, 80),
        "load_seconds": (1, 1.5, 5),
        "memory_mb": (300, 300, 300),
        "gflop_per_second": (2, 4, 8),
    }
    assert set(told) < set(performance.METRICS)
    bare = [performance.Repeat(cells=N_CELLS, seconds=1.0)]
    scores = performance.score(case, performance.Timings(repeats=bare), seed=1)
    assert set(scores.estimates) == {"cells_per_second"}


def test_cells_that_are_missing_are_noticed(case: performance.Case) -> None:
    less = performance.Timings(repeats=[performance.Repeat(cells=N_CELLS - 1, seconds=1.0)])
    with pytest.raises(ValueError, match=f"{N_CELLS - 1} of {N_CELLS} cells"):
        performance.score(case, less, seed=0)


def test_work_is_that_of_the_layers_that_are_run(
    case: performance.Case, models: list[Model]
) -> None:
    """Written out: a product-sum is two operations, and an empty cell is none."""
    told = performance.gflop(models[0], case.cells)
    network = cast(Any, models[0].embedder.cells)
    genes = np.minimum((DENSE > 0).sum(1), CONTEXT)
    n = np.where(genes > 0, genes + network.specials.n, 0).astype(float)
    width, inner = network.config.hidden_size, network.config.intermediate_size
    # queries, keys, values and output; both halves of the MLP; scores and weighted sums
    layer = 2 * n * (4 * width**2 + 2 * width * inner) + 2 * 2 * n**2 * width
    n_layers = network.config.num_hidden_layers + 1 + network.rule.hidden_layer
    assert told == pytest.approx(1e-9 * n_layers * layer.sum())
    other = cast(Any, SimpleNamespace(embedder=SimpleNamespace(cells=object())))
    assert performance.gflop(other, case.cells) is None


def test_processes_of_their_own(case: performance.Case, models: list[Model]) -> None:
    """One real round: each repeat loads, embeds and tells its own memory."""
    job = {"model": models[0].path, "device": "cpu", "precision": "float32"}
    found = performance._repeat(case, job, repeats=1)
    assert [repeat.cells for repeat in found] == [N_CELLS]
    [repeat] = found
    assert repeat.seconds > 0
    assert repeat.load_seconds is not None
    assert repeat.load_seconds > 0
    if sys.platform == "linux":
        assert repeat.memory_mb is not None
        assert 50 < repeat.memory_mb < 20_000


def test_repeats_are_asked_of_processes(
    case: performance.Case, models: list[Model], monkeypatch: Any
) -> None:
    """Three for each row, on files that hold all cells, with the cores that were given."""
    asked = []

    def run(words: list[str], **more: Any) -> Any:
        job = json.loads(more["input"])
        asked.append((job["model"], more["env"]["OMP_NUM_THREADS"]))
        assert ad.read_h5ad(job["path"]).shape == (N_CELLS, N_GENES)
        assert len(ad.read_h5ad(job["warm_up"])) == performance.WARM_UP
        assert words[0] == sys.executable
        told = json.dumps({"cells": N_CELLS, "seconds": float(len(asked))})
        return SimpleNamespace(returncode=0, stdout=f"noise\n{told}\n", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    [method] = performance.methods(case, models[0])
    [level] = performance.baselines(case)
    assert (level.name,) == performance.BASELINES
    predictions = [each.predict() for each in (method, level)]
    assert [repeat.seconds for each in predictions for repeat in each.repeats] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert asked == [(models[0].path, "1")] * 3 + [(None, "1")] * 3
    assert predictions[0].gflop > 0
    assert predictions[1].gflop is None


def test_a_process_that_fails_says_why(case: performance.Case, monkeypatch: Any) -> None:
    def run(*words: Any, **more: Any) -> Any:
        return SimpleNamespace(returncode=1, stdout="", stderr="Traceback\n  ...\nOSError: full\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(InputError, match=r"timed failed: OSError: full$"):
        performance.baselines(case)[0].predict()


def test_memory_is_the_high_water_mark_of_linux(tmp_path: Path, monkeypatch: Any) -> None:
    """Its kB are of 1,024 bytes, ours of 1,000."""
    text = "Name:\tpython\nVmHWM:\t 2000000 kB\nVmRSS:\t 1000000 kB\nOdd:\ta:b\n"
    (tmp_path / "status").write_text(text)
    monkeypatch.setattr(performance, "STATUS", tmp_path / "status")
    assert performance.peak_memory_mb() == pytest.approx(2048)


def test_memory_is_not_told_elsewhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(performance, "STATUS", tmp_path / "status")
    assert performance.peak_memory_mb() is None


def test_twins_are_not_asked(case: performance.Case, models: list[Model]) -> None:
    assert [model.random for model in models] == [False, True]
    assert list(case.models) == models[:1]


def test_a_corpus_is_refused() -> None:
    corpus = Data(name="c", path=Path(), corpus=cast(Any, SimpleNamespace()))
    with pytest.raises(UnfitError, match="give a file of cells"):
        performance.load(corpus, [], OPTIONS)


def test_the_machine_is_part_of_the_identity(case: performance.Case) -> None:
    assert case.identity["cpu"] == case.about["cpu"] != ""
    assert case.identity["threads"] == 1
    assert case.identity["cells"] == case.cells.hash
