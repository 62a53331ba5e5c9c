"""Where a BERT's cell vectors are read, against Hugging Face's hidden states and plain means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import CONTEXT, N_GENES, WIDTH, real_genes, save_model, some_counts

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import ModelConfig, ModelOptions, Pooling
from cellscribe.errors import InputError
from cellscribe.families.bert.model import Bert, choose_pooling
from cellscribe.families.registry import open_model
from cellscribe.model.checkpoint import load_checkpoint, save_checkpoint
from cellscribe.model.encoder import MaskedGeneModel, initialise
from cellscribe.model.pooling import Specials, pool_packed, pool_padded

transformers = pytest.importorskip("transformers")
COUNTS = some_counts(12, seed=4)
ROWS = np.flatnonzero(COUNTS.sum(1))


@pytest.fixture(scope="module")
def both_ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads [CLS], genes and [SEP], and gives the second to last layer at [CLS]."""
    ids, symbols = real_genes(N_GENES)
    vocabulary = Vocabulary.build(ids, symbols, np.sqrt(np.arange(N_GENES) + 2.3))
    config = ModelConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        context=CONTEXT,
        sep_token=True,
        initializer_range=0.4,
    )
    network = MaskedGeneModel(config)
    initialise(network, seed=3)
    folder = tmp_path_factory.mktemp("models") / "both"
    rule = Pooling(hidden_layer=-2, pool="cls")
    save_checkpoint(folder, network, vocabulary, {}, pooling=rule, family="geneformer")
    return folder


def expected(folder: Path, row: int, layer: int, how: str) -> np.ndarray:
    """One cell through `transformers`, alone; the tokens are ranked by a plain sort."""
    bert = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    vocabulary = Vocabulary.read(folder / "genes.tsv")
    config = load_checkpoint(folder).config
    genes = np.flatnonzero(COUNTS[row])
    value = COUNTS[row, genes] / vocabulary.medians[genes + 5]
    ranked = [int(genes[place]) + 5 for place in np.argsort(-value, kind="stable")][:CONTEXT]
    back = [3] if config.sep_token else []
    with torch.no_grad():
        out = bert(torch.tensor([[0, *ranked, *back]]), output_hidden_states=True)
    hidden = out.hidden_states[config.num_hidden_layers + 1 + layer][0].numpy()
    if how == "cls":
        return hidden[0]
    mine = hidden[1 : 1 + len(ranked)]
    return (mine[:-1] if how == "genes_but_last" and len(mine) > 1 else mine).mean(0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["genes", "cls", "genes_but_last"])
@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_vectors_are_those_of_transformers(both_ends: Path, layer: int, how: str) -> None:
    options = ModelOptions(hidden_layer=layer, pool=how)
    bert = open_model(both_ends, options).cells
    token = np.arange(5, 5 + N_GENES, dtype=np.int32)
    from scipy.sparse import csr_matrix

    cells = bert.tokenize(csr_matrix(COUNTS), token)
    assert (bert.places(cells)[ROWS] == np.minimum((COUNTS > 0).sum(1), CONTEXT)[ROWS] + 2).all()
    assert (np.delete(bert.places(cells), ROWS) == 0).all()
    with torch.inference_mode():
        found = bert.embed(cells, ROWS).numpy()
    for vector, row in zip(found, ROWS, strict=True):
        wanted = expected(both_ends, row, layer, how)
        np.testing.assert_allclose(vector, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_a_model_says_where_its_vectors_are_read(both_ends: Path, tiny_model: Path) -> None:
    assert open_model(both_ends).cells.pooling.startswith(
        "the second to last hidden layer at [CLS]"
    )
    assert open_model(tiny_model).cells.pooling.startswith("mean of the last hidden layer over")


@pytest.mark.parametrize("how", ["genes", "cls", "genes_but_last"])
@pytest.mark.parametrize("specials", [Specials(), Specials((0,)), Specials((0,), (3,))])
def test_packed_and_padded_vectors_are_the_same(how: str, specials: Specials) -> None:
    from cellscribe.model.attention import Lengths

    genes = [1, 2, 7]
    cells = Lengths(tuple(n + specials.n for n in genes), torch.device("cpu"))
    hidden = torch.randn(sum(cells.lengths), 4, generator=torch.Generator().manual_seed(0))
    padded = torch.full((3, cells.longest, 4), 1e6)
    for row, own in enumerate(hidden.split(list(cells.lengths))):
        padded[row, : len(own)] = own
    packed = pool_packed(hidden, cells, specials, how)
    torch.testing.assert_close(packed, pool_padded(padded, cells, specials, how))
    # a cell of one gene has that gene's vector, however the last one is treated
    if how != "cls":
        torch.testing.assert_close(packed[0], hidden[len(specials.front)])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (ModelOptions(pool="mean"), "no --pool mean; it has genes, cls, genes_but_last"),
        (ModelOptions(hidden_layer=-5), "--hidden-layer -5: the model has 3 layers"),
        (ModelOptions(hidden_layer=2), "-1 is the last one, not 2"),
        (ModelOptions(target_depth="t4"), "no --target-depth; leave it out"),
    ],
)
def test_what_a_model_does_not_have_is_refused(options: ModelOptions, line: str) -> None:
    with pytest.raises(InputError, match=line):
        choose_pooling(ModelConfig(num_hidden_layers=3), Pooling(), options)


def test_a_model_without_cls_has_no_vector_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the model reads no \[CLS\]; use --pool genes"):
        choose_pooling(ModelConfig(cls_token=False), Pooling(), ModelOptions(pool="cls"))


def test_special_tokens_go_by_the_table(tmp_path: Path) -> None:
    """Geneformer calls them otherwise and puts them elsewhere."""
    model = load_checkpoint(save_model(tmp_path / "model"))
    ids = ("<pad>", "<mask>", "<cls>", "<eos>", "[UKW]", *model.vocabulary.ids[5:])
    table = Vocabulary(ids=ids, symbols=model.vocabulary.symbols, medians=model.vocabulary.medians)
    other = Bert(
        type(model)(**{**vars(model), "vocabulary": table}),
    )
    assert other.specials == Specials((2,))
    assert table.special("[SEP]") == 3
