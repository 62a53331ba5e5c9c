"""Layers of a model of any family trained together with a head of labels, by gradient.

The head begins as the logistic regression on the frozen encoder's vectors, so that the first steps
do not spoil features for a head that knows nothing (Kumar et al. 2022, arXiv:2202.10054). With
``genes_per_cell`` a step looks at a random subset of a cell's genes, with their true ranks: it
costs a fraction, and no cell is seen twice the same. What is measured, and kept, is measured on
whole cells. Training ends when
the loss on the cells of `stop` no longer falls.

Letters: ``B`` cells, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from cellscribe.annotation.calibration import log_loss
from cellscribe.annotation.linear import LinearHead
from cellscribe.callbacks import Progress
from cellscribe.cells.batches import length_buckets
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import FinetuneOptions
from cellscribe.errors import InputError
from cellscribe.families.base import CellModel, TrainedParts, copy_of
from cellscribe.model.encoder import set_compute_dtype

WARMUP = 0.1
"""Share of the steps in which the rate rises."""
CLIP = 1.0
TOKENS = 16_384
"""Cells of a batch without gradient."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


class CellClassifier(nn.Module):
    """A model of any family, the vector of a cell, a linear head on standardised vectors."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, model: CellModel, head: LinearHead) -> None:
        super().__init__()
        self.model, self.network = model, model.network
        self.head = nn.Linear(*head.weight.shape[::-1])
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(head.weight))
            # A class that is not among the cells is learnt to be rare soon enough.
            self.head.bias.copy_(torch.from_numpy(np.maximum(head.bias, -20.0)))
        self.register_buffer("mean", torch.from_numpy(head.mean).float())
        self.register_buffer("scale", torch.from_numpy(head.scale).float())

    def forward(
        self, cells: CellTokens, rows: Integers, places: list[Integers] | None = None
    ) -> torch.Tensor:
        """``[B, C]`` scores of some cells, see `CellModel.forward`."""
        vectors_BD = self.model.forward(cells, rows, places)
        logits_BC: torch.Tensor = self.head((vectors_BD - self.mean) / self.scale)
        return logits_BC

    def linear_head(self) -> LinearHead:
        """The head as it now is."""
        tensors = (self.head.weight, self.head.bias, self.mean, self.scale)
        weight, bias, mean, scale = (t.detach().cpu().double().numpy() for t in tensors)
        return LinearHead(weight=weight, bias=bias, mean=mean, scale=scale)


def check_trainable(model: CellModel, options: FinetuneOptions) -> None:
    """Refuse what a model cannot be trained with, before time is spent on it.

    Raises
    ------
    InputError
        More layers are wanted than the vector goes through, a part of each cell's genes of a model
        that reads all, or `peft` is not installed.
    """
    n_blocks = len(model.trained_parts().blocks)
    if options.mode == "last" and options.layers > n_blocks:
        raise InputError(
            f"--layers {options.layers}: the model has {n_blocks} that its vectors go through; ask "
            "for fewer, or train it whole with --mode all"
        )
    if options.genes_per_cell is not None and not model.reads_subsets:
        raise InputError("--genes-per-cell: this model reads all genes of a cell; leave it out")
    if options.mode == "lora":
        _peft()


def unfreeze(model: CellClassifier, options: FinetuneOptions) -> None:
    """Let the parameters of a mode, and the head, take gradients; adapters are put in here."""
    parts, network = model.model.trained_parts(), model.network
    network.requires_grad_(options.mode == "all")
    if options.mode == "last":
        for each in (*parts.blocks[-options.layers :], *parts.closing):
            each.requires_grad_(True)
    elif options.mode == "lora":
        add_adapters(parts, options.rank)
    for layer in parts.vector:
        layer.requires_grad_(True)
    for parameter in parts.fixed:
        parameter.requires_grad_(False)
    model.head.requires_grad_(True)


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise InputError(
            '--mode lora needs peft, which is not installed: pip install "cellscribe[finetune]"'
        ) from None
    return peft


def add_adapters(parts: TrainedParts, rank: int) -> None:
    """Put low-rank adapters (Hu et al. 2021, arXiv:2106.09685) next to the layers of each block."""
    peft = _peft()
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(parts.adapted))
    for block in parts.blocks:
        peft.inject_adapter_in_model(settings, block)


def merge_adapters(parts: TrainedParts) -> None:
    """Add the adapters to their weights, and remove them."""
    for block in parts.blocks:
        for name in parts.adapted:
            layer = getattr(block, name)
            if hasattr(layer, "get_base_layer"):
                layer.merge()
                setattr(block, name, layer.get_base_layer())


def draw_places(
    cells: CellTokens, rows: Integers, most: int, rng: np.random.Generator
) -> list[Integers]:
    """Draw the places of at most `most` tokens of each cell, ascending."""
    lengths = (int(cells.offsets[row + 1] - cells.offsets[row]) for row in rows)
    return [
        np.sort(rng.choice(n, most, replace=False)) if n > most else np.arange(n) for n in lengths
    ]


@torch.no_grad()
def predict(model: CellClassifier, cells: CellTokens, rows: Integers) -> npt.NDArray[np.float64]:
    """``[len(rows), C]`` scores of whole cells, none empty."""
    model.eval()
    logits = np.empty((len(rows), model.head.out_features))
    for some in length_buckets(model.model.places(cells)[rows], TOKENS):
        logits[some] = model(cells, rows[some]).double().cpu().numpy()
    return logits


@torch.no_grad()
def vectors_of(model: CellClassifier, cells: CellTokens, rows: Integers) -> npt.NDArray[np.float64]:
    """``[len(rows), D]`` vectors that the head reads, of whole cells, none empty."""
    model.eval()
    vectors = np.empty((len(rows), model.head.in_features))
    for some in length_buckets(model.model.places(cells)[rows], TOKENS):
        vectors[some] = model.model.forward(cells, rows[some], None).double().cpu().numpy()
    return vectors


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A trained classifier, its weights in `model`."""

    model: CellClassifier
    epochs: int
    """Passes that its weights have seen."""
    losses: list[float]
    """On the cells of `stop`, before the first pass and after each; empty without such cells."""


