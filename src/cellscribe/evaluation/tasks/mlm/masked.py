"""Masked cells of the task `mlm`, and the predictions of networks.

Masks are those of training's validation (`training.masking`). They depend on seed and cell alone,
so a model, its twin and every baseline predict the same genes of the same cells. A prediction is
small: for each masked gene the loss, and the rank of the true gene among all genes. The scores of
the whole vocabulary are kept for one chunk of places only.

Letters: ``B`` cells, ``N`` their genes, one cell after the other, ``M`` chosen places, ``C`` of a
chunk, ``D`` width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.vocabulary import MASK, Vocabulary
from cellscribe.evaluation.models import Model
from cellscribe.evaluation.scores import UnfitError
from cellscribe.families.registry import RankedHeader

if TYPE_CHECKING:
    import torch

    from cellscribe.model.encoder import MaskedGeneModel

CORRUPTIONS = ("mask", "random", "kept")
MASKED = CORRUPTIONS.index("mask")
CPU_LOGITS = 1 << 21
"""Scores that a worker holds at a time, 8 MB of float32: enough rows to fill a product."""
GPU_LOGITS = 1 << 26

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """Ranked genes of cells, cut to the context, without special tokens."""

    tokens_N: npt.NDArray[np.int32]
    offsets: Ints
    """``[B + 1]``: cell i is ``tokens_N[offsets[i] : offsets[i + 1]]``."""
    numbers_B: Ints
    """Number of each cell in the file or corpus; its mask depends on this and the seed."""

    @property
    def lengths_B(self) -> Ints:
        """Number of genes of each cell."""
        return np.diff(self.offsets)

    def take(self, rows: Ints) -> Ranked:
        """Select some of the cells."""
        lengths = self.lengths_B[rows]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        places = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ranked(
            tokens_N=self.tokens_N[places], offsets=offsets, numbers_B=self.numbers_B[rows]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedCells:
    """Cells with the masks of one seed."""

    seed: int
    ranked: Ranked
    """The cells as they are."""
    given_N: Ints
    """Input of a method: genes, [MASK] and random genes."""
    chosen_M: Ints
    """Places in ``N`` whose gene is predicted, cell by cell, ascending."""

    @cached_property
    def targets_M(self) -> Ints:
        """True genes."""
        return self.ranked.tokens_N[self.chosen_M].astype(np.int64)

    @cached_property
    def cells_M(self) -> Ints:
        """Cell of each place."""
        return np.searchsorted(self.ranked.offsets, self.chosen_M, side="right") - 1

    @cached_property
    def ranks_M(self) -> Ints:
        """Rank of each place in its cell, from 0."""
        return self.chosen_M - self.ranked.offsets[self.cells_M]

    @cached_property
    def bounds(self) -> Ints:
        """``[B + 1]``: the chosen places of cell i are ``bounds[i] : bounds[i + 1]`` of ``M``."""
        return np.searchsorted(self.cells_M, np.arange(len(self.ranked.offsets)))

    @cached_property
    def shown_M(self) -> Ints:
        """What a method is shown at each place: [MASK] or a gene."""
        return self.given_N[self.chosen_M]

    @cached_property
    def corruptions_M(self) -> Ints:
        """Index in `CORRUPTIONS`; a random gene that equals the true one counts as kept."""
        kept = self.shown_M == self.targets_M
        return np.where(self.shown_M == MASK, MASKED, np.where(kept, 2, 1))

    def visible(self, cell: int) -> Ints:
        """Return genes of a cell at the places that are not chosen."""
        start, end = self.ranked.offsets[cell : cell + 2]
        stays = np.ones(end - start, bool)
        stays[self.chosen_M[self.bounds[cell] : self.bounds[cell + 1]] - start] = False
        return self.ranked.tokens_N[start:end][stays].astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Prediction of a method for masked cells."""

    losses_M: npt.NDArray[np.float64]
    """Minus the natural logarithm of the true gene's probability."""
    above_M: Ints
    """Number of genes with a higher probability than the true one."""
    ties_M: Ints
    """Number of genes with the same probability, the true one included: at least 1."""

    def hits_M(self, k: int) -> npt.NDArray[np.float64]:
        """Return whether the true gene is among the `k` likeliest; with ties, how probably."""
        return np.clip((k - self.above_M) / self.ties_M, 0.0, 1.0)


