"""The second objective beside slow statements of it: vectors, contrast, gradients, two views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.training import SHAPE, SHORT

from cellscribe.cells.gene_names.vocabulary import CLS, MASK
from cellscribe.config import ModelConfig, TrainOptions
from cellscribe.errors import InputError
from cellscribe.model.attention import Lengths
from cellscribe.model.cell_head import GENE_SCALE, HIDDEN_SCALE
from cellscribe.model.encoder import MaskedGeneModel, initialise
from cellscribe.model.pooling import Specials
from cellscribe.training.contrast import contrast_gradients, info_nce
from cellscribe.training.distributed import Team
from cellscribe.training.gradients import view_gradients
from cellscribe.training.masking import MaskedBatch, mask_cells
from cellscribe.training.objective import Objective

pytestmark = pytest.mark.usefixtures("one_thread")

C, K, N_GENES = 6, 4, 60
HEADED = replace(
    SHAPE, vocab_size=N_GENES + 5, cell_vector_size=C, cell_scores=K, initializer_range=0.3
)
OPTIONS = replace(
    SHORT, genes_per_cell=None, regression_weight=0.7, contrast_weight=0.4, mlm_weight=0.3
)
CPU = torch.device("cpu")


def some_model(config: ModelConfig = HEADED) -> MaskedGeneModel:
    model = MaskedGeneModel(config)
    initialise(model, 3)
    assert model.encoder.cell_head is not None
    with torch.no_grad():  # as after some training: the hidden states have a say
        model.encoder.cell_head.out.weight.normal_(generator=torch.Generator().manual_seed(5))
    return model.train()


def some_views(cells: range, seed: int = 0) -> MaskedBatch:
    """Two views of some cells: a draw of a cell is its own, whatever other cells there are."""
    tokens, scores = [], []
    for view in range(2):
        for cell in cells:
            rng = np.random.default_rng([seed, cell, view])
            tokens.append(np.r_[CLS, 5 + rng.permutation(N_GENES)[: 5 + 3 * (cell % 7)]])
    for cell in cells:
        scores.append(np.random.default_rng([seed, cell]).normal(size=K))
    numbers = np.array(cells)
    batch = mask_cells(
        np.concatenate(tokens).astype(np.int32),
        np.array([len(cell) for cell in tokens], np.int32),
        np.r_[numbers, numbers + 1_000],
        1,
        (5, 5 + N_GENES),
        OPTIONS,
        front=1,
    )
    return replace(batch, scores_BK=torch.tensor(np.array(scores), dtype=torch.float32))


def restated_loss(model: MaskedGeneModel, batch: MaskedBatch) -> torch.Tensor:
    """The whole loss of a step, cell by cell and pair by pair, as its formulas are written."""
    head = model.encoder.cell_head
    assert head is not None and batch.scores_BK is not None
    hidden_ND = model.encoder(batch.tokens_N, batch.cells, batch.positions_N)
    logits = model.logits(hidden_ND)
    vectors, masked, start = [], torch.zeros(()), 0
    for n in batch.cells.lengths:
        tokens, ranks = batch.tokens_N[start : start + n], batch.positions_N[start : start + n]
        mean = torch.stack([hidden_ND[start + i] for i in range(1, n)]).mean(0)
        total, bag = torch.zeros(()), torch.zeros(HEADED.hidden_size)
        for token, rank in zip(tokens[1:], ranks[1:], strict=True):
            if token != MASK:
                weight = torch.exp(head.ranks[rank])
                bag, total = bag + weight * model.encoder.genes.weight[token], total + weight
        vectors.append(head.out(torch.cat([HIDDEN_SCALE * mean, GENE_SCALE * bag / total])))
        own = (batch.chosen_M >= start) & (batch.chosen_M < start + n)
        masked = masked + F.cross_entropy(logits[batch.chosen_M[own]], batch.targets_M[own])
        start += n
    cells = len(vectors) // 2
    regression = sum(
        ((head.scores(vector) - batch.scores_BK[i % cells]) ** 2).mean()
        for i, vector in enumerate(vectors)
    )
    contrast = torch.zeros(())
    for one, two in ((vectors[:cells], vectors[cells:]), (vectors[cells:], vectors[:cells])):
        for i in range(cells):
            cosines = torch.stack([F.cosine_similarity(one[i], other, dim=0) for other in two])
            chances = torch.softmax(cosines / OPTIONS.temperature, 0)
            contrast = contrast - torch.log(chances[i]) / 2
    return (
        OPTIONS.mlm_weight * masked / 2
        + OPTIONS.regression_weight * regression / 2
        + OPTIONS.contrast_weight * contrast
    )


@pytest.mark.parametrize(
    "parts", [[range(8)], [range(4), range(4, 8)], [range(i, i + 1) for i in range(8)]]
)
def test_gradients_are_those_of_the_whole_loss(parts: list[range]) -> None:
    """However a step is cut into micro batches: all its cells are each other's negatives."""
    model = some_model()
    losses = view_gradients(
        Objective(model, OPTIONS.mlm_weight, OPTIONS.regression_weight),
        [some_views(part) for part in parts], 1.0, 7, OPTIONS, CPU, Team(),
    )  # fmt: skip
    theirs = some_model()
    restated = restated_loss(theirs, some_views(range(8)))
    restated.backward()
    weights = (OPTIONS.mlm_weight / 2, OPTIONS.regression_weight / 2, OPTIONS.contrast_weight)
    assert sum(np.multiply(weights, losses)) == pytest.approx(float(restated.detach()), rel=1e-5)
    wanted = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert any("cell_head" in name for name in wanted)
    for name, p in model.named_parameters():
        if name not in wanted:
            continue
        assert p.grad is not None, name
        atol = 2e-5 * float(wanted[name].abs().max()) + 1e-6
        torch.testing.assert_close(p.grad, wanted[name], rtol=2e-4, atol=atol, msg=name)


