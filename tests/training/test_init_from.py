"""A run that begins with another model's weights, on the same genes or on others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training import SHAPE, SHORT, lines_of, planted_corpus, run_training

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import ModelConfig
from cellscribe.corpus.store import open_corpus
from cellscribe.errors import InputError
from cellscribe.model.checkpoint import load_checkpoint, save_checkpoint
from cellscribe.model.encoder import MaskedGeneModel, initialise
from cellscribe.training.init_from import InitFrom, continue_from

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_corpus(tmp_path_factory.mktemp("corpus") / "planted")


def save(folder: Path, vocabulary: Vocabulary, config: ModelConfig = SHAPE) -> Path:
    model = MaskedGeneModel(replace(config, vocab_size=len(vocabulary)))
    initialise(model, 8)
    with torch.no_grad():
        model.bias.copy_(torch.linspace(-3, 1, len(vocabulary)))
    save_checkpoint(folder, model, vocabulary, {})
    return folder


def of_genes(vocabulary: Vocabulary, ids: list[str], factor: float = 1.0) -> Vocabulary:
    medians = dict(zip(vocabulary.ids, vocabulary.medians, strict=True))
    return Vocabulary.build(
        ids, [""] * len(ids), np.array([factor * medians.get(name, 1.0) for name in ids])
    )


def test_the_first_loss_is_that_of_the_model(corpus: Path, tmp_path: Path) -> None:
    first = run_training(corpus, tmp_path / "first", validation_cells=40)
    said: list[str] = []
    still = replace(SHORT, learning_rate=1e-30, steps=1, validation_cells=40)
    run_training(corpus, tmp_path / "second", options=still, init_from=first, log=said.append)
    # weights have not moved: the first validation says of them what the last one said
    assert lines_of(tmp_path / "second")[0]["loss_val"] == pytest.approx(
        load_checkpoint(first).provenance["loss on val"], rel=1e-6
    )
    header = json.loads((tmp_path / "second/run.json").read_text())
    assert header["init_from"]["kept"] == len(open_corpus(corpus).vocabulary)
    assert header["init_from"]["new"] == 0
    assert any("tokens keep their vectors, 0 are new, 0 of the model's" in line for line in said)


def test_known_genes_keep_their_rows_whatever_their_place(corpus: Path, tmp_path: Path) -> None:
    ours = open_corpus(corpus).vocabulary
    genes = ours.ids[ours.n_special :]
    # the model knows two thirds of the genes, in another order, and ten others
    theirs = of_genes(ours, [*[f"ENSG9{i:010}" for i in range(10)], *genes[::-1][:100]])
    init_from = InitFrom.read(save(tmp_path / "model", theirs), ours)
    model = MaskedGeneModel(replace(SHAPE, vocab_size=len(ours)))
    initialise(model, 0)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    continue_from(model, init_from)
    old = load_checkpoint(tmp_path / "model").model.state_dict()
    row_of = {name: row for row, name in enumerate(theirs.ids)}
    for row, name in enumerate(ours.ids):
        vector, bias = model.encoder.genes.weight[row], model.bias[row]
        if name in row_of:
            assert torch.equal(vector, old["encoder.genes.weight"][row_of[name]])
            assert bias == old["bias"][row_of[name]]
        else:
            assert torch.equal(vector, fresh["encoder.genes.weight"][row])
    for name, tensor in model.state_dict().items():
        if name not in ("encoder.genes.weight", "bias"):
            assert torch.equal(tensor, old[name]), name
    known = 100 + ours.n_special
    assert init_from.record()["kept"] == known
    assert f"{known} tokens keep their vectors, 50 are new, 10 of the model's" in init_from.notes[0]


def test_other_medians_are_told(corpus: Path, tmp_path: Path) -> None:
    ours = open_corpus(corpus).vocabulary
    theirs = of_genes(ours, ours.ids[ours.n_special :], factor=1.5)
    init_from = InitFrom.read(save(tmp_path / "model", theirs), ours)
    assert f"other medians for {ours.n_genes} of these genes" in init_from.notes[1]
    same = InitFrom.read(save(tmp_path / "same", ours), ours)
    assert len(same.notes) == 1


def test_a_model_of_other_genes_or_another_shape_is_refused(corpus: Path, tmp_path: Path) -> None:
    ours = open_corpus(corpus).vocabulary
    genes = ours.ids[ours.n_special :]
    strange = of_genes(ours, [*[f"ENSG9{i:010}" for i in range(100)], *genes[:60]])
    save(tmp_path / "strange", strange)
    with pytest.raises(InputError, match="strange knows 60 of the corpus's 150 genes"):
        run_training(corpus, tmp_path / "run", init_from=tmp_path / "strange")
    save(tmp_path / "wide", ours, replace(SHAPE, hidden_size=64))
    with pytest.raises(InputError, match=r"of wide has shape \[.*64.*\], not \[.*32.*\]"):
        run_training(corpus, tmp_path / "run", init_from=tmp_path / "wide")
    assert not (tmp_path / "run").exists()


def geneformers(folder: Path, ours: Vocabulary, *, head: bool = True) -> Path:
    """A model with Geneformer's special tokens, in front in another order, and <eos> behind."""
    specials = ("<pad>", "<mask>", "<cls>", "<eos>")
    table = Vocabulary(
        ids=(*specials, *ours.ids[ours.n_special :]),
        symbols=("",) * len(specials) + ours.symbols[ours.n_special :],
        medians=np.concatenate([np.full(4, np.nan), ours.medians[ours.n_special :]]),
        n_special=4,
    )
    config = replace(SHAPE, vocab_size=len(table), sep_token=True, pad_token_id=0)
    model = MaskedGeneModel(config)
    initialise(model, 8)
    if not head:
        with torch.no_grad():
            for parameter in (model.bias, model.transform.weight, model.transform.bias):
                parameter.zero_()
    save_checkpoint(folder, model, table, {}, family="geneformer")
    return folder


def test_special_tokens_keep_their_vectors_under_other_names(corpus: Path, tmp_path: Path) -> None:
    ours = open_corpus(corpus).vocabulary
    first = geneformers(tmp_path / "model", ours)
    old = load_checkpoint(first).model.state_dict()["encoder.genes.weight"]
    still = replace(SHORT, learning_rate=1e-30, steps=1)
    run_training(corpus, tmp_path / "run", options=still, init_from=first)
    made = load_checkpoint(tmp_path / "run/model")
    assert (made.config.pad_token_id, made.config.sep_token) == (2, False)
    new = made.model.state_dict()["encoder.genes.weight"]
    # [CLS] and [MASK] of the corpus are tokens 0 and 1, <cls> and <mask> were 2 and 1
    torch.testing.assert_close(new[:2], old[[2, 1]])
    torch.testing.assert_close(new[5:], old[4:])


def test_a_model_without_a_head_gets_a_new_one(corpus: Path, tmp_path: Path) -> None:
    ours = open_corpus(corpus).vocabulary
    init_from = InitFrom.read(geneformers(tmp_path / "model", ours, head=False), ours)
    assert any("head is missing (all zeros): a new one begins" in line for line in init_from.notes)
    model = MaskedGeneModel(replace(SHAPE, vocab_size=len(ours)))
    initialise(model, 0)
    fresh = model.transform.weight.clone()
    continue_from(model, init_from)
    assert torch.equal(model.transform.weight, fresh) and fresh.any()