Predict = Callable[[MaskedCells], Prediction]
"""What the task's `score` takes."""


def mask(ranked: Ranked, vocabulary: Vocabulary, seed: int) -> MaskedCells:
    """Mask genes of cells, none of them empty, as training's validation does.

    Shares are those of the model card, the defaults of `TrainOptions`: 15 %, one or more; 80/10/10.
    """
    from cellscribe.config import TrainOptions
    from cellscribe.training.masking import VALIDATION_EPOCH, mask_cells

    batch = mask_cells(
        ranked.tokens_N,
        ranked.lengths_B.astype(np.int32),
        ranked.numbers_B,
        VALIDATION_EPOCH,
        (vocabulary.n_special, len(vocabulary)),
        TrainOptions(seed=seed),
        front=0,
    )
    return MaskedCells(
        seed=seed,
        ranked=ranked,
        given_N=batch.tokens_N.numpy(),
        chosen_M=batch.chosen_M.numpy(),
    )


def check_head(model: Model) -> None:
    """Refuse a model that cannot predict masked genes; a twin gets a random head.

    Raises
    ------
    UnfitError
        It is no BERT of ranked genes; its head is all zeros, as that of an imported classifier; or
        its [MASK] is another token than the masks have.
    """
    from safetensors import safe_open

    from cellscribe.model.checkpoint import OUTER_NAMES, WEIGHTS

    if not isinstance(model.header, RankedHeader):
        raise UnfitError(
            f"{model.name} is left out: mlm asks BERTs of ranked genes, not {model.header.family}; "
            "name one, such as mini"
        )
    table = model.header.table
    if table.special("[MASK]") != MASK:
        raise UnfitError(
            f"{model.name} is left out: its [MASK] is token {table.special('[MASK]')}, not {MASK}; "
            "order the special tokens of its gene table as sc-FM or Geneformer do"
        )
    if model.random:
        return
    path: Path = model.header.directory / WEIGHTS
    with safe_open(path, framework="pt") as weights:
        head = weights.get_tensor(f"{OUTER_NAMES['transform']}.weight")
    if not head.any():
        raise UnfitError(
            f"{model.name} is left out: it came without a masked-gene head (all zeros); name the "
            "pre-trained model that it was made from"
        )


def network_predictor(model: Model) -> Predict:
    """Load a model's network with its head; for a twin, draw both at random."""
    from cellscribe.model.checkpoint import load_checkpoint
    from cellscribe.model.device import DTYPES
    from cellscribe.model.encoder import initialise, set_compute_dtype

    embedder = model.embedder
    checkpoint = load_checkpoint(model.header.directory)
    network = checkpoint.model.eval()
    if model.random:
        initialise(network, seed=model.options.seed + 1)
    set_compute_dtype(network, DTYPES[embedder.precision], cast_weights=True)
    network.to(embedder.device)
    config = checkpoint.config
    around = checkpoint.vocabulary.around(config.cls_token, config.sep_token)
    n_special, threads = checkpoint.vocabulary.n_special, embedder.threads

    def predict(masked_cells: MaskedCells) -> Prediction:
        return predict_masked(network, masked_cells, around, n_special, threads=threads)

    return predict