def test_dropout_of_both_passes_is_the_same() -> None:
    """Otherwise the contrast's gradient would be that of other vectors than those it is put at."""
    config = replace(HEADED, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    model = some_model(config)
    seen: list[torch.Tensor] = []

    class Watched(Objective):
        def forward(self, batch: MaskedBatch):  # type: ignore[no-untyped-def]
            found = super().forward(batch)
            seen.append(found.vectors.detach())
            return found

    micro = [some_views(range(4)), some_views(range(4, 8))]
    view_gradients(Watched(model), micro, 1.0, 7, OPTIONS, CPU, Team())
    assert len(seen) == 4
    torch.testing.assert_close(seen[0], seen[2], rtol=0, atol=0)
    torch.testing.assert_close(seen[1], seen[3], rtol=0, atol=0)


def test_vectors_that_tell_nothing_lose_log_b() -> None:
    same = torch.ones(9, C)
    assert float(info_nce(same, same, 0.1)) == pytest.approx(np.log(9))
    apart = torch.eye(9)
    assert float(info_nce(apart, apart, 0.1)) == pytest.approx(
        np.log(1 + 8 * np.exp(-10)), rel=1e-3
    )


def test_other_ranks_cells_are_negatives_too() -> None:
    """Two ranks' gradients are the two parts of what one process has."""
    first, second = torch.randn(2, 10, C, generator=torch.Generator().manual_seed(1))
    whole, (wanted,) = contrast_gradients([torch.cat([first, second])], 0.2, Team())
    for rank, part in enumerate((slice(0, 6), slice(6, 10))):

        class OneOfTwo(Team):
            rank: int
            size = 2

            def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
                others = torch.stack([first, second])
                parts = [others[:, :6].clone(), others[:, 6:].clone()]
                torch.testing.assert_close(parts[self.rank], tensor)
                return parts

        team = OneOfTwo()
        team.rank = rank
        loss, (found,) = contrast_gradients([torch.cat([first[part], second[part]])], 0.2, team)
        torch.testing.assert_close(loss, whole)
        torch.testing.assert_close(
            found, torch.cat([wanted[:10][part], wanted[10:][part]]), rtol=1e-5, atol=1e-6
        )


def test_packed_and_padded_cells_have_the_same_vectors() -> None:
    model = some_model().eval()
    cells = [[CLS, 7, 20, 33], [CLS, 9], [CLS, 12, 11, 10, 40, 41]]
    where = Lengths(tuple(map(len, cells)), CPU)
    packed = torch.tensor([token for cell in cells for token in cell])
    padded = torch.tensor([cell + [2] * (6 - len(cell)) for cell in cells])
    specials = Specials((CLS,))
    with torch.no_grad():
        one, other = (
            model.encoder.cell_vectors(
                tokens, model.encoder(tokens, where), where, specials, "head"
            )
            for tokens in (packed, padded)
        )
    assert one.shape == (3, C)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regression_weight": -1.0}, "regression_weight must not be negative"),
        ({"contrast_weight": 1.0, "temperature": 0.0}, "temperature must be positive"),
        ({"contrast_weight": 1.0, "downsample": 0.5}, "set downsample 0"),
        ({"contrast_weight": 1.0, "patience": 3}, "leave it out"),
        ({"contrast_weight": 1.0, "shared_genes": 1.5}, "is not a share"),
        ({"contrast_weight": 1.0, "least_share": 0.0}, "least_share must be positive"),
        ({"mlm_weight": 0.0}, "all weights of the loss are 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    changes: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        TrainOptions(**changes)  # type: ignore[arg-type]
