"""The benchmarks from end to end, on a model and a file that take no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from benchmarks import commands, real_cells
from scipy.sparse import csr_matrix

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import ModelConfig
from cellscribe.model import peak
from cellscribe.model.checkpoint import save_checkpoint
from cellscribe.model.encoder import MaskedGeneModel, initialise

pytest.importorskip("datasets", reason="needs the dependency group bench")
pytest.importorskip("transformers", reason="needs the dependency group bench")

GENES = [f"ENSG{i:011d}" for i in range(1, 151)]
CELLS = 40


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(real_cells, "FEWEST_GENES", 100)
    monkeypatch.setattr(peak, "SHAPES", ((8, 8, 8),))
    folder = tmp_path / "data"
    folder.mkdir()
    counts = np.random.default_rng(0).poisson(0.5, size=(30, len(GENES))).astype(np.int32)
    var = pd.DataFrame({"ensembl_id": GENES}, index=GENES)
    obs = pd.DataFrame(index=[str(i) for i in range(30)])
    anndata.AnnData(csr_matrix(counts), obs=obs, var=var).write_h5ad(folder / "some.h5ad")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> str:
    medians = np.sqrt(np.arange(2, len(GENES) + 2) + 0.1234)
    vocabulary = Vocabulary.build(GENES, [""] * len(GENES), medians)
    config = ModelConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        context=48,
    )
    network = MaskedGeneModel(config)
    initialise(network, seed=0)
    save_checkpoint(tmp_path / "tiny", network, vocabulary, {})
    return str(tmp_path / "tiny")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


# The peer's `map` forks, as its original does.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_tokenize(data: Path, model: str, tmp_path: Path) -> None:
    result = read(commands.bench_tokenize(data, cells=CELLS, repeats=2, model=model, out=tmp_path))
    assert result["cells_with_other_tokens"] == 0
    assert result["genes_per_cell"]["p100"] == 48
    assert len(result["seconds_of_parts"]) == 4
    assert sum(result["seconds_of_parts"].values()) >= result["seconds_without_loss"] > 0
    assert {side: len(each) for side, each in result["seconds"].items()} == {
        "cellscribe": 2,
        "peer": 2,
    }


def test_embed(data: Path, model: str, tmp_path: Path) -> None:
    result = read(
        commands.bench_embed(data, model, cells=CELLS, repeats=1, device="cpu", out=tmp_path)
    )
    assert result["name"] == "embed-tiny-cpu"
    assert result["lowest_cosine"] > 0.9995
    assert result["tokens_per_cell"]["p100"] == 49
    assert result["share_of_peak"]["peer"] > 0
    assert not result["settings"]["random_weights"]


@pytest.mark.slow
def test_memory(data: Path, model: str, tmp_path: Path) -> None:
    result = read(commands.bench_memory(data, cells=CELLS, model=model, out=tmp_path))
    assert max(result["curve"]["rss_mb"]) <= result["peak_mb"]
    assert result["peak_mb"] > 50
    assert result["settings"]["model"] == "tiny"
