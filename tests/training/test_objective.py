"""The masked-gene loss, cell by cell and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellscribe.config import ModelConfig
from cellscribe.model.attention import Cells
from cellscribe.model.encoder import MaskedGeneModel, initialise
from cellscribe.training.objective import masked_gene_loss

CPU = torch.device("cpu")
LENGTHS = (9, 3, 12)
# one, two and five places: the mean of means is not the mean
PLACES = ([4], [0, 2], [1, 3, 6, 10, 11])


@pytest.fixture
def model() -> MaskedGeneModel:
    config = ModelConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
        context=39,
        initializer_range=0.3,
    )
    model = MaskedGeneModel(config)
    initialise(model, 0)
    return model.eval()


def make_batch():
    generator = torch.Generator().manual_seed(5)
    tokens_BL = torch.randint(5, 30, (3, 12), generator=generator)
    # ranks in a longer cell, of which these genes are a subset
    positions_BL = torch.stack([torch.randperm(40, generator=generator)[:12] for _ in range(3)])
    positions_BL = positions_BL.sort(dim=1).values
    targets = torch.randint(5, 30, (8,), generator=generator)
    return tokens_BL, positions_BL, targets


def test_each_cells_loss_is_the_mean_over_its_places(model: MaskedGeneModel) -> None:
    tokens_BL, positions_BL, targets = make_batch()
    chosen = torch.tensor([12 * cell + place for cell, some in enumerate(PLACES) for place in some])
    with torch.no_grad():
        loss_B = masked_gene_loss(
            model, tokens_BL, Cells(LENGTHS, CPU), positions_BL, chosen, targets
        )
        expected, all_losses, rest = [], [], targets.tolist()
        for cell, (n, places) in enumerate(zip(LENGTHS, PLACES, strict=True)):
            hidden_LD = model.encoder(
                tokens_BL[cell : cell + 1, :n], Cells((n,), CPU), positions_BL[cell : cell + 1, :n]
            )[0]
            truth, rest = rest[: len(places)], rest[len(places) :]
            # the whole vocabulary at every place of the cell, and a logarithm in float64
            logits = model.logits(hidden_LD).double().numpy()
            probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            losses = [-np.log(probabilities[p, t]) for p, t in zip(places, truth, strict=True)]
            torchs = F.cross_entropy(model.logits(hidden_LD)[places], torch.tensor(truth))
            assert np.mean(losses) == pytest.approx(float(torchs), rel=1e-5)
            expected.append(np.mean(losses))
            all_losses += losses
    np.testing.assert_allclose(loss_B.numpy(), expected, rtol=1e-5)
    assert abs(np.mean(expected) - np.mean(all_losses)) > 0.01


def test_order_of_the_places_does_not_matter(model: MaskedGeneModel) -> None:
    tokens_BL, positions_BL, targets = make_batch()
    chosen = torch.tensor([12 * cell + place for cell, some in enumerate(PLACES) for place in some])
    cells, order = Cells(LENGTHS, CPU), torch.tensor([3, 7, 0, 1, 5, 2, 6, 4])
    with torch.no_grad():
        straight = masked_gene_loss(model, tokens_BL, cells, positions_BL, chosen, targets)
        shuffled = masked_gene_loss(
            model, tokens_BL, cells, positions_BL, chosen[order], targets[order]
        )
    torch.testing.assert_close(shuffled, straight)


def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_vocabulary(
    model: MaskedGeneModel,
) -> None:
    with torch.no_grad():
        model.encoder.genes.weight.zero_()
    tokens_BL, positions_BL, targets = make_batch()
    chosen = torch.tensor([12 * cell + place for cell, some in enumerate(PLACES) for place in some])
    loss_B = masked_gene_loss(model, tokens_BL, Cells(LENGTHS, CPU), positions_BL, chosen, targets)
    torch.testing.assert_close(loss_B, torch.full((3,), 30.0).log())