def tune(
    model: CellModel,
    head: LinearHead,
    cells: CellTokens,
    truth: Integers,
    learn: Integers,
    stop: Integers | None,
    options: FinetuneOptions,
    *,
    epochs: int,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
) -> Tuned:
    """Train a copy of a model together with a head.

    Parameters
    ----------
    model, head
        Where it begins; both stay as they are.
    cells, truth
        All cells and their classes.
    learn, stop
        Rows to learn from, and rows on whose loss the best pass is chosen; without, the last is.
    options
        Mode and recipe.
    epochs
        Most passes; the learning rate falls as if there were `options.epochs`.
    device, dtype
        Where, and in which type products are taken.
    progress
        Called with (cells done, cells in all).

    Raises
    ------
    InputError
        The loss is no longer finite, or `check_trainable` refuses.
    """
    check_trainable(model, options)
    torch.manual_seed(options.seed)
    classifier = CellClassifier(copy_of(model), head)
    unfreeze(classifier, options)
    classifier.to(device)
    set_compute_dtype(classifier, dtype)
    optimizer = _optimizer(classifier, options)
    per_epoch = math.ceil(len(learn) / options.batch_cells)
    losses = [] if stop is None else [_held_out(classifier, cells, truth, stop)]
    best, kept, done = 0, _trained(classifier), 0
    for epoch in range(1, epochs + 1):
        rng = np.random.default_rng([options.seed, epoch])
        classifier.train()
        for place, rows in enumerate(np.array_split(rng.permutation(learn), per_epoch)):
            rate = _rate((epoch - 1) * per_epoch + place + 1, options.epochs * per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = options.peak_rate * rate
            most = options.genes_per_cell
            places = None if most is None else draw_places(cells, rows, most, rng)
            logits_BC = classifier(cells, rows, places)
            loss = F.cross_entropy(logits_BC, torch.from_numpy(truth[rows]).to(device))
            _step(classifier, optimizer, loss)
            done += len(rows)
            if progress is not None:
                progress(done, epochs * len(learn))
        if stop is not None:
            losses.append(_held_out(classifier, cells, truth, stop))
        if stop is None or losses[-1] < losses[best]:
            best, kept = epoch, _trained(classifier)
        elif epoch - best >= options.patience:
            break
    classifier.load_state_dict(kept, strict=False)
    return Tuned(model=classifier.eval(), epochs=best, losses=losses)


def _step(model: CellClassifier, optimizer: Any, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    if not bool(torch.isfinite(norm)):
        raise InputError("the loss is no longer finite; give a lower --learning-rate")
    optimizer.step()


def _optimizer(model: CellClassifier, options: FinetuneOptions) -> torch.optim.AdamW:
    """AdamW; weights of linear layers decay, all others do not."""
    linear = {id(each.weight) for each in model.modules() if isinstance(each, nn.Linear)}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if (id(p) in linear) == decays], "weight_decay": decay}
        for decays, decay in ((True, options.weight_decay), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=options.peak_rate)


def _rate(step: int, steps: int) -> float:
    """Share of the peak: a linear rise, then a linear fall that would end after the last step."""
    rise = max(1, round(WARMUP * steps))
    return step / rise if step <= rise else (steps + 1 - step) / (steps + 1 - rise)


def _trained(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _held_out(model: CellClassifier, cells: CellTokens, truth: Integers, rows: Integers) -> float:
    return log_loss(predict(model, cells, rows), truth[rows])