def predict_masked(
    network: MaskedGeneModel,
    masked_cells: MaskedCells,
    around: tuple[tuple[int, ...], tuple[int, ...]],
    n_special: int,
    *,
    threads: int = 1,
) -> Prediction:
    """Predict masked genes by a network, in batches of cells of similar length.

    Parameters
    ----------
    network
        Encoder and head, on its device, with its compute dtype.
    masked_cells
        Cells without special tokens.
    around
        Special tokens before and after the genes of each cell, see `Vocabulary.around`.
    n_special
        First token that is a gene. The tokens before it take probability, as in training, but are
        not ranked.
    threads
        Number of workers on a CPU, each with one torch thread.
    """
    import torch

    from cellscribe.cells.batches import length_buckets
    from cellscribe.inference.cpu import CPU_TOKENS
    from cellscribe.inference.gpu import GPU_TOKENS

    device = network.bias.device
    on_gpu = device.type == "cuda"
    n_masked = len(masked_cells.chosen_M)
    losses, above, ties = (
        np.empty(n_masked),
        np.empty(n_masked, np.int64),
        np.empty(n_masked, np.int64),
    )
    weight_VD = network.encoder.genes.weight.to(network.transform.compute_dtype)
    most = max(1, (GPU_LOGITS if on_gpu else CPU_LOGITS) // len(weight_VD))
    lengths = masked_cells.ranked.lengths_B + len(around[0]) + len(around[1])

    @torch.inference_mode()
    def work(rows: Ints) -> None:
        hidden, places = _hidden(network, masked_cells, rows, around)
        for start in range(0, len(places), most):
            here = places[start : start + most]
            targets = torch.from_numpy(masked_cells.targets_M[here]).to(device)
            found = _place(network, weight_VD, hidden[start : start + most], targets, n_special)
            losses[here], above[here], ties[here] = (each.cpu().numpy() for each in found)

    buckets = length_buckets(lengths, GPU_TOKENS if on_gpu else CPU_TOKENS)
    # Torch keeps the number of its threads per thread.
    with ThreadPoolExecutor(
        1 if on_gpu else threads, initializer=torch.set_num_threads, initargs=(1,)
    ) as workers:
        list(workers.map(work, buckets))
    return Prediction(losses_M=losses, above_M=above, ties_M=ties)


def _hidden(
    network: MaskedGeneModel,
    masked_cells: MaskedCells,
    rows: Ints,
    around: tuple[tuple[int, ...], tuple[int, ...]],
) -> tuple[torch.Tensor, Ints]:
    """Compute the head's hidden vectors at the chosen places of some cells; return both."""
    import torch

    from cellscribe.model.pooling import Specials

    specials = Specials(*around)
    cells, chosen, places = [], [], []
    at = 0
    for row in rows:
        start, end = masked_cells.ranked.offsets[row : row + 2]
        here = np.arange(masked_cells.bounds[row], masked_cells.bounds[row + 1])
        cells.append(masked_cells.given_N[start:end])
        chosen.append(masked_cells.chosen_M[here] - start + at + len(specials.front))
        places.append(here)
        at += int(end - start) + specials.n
    device = network.bias.device
    hidden_ND = network.encoder(*specials.pack(cells, device))
    chosen_M = torch.from_numpy(np.concatenate(chosen)).to(device)
    return network.before_logits(hidden_ND[chosen_M]), np.concatenate(places)


def _place(
    network: MaskedGeneModel,
    weight_VD: torch.Tensor,
    hidden_CD: torch.Tensor,
    targets_C: torch.Tensor,
    n_special: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the loss of the true gene, and the genes above it and equal to it, ``[C]`` each."""
    import torch

    # float32 from here on: the bias is, and its sum with half-precision products is.
    scores_CV = hidden_CD.to(weight_VD.dtype) @ weight_VD.T + network.bias
    true_C1 = scores_CV.gather(1, targets_C[:, None])
    genes_CG = scores_CV[:, n_special:]
    above_C = (genes_CG > true_C1).sum(1, dtype=torch.int32)
    ties_C = (genes_CG >= true_C1).sum(1, dtype=torch.int32) - above_C
    # The same as `torch.logsumexp`, which takes three times as long on a CPU.
    top_C1 = scores_CV.amax(1, keepdim=True)
    total_C = scores_CV.sub_(top_C1).exp_().sum(1)
    return total_C.log() + (top_C1 - true_C1)[:, 0], above_C, ties_C
