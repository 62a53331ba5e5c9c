"""`bench read` from end to end on a corpus that takes no time; annbatch is played by a script."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from benchmarks import read, real_cells
from scipy.sparse import csr_matrix
from support.corpus import write_corpus
from support.tiny import real_genes

from cellscribe.config import ReaderOptions
from cellscribe.corpus.reader import Reader, pad_cells
from cellscribe.errors import InputError

pytest.importorskip("datasets", reason="needs the dependency group bench")

PLAYED = """
import sys, json
say = lambda value: print(json.dumps(value), flush=True)
say({"annbatch": "played"})
for line in sys.stdin:
    chunk, seed = map(int, line.split())
    say({"seconds": {64: 3.0, 256: 1.5, 512: 2.0}[chunk] + 0.1 * seed, "cells": 90, "counts": 7})
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", {"train": [50, 40]})


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "played.py"
    script.write_text(PLAYED)
    monkeypatch.setattr(read.annbatch_peer, "__file__", str(script))
    return Path(sys.executable)


def result(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_all_sides_read_the_same(corpus: Path, played: Path, tmp_path: Path) -> None:
    found = result(
        read.bench_read(
            corpus, None, repeats=3, batch_cells=16, annbatch_python=played, out=tmp_path
        )
    )
    tokens = sum(int(batch.lengths.sum()) for batch in Reader(corpus, ReaderOptions()))
    for side in (read.OURS, read.MAPPED, read.STREAMED):
        assert found["read"][side] == {"cells": 90, "tokens": tokens}
        assert len(found["seconds"][side]) == 3
    assert found["annbatch"]["chunk_cells"] == 256
    assert found["seconds"]["annbatch"] == [1.6, 1.7, 1.8]
    assert found["cells_per_second"]["annbatch"] == pytest.approx(90 / 1.7)
    for cold in found["first_batches_cold"].values():
        assert cold is None or cold["cells"] == 90
    assert set(found["ratio_of_medians"]) == {read.MAPPED, read.STREAMED, read.ANNBATCH}


def test_padding_given_to_datasets_is_that_of_the_reader(corpus: Path) -> None:
    packed = next(iter(Reader(corpus, ReaderOptions(layout="packed", cls_token=False))))
    padded = next(iter(Reader(corpus, ReaderOptions())))
    tokens, lengths = pad_cells(packed.tokens, packed.offsets)
    np.testing.assert_array_equal(tokens, padded.tokens)
    np.testing.assert_array_equal(lengths, padded.lengths)


def test_sides_that_differ_are_no_result() -> None:
    turns: dict[str, read.Turn] = {
        "a": lambda seed: (1.0, {"cells": 2, "tokens": 5}),
        "b": lambda seed: (1.0, {"cells": 2, "tokens": 6}),
    }
    with pytest.raises(RuntimeError, match="different numbers of tokens"):
        read._in_turns(turns, 1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_corpus_is_built_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_cells, "FEWEST_GENES", 100)
    monkeypatch.setattr(read, "measure_cold", lambda *_: None)
    ids, _ = real_genes(150)
    counts = np.random.default_rng(0).poisson(0.5, size=(30, len(ids))).astype(np.int32)
    var = pd.DataFrame({"ensembl_id": ids}, index=ids)
    obs = pd.DataFrame(index=[str(i) for i in range(30)])
    folder = tmp_path / "data"
    folder.mkdir()
    anndata.AnnData(csr_matrix(counts), obs=obs, var=var).write_h5ad(folder / "some.h5ad")
    found = result(read.bench_read(None, folder, cells=70, repeats=1, out=tmp_path))
    assert found["settings"]["cells"] == 70
    assert found["annbatch"] == {}


def test_refusals(corpus: Path, tmp_path: Path) -> None:
    for python, told in ((tmp_path / "none", "cannot be started"), (sys.executable, "annbatch")):
        with pytest.raises(InputError, match=told):
            read.bench_read(corpus, None, annbatch_python=Path(python), out=tmp_path)
    with pytest.raises(InputError, match="name a --corpus"):
        read.bench_read(None, None, out=tmp_path)
    assert not list(tmp_path.glob("*.json"))
