"""The masked-gene loss and its gradients, beside Hugging Face's BertForMaskedLM and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellscribe.cells.gene_names.vocabulary import CLS, Vocabulary
from cellscribe.config import ModelConfig, TrainOptions
from cellscribe.model.checkpoint import save_checkpoint, to_hugging_face
from cellscribe.model.encoder import MaskedGeneModel, initialise
from cellscribe.training.masking import MaskedBatch, mask_cells
from cellscribe.training.objective import Objective

pytestmark = pytest.mark.usefixtures("one_thread")

N_GENES = 60
VOCABULARY = Vocabulary.build(
    [f"ENSG{i:011}" for i in range(N_GENES)], [""] * N_GENES, np.ones(N_GENES)
)
SHAPE = ModelConfig(
    vocab_size=len(VOCABULARY),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    context=60,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.2,
)
# 1, 6 and 3 chosen places: the mean over cells of means is not the mean over places
LENGTHS = (4, 40, 17)


def some_batch(seed: int = 0) -> MaskedBatch:
    rng = np.random.default_rng(seed)
    cells = [np.r_[CLS, rng.permutation(np.arange(5, 65))[:n]] for n in LENGTHS]
    lengths = np.array([len(cell) for cell in cells], np.int32)
    tokens = np.concatenate(cells).astype(np.int32)
    return mask_cells(tokens, lengths, np.arange(3), 1, (5, 65), TrainOptions(seed=seed), front=1)


def some_model(config: ModelConfig = SHAPE) -> MaskedGeneModel:
    model = MaskedGeneModel(config)
    initialise(model, 3)
    return model


@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_loss_and_gradients_are_hugging_faces(tmp_path: Path, act: str) -> None:
    from transformers import BertForMaskedLM

    model = some_model(replace(SHAPE, hidden_act=act))
    save_checkpoint(tmp_path / "model", model, VOCABULARY, {})
    bert = BertForMaskedLM.from_pretrained(tmp_path / "model").train()
    batch = some_batch()
    total, losses_M = Objective(model.train())(batch)
    (total / 3).backward()
    total = total.detach()

    width = 1 + max(LENGTHS)
    ids, mask = torch.full((3, width), 2), torch.zeros(3, width, dtype=torch.long)
    labels = torch.full((3, width), -100)
    start, all_labels = 0, torch.full((len(batch.tokens_N),), -100)
    all_labels[batch.chosen_M] = batch.targets_M
    for cell, n in enumerate(batch.cells.lengths):
        ids[cell, :n] = batch.tokens_N[start : start + n]
        labels[cell, :n] = all_labels[start : start + n]
        mask[cell, :n] = 1
        start += n
    logits = bert(input_ids=ids, attention_mask=mask).logits
    of_cell = [F.cross_entropy(logits[cell], labels[cell]) for cell in range(3)]
    theirs = torch.stack(of_cell).mean()
    theirs.backward()
    theirs, logits = theirs.detach(), logits.detach()

    assert float(total) / 3 == pytest.approx(float(theirs), rel=1e-5)
    over_all = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert float(losses_M.mean()) == pytest.approx(float(over_all), rel=1e-5)
    assert abs(float(over_all) - float(theirs)) > 0.01
    ours = to_hugging_face({name: p.grad for name, p in model.named_parameters()})
    wanted = {name: p.grad for name, p in bert.named_parameters() if p.grad is not None}
    assert wanted.keys() <= ours.keys()
    assert len(wanted) == len(list(bert.parameters()))
    # a key's bias moves all scores of a query alike: its gradient is 0 but for rounding, which
    # differs between CPUs
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        rounding = (1e-6 if name.endswith("key.bias") else 1e-7) * largest
        atol = 1e-5 * float(gradient.abs().max()) + rounding
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=atol, msg=name)


def test_each_cells_loss_is_the_mean_over_its_places() -> None:
    model, batch = some_model().eval(), some_batch(1)
    with torch.no_grad():
        total, losses_M = Objective(model)(batch)
        logits = model.logits(model.encoder(batch.tokens_N, batch.cells, batch.positions_N))
    # the whole vocabulary at every place, and a logarithm in float64
    all_logits = logits.double().numpy()[batch.chosen_M]
    probabilities = np.exp(all_logits) / np.exp(all_logits).sum(1, keepdims=True)
    losses = -np.log(probabilities[np.arange(len(probabilities)), batch.targets_M.numpy()])
    np.testing.assert_allclose(losses_M.numpy(), losses, rtol=1e-5)
    cell = np.searchsorted(np.cumsum(batch.cells.lengths), batch.chosen_M.numpy(), side="right")
    means = [losses[cell == i].mean() for i in range(3)]
    assert float(total) == pytest.approx(sum(means), rel=1e-5)


def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_vocabulary() -> None:
    model = some_model().eval()
    with torch.no_grad():
        model.encoder.genes.weight.zero_()
        total, _ = Objective(model)(some_batch())
    assert float(total) / 3 == pytest.approx(np.log(len(VOCABULARY)), rel=1e-6)


def test_a_batch_without_genes_has_no_loss_and_no_gradient() -> None:
    empty = mask_cells(
        np.array([CLS, CLS], np.int32),
        np.ones(2, np.int32),
        np.arange(2),
        1,
        (5, 65),
        TrainOptions(),
        front=1,
    )
    model = some_model()
    total, _ = Objective(model)(empty)
    total.backward()
    assert float(total.detach()) == 0
    for parameter in model.parameters():
        assert parameter.grad is None or not parameter.grad.any()
