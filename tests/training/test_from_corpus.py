"""Training on a corpus that was built: from files to a loss that falls."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cellscribe.cells.rank import RankedCells
from cellscribe.config import BuildOptions, ModelConfig, ReaderOptions, SplitOptions
from cellscribe.corpus.build import build_corpus
from cellscribe.corpus.reader import Reader
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.model.encoder import MaskedGeneModel
from cellscribe.training.loop import TrainConfig, train

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "src/cellscribe/bundled/pbmc3k_sample.h5ad"
N_CELLS = 600


@pytest.fixture(scope="module", params=["sample", "real"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus of the bundled cells; that of `make corpus`, where it is there."""
    if request.param == "real":
        if not (ROOT / "runs/corpus/manifest.json").exists():
            pytest.skip("needs the corpus of `make corpus`, which is not here")
        return open_corpus(ROOT / "runs/corpus")
    out = tmp_path_factory.mktemp("corpus") / "out"
    options = BuildOptions(genes=2_000)
    split = SplitOptions(holdout=0)
    return build_corpus([SAMPLE], out, options, split, say=lambda line: None)


def read(corpus: Corpus) -> RankedCells:
    """The first cells of an epoch, as the loop takes them."""
    options = ReaderOptions(batch_cells=N_CELLS, layout="packed", cls_token=False)
    batch = next(Reader(corpus, options).epoch(0))
    lengths = batch.lengths.astype(np.int64)
    return RankedCells(
        tokens=batch.tokens.astype(np.uint16),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        umis=lengths,
        umis_known=lengths,
        genes=batch.lengths,
        genes_known=batch.lengths,
    )


def test_the_loss_falls_below_that_of_guessing(corpus: Corpus, tmp_path: Path) -> None:
    cells = read(corpus)

    assert len(cells.lengths) == N_CELLS
    assert cells.tokens.min() >= corpus.vocabulary.n_special
    model = MaskedGeneModel(
        ModelConfig(
            vocab_size=len(corpus.vocabulary),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=1_100,
            context=corpus.context,
        )
    )
    recipe = TrainConfig(
        steps=130, batch_cells=16, tokens_per_cell=64, learning_rate=2e-2, warmup_steps=5
    )
    _, losses = train(
        model, cells, {"seen": cells.slice(0, 50)}, corpus.vocabulary, recipe, tmp_path
    )
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])["loss"]
    guessing = math.log(len(corpus.vocabulary))
    assert first == pytest.approx(guessing, rel=0.05)
    # in nats; so few small steps come a part of the way to the frequencies of the genes
    assert losses["seen"] < guessing - 0.2
