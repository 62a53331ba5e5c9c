"""Layers of a model of any family trained together with the heads that read it, by gradient.

A head begins as the regression on the frozen encoder's vectors, so that the first steps
do not spoil features for a head that knows nothing (Kumar et al. 2022, arXiv:2202.10054). With
``genes_per_cell`` a step looks at a random subset of a cell's genes, with their true ranks: it
costs a fraction, and no cell is seen twice the same. What is measured, and kept, is measured on
whole cells. Training ends when
the loss on the cells of `stop` no longer falls.

Letters: ``B`` cells, ``C`` outputs of a head, ``D`` width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cellscribe.annotation.linear import LinearHead
from cellscribe.annotation.targets import Target
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


class StandardHead(nn.Module):
    """A linear head on standardised vectors."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self.linear = nn.Linear(*head.weight.shape[::-1])
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(head.weight))
            # A class that is not among the cells is learnt to be rare soon enough.
            self.linear.bias.copy_(torch.from_numpy(np.maximum(head.bias, -20.0)))
        self.register_buffer("mean", torch.from_numpy(head.mean).float())
        self.register_buffer("scale", torch.from_numpy(head.scale).float())

    def forward(self, vectors_BD: torch.Tensor) -> torch.Tensor:
        """``[B, C]`` outputs."""
        outputs_BC: torch.Tensor = self.linear((vectors_BD - self.mean) / self.scale)
        return outputs_BC

    def linear_head(self) -> LinearHead:
        """The head as it now is."""
        tensors = (self.linear.weight, self.linear.bias, self.mean, self.scale)
        weight, bias, mean, scale = (t.detach().cpu().double().numpy() for t in tensors)
        return LinearHead(weight=weight, bias=bias, mean=mean, scale=scale)


class CellClassifier(nn.Module):
    """A model of any family, the vector of a cell, and a linear head for each target."""

    def __init__(self, model: CellModel, heads: Sequence[LinearHead]) -> None:
        super().__init__()
        self.model, self.network = model, model.network
        self.heads = nn.ModuleList(StandardHead(head) for head in heads)

    def forward(
        self, cells: CellTokens, rows: Integers, places: list[Integers] | None = None
    ) -> list[torch.Tensor]:
        """``[B, C]`` outputs of each head for some cells, see `CellModel.forward`."""
        vectors_BD = self.model.forward(cells, rows, places)
        return [head(vectors_BD) for head in self.heads]

    def linear_heads(self) -> list[LinearHead]:
        """The heads as they now are."""
        heads = (head for head in self.heads if isinstance(head, StandardHead))
        return [head.linear_head() for head in heads]


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
    model.heads.requires_grad_(True)


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
def read_cells(
    model: CellClassifier, cells: CellTokens, rows: Integers
) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.float64]]]:
    """Vectors ``[len(rows), D]`` of whole cells, none empty, and ``[len(rows), C]`` of each head.

    The vectors are those that the heads read.
    """
    model.eval()
    vectors = np.empty((len(rows), model.model.width))
    outputs = [np.empty((len(rows), len(each.bias))) for each in model.linear_heads()]
    for some in length_buckets(model.model.places(cells)[rows], TOKENS):
        vectors_BD = model.model.forward(cells, rows[some], None)
        vectors[some] = vectors_BD.double().cpu().numpy()
        for each, head in zip(outputs, model.heads, strict=True):
            each[some] = head(vectors_BD).double().cpu().numpy()
    return vectors, outputs


def predict(
    model: CellClassifier, cells: CellTokens, rows: Integers
) -> list[npt.NDArray[np.float64]]:
    """``[len(rows), C]`` outputs of each head for whole cells, none empty."""
    return read_cells(model, cells, rows)[1]


def vectors_of(model: CellClassifier, cells: CellTokens, rows: Integers) -> npt.NDArray[np.float64]:
    """``[len(rows), D]`` vectors that the heads read, of whole cells, none empty."""
    return read_cells(model, cells, rows)[0]


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
    heads: Sequence[LinearHead],
    cells: CellTokens,
    targets: Sequence[Target],
    learn: Integers,
    stop: Integers | None,
    options: FinetuneOptions,
    *,
    epochs: int,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
) -> Tuned:
    """Train a copy of a model together with a head for each target.

    Parameters
    ----------
    model, heads
        Where it begins; all stay as they are.
    cells, targets
        All cells, and what each head learns of them.
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
    classifier = CellClassifier(copy_of(model), heads)
    unfreeze(classifier, options)
    classifier.to(device)
    set_compute_dtype(classifier, dtype)
    optimizer = _optimizer(classifier, options)
    per_epoch = math.ceil(len(learn) / options.batch_cells)
    shares = [float(target.known[learn].mean()) for target in targets]
    losses = [] if stop is None else [_held_out(classifier, cells, targets, stop)]
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
            _step(
                classifier,
                optimizer,
                loss_of(classifier(cells, rows, places), targets, rows, shares),
            )
            done += len(rows)
            if progress is not None:
                progress(done, epochs * len(learn))
        if stop is not None:
            losses.append(_held_out(classifier, cells, targets, stop))
        if stop is None or losses[-1] < losses[best]:
            best, kept = epoch, _trained(classifier)
        elif epoch - best >= options.patience:
            break
    classifier.load_state_dict(kept, strict=False)
    return Tuned(model=classifier.eval(), epochs=best, losses=losses)


def loss_of(
    outputs: Sequence[torch.Tensor],
    targets: Sequence[Target],
    rows: Integers,
    shares: Sequence[float],
) -> torch.Tensor:
    """Weighted mean of the targets' losses over the cells of a batch.

    Parameters
    ----------
    outputs
        ``[B, C]`` of each head.
    targets, rows
        What the heads learn, and which cells these are.
    shares
        Share of all learnt cells that each target knows: the loss of a batch is as if it had so
        many known cells.
    """
    whole = sum(target.weight for target in targets)
    total = outputs[0].new_zeros(())
    for output_BC, target, share in zip(outputs, targets, shares, strict=True):
        known = target.known[rows]
        if not known.any():
            continue
        of_all = bool(known.all())
        loss = target.loss(output_BC if of_all else output_BC[torch.from_numpy(known)], rows[known])
        total = total + loss * (target.weight / whole * float(known.mean()) / share)
    return total


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


def _held_out(
    model: CellClassifier, cells: CellTokens, targets: Sequence[Target], rows: Integers
) -> float:
    """Weighted mean of the targets' losses on held-out cells, of those that know any of them."""
    total = whole = 0.0
    for each, target in zip(predict(model, cells, rows), targets, strict=True):
        known = target.known[rows]
        if known.any():
            total += target.weight * target.held_out_loss(each[known], rows[known])
            whole += target.weight
    return total / whole
