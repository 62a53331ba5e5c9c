"""Layers of an encoder trained together with a head of labels, by gradient.

The head begins as the logistic regression on the frozen encoder's vectors, so that the first steps
do not spoil features for a head that knows nothing (Kumar et al. 2022, arXiv:2202.10054). A step
looks at a random subset of a cell's genes with their true ranks: it costs a fraction, and no cell
is seen twice the same. What is measured, and kept, is measured on whole cells. Training ends when
the loss on the cells of `stop` no longer falls.

Letters: ``B`` cells, ``N`` packed tokens, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

import copy
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
from cellscribe.cells.gene_names.vocabulary import CLS
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import FinetuneOptions, Pooling
from cellscribe.errors import InputError
from cellscribe.model.attention import Lengths
from cellscribe.model.encoder import Encoder, set_compute_dtype
from cellscribe.model.pooling import Specials
from cellscribe.training.optimizer import decay_groups

ADAPTED = ("qkv", "attention_out", "up", "down")
"""Layers of a block that get an adapter."""
WARMUP = 0.1
"""Share of the steps in which the rate rises."""
CLIP = 1.0
TOKENS = 16_384
"""Cells of a batch without gradient."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


class CellClassifier(nn.Module):
    """Encoder, vector of the cell, linear head on standardised vectors."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, encoder: Encoder, head: LinearHead) -> None:
        super().__init__()
        self.encoder = encoder
        # of a model that we trained: others are refused before
        self.pool = Pooling.default(encoder.config).pool
        self.specials = Specials((CLS,) if encoder.config.cls_token else ())
        self.head = nn.Linear(*head.weight.shape[::-1])
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(head.weight))
            # A class that is not among the cells is learnt to be rare soon enough.
            self.head.bias.copy_(torch.from_numpy(np.maximum(head.bias, -20.0)))
        self.register_buffer("mean", torch.from_numpy(head.mean).float())
        self.register_buffer("scale", torch.from_numpy(head.scale).float())

    def vectors(
        self, tokens_N: torch.Tensor, cells: Lengths, ranks_N: torch.Tensor
    ) -> torch.Tensor:
        """``[B, D]`` as `embed` gives them."""
        hidden_ND = self.encoder(tokens_N, cells, ranks_N)
        return self.encoder.cell_vectors(
            tokens_N, hidden_ND, cells, self.specials, self.pool, ranks_N
        )

    def forward(
        self, tokens_N: torch.Tensor, cells: Lengths, ranks_N: torch.Tensor
    ) -> torch.Tensor:
        """``[B, C]`` scores of packed cells."""
        vectors_BD = self.vectors(tokens_N, cells, ranks_N)
        logits_BC: torch.Tensor = self.head((vectors_BD - self.mean) / self.scale)
        return logits_BC

    def linear_head(self) -> LinearHead:
        """The head as it now is."""
        tensors = (self.head.weight, self.head.bias, self.mean, self.scale)
        weight, bias, mean, scale = (t.detach().cpu().double().numpy() for t in tensors)
        return LinearHead(weight=weight, bias=bias, mean=mean, scale=scale)


def unfreeze(model: CellClassifier, options: FinetuneOptions) -> None:
    """Let the parameters of a mode, and the head, take gradients; adapters are put in here.

    Raises
    ------
    InputError
        More layers are wanted than there are, or `peft` is not installed.
    """
    encoder = model.encoder
    if options.mode == "last" and options.layers > len(encoder.blocks):
        raise InputError(
            f"--layers {options.layers}: the model has {len(encoder.blocks)}; ask for fewer, or "
            "train it whole with --mode all"
        )
    encoder.requires_grad_(options.mode == "all")
    if options.mode == "last":
        for block in encoder.blocks[-options.layers :]:
            block.requires_grad_(True)
        if encoder.config.norm == "pre":
            encoder.norm.requires_grad_(True)
    elif options.mode == "lora":
        add_adapters(encoder, options.rank)
    model.head.requires_grad_(True)


def add_adapters(encoder: Encoder, rank: int) -> None:
    """Put low-rank adapters (Hu et al. 2021, arXiv:2106.09685) next to the layers of each block."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError(
            '--mode lora needs peft, which is not installed: pip install "cellscribe[finetune]"'
        ) from None
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(ADAPTED))
    inject_adapter_in_model(settings, encoder)


def merge_adapters(encoder: Encoder) -> None:
    """Add the adapters to their weights, and remove them."""
    for block in encoder.blocks:
        for name in ADAPTED:
            layer = getattr(block, name)
            if hasattr(layer, "get_base_layer"):
                layer.merge()
                setattr(block, name, layer.get_base_layer())


@dataclass(frozen=True)
class Packed:
    """Cells one after the other, ready for the network."""

    tokens_N: torch.Tensor
    cells: Lengths
    ranks_N: torch.Tensor


def pack(
    ranked: CellTokens,
    rows: Integers,
    front: int,
    device: torch.device,
    most: int | None = None,
    rng: np.random.Generator | None = None,
) -> Packed:
    """Put cells one after the other, whole, or at most `most` genes of each drawn by `rng`."""
    tokens, ranks, lengths = [], [], []
    for row in rows:
        genes = ranked.tokens[ranked.offsets[row] : ranked.offsets[row + 1]].astype(np.int64)
        places = np.arange(len(genes))
        if rng is not None and most is not None and len(genes) > most:
            places = np.sort(rng.choice(len(genes), most, replace=False))
        tokens += [np.full(front, CLS, np.int64), genes[places]]
        ranks += [np.arange(front), places + front]
        lengths.append(front + len(places))
    return Packed(
        tokens_N=torch.from_numpy(np.concatenate(tokens)).to(device),
        cells=Lengths(tuple(lengths), device),
        ranks_N=torch.from_numpy(np.concatenate(ranks)).to(device),
    )


@torch.no_grad()
def predict(
    model: CellClassifier, ranked: CellTokens, rows: Integers, device: torch.device
) -> npt.NDArray[np.float64]:
    """``[len(rows), C]`` scores of whole cells, none empty."""
    model.eval()
    logits = np.empty((len(rows), model.head.out_features))
    for some in length_buckets(ranked.lengths[rows] + model.specials.n, TOKENS):
        batch = pack(ranked, rows[some], model.specials.n, device)
        scores_BC = model(batch.tokens_N, batch.cells, batch.ranks_N)
        logits[some] = scores_BC.double().cpu().numpy()
    return logits


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A trained classifier, its weights in `model`."""

    model: CellClassifier
    epochs: int
    """Passes that its weights have seen."""
    losses: list[float]
    """On the cells of `stop`, before the first pass and after each; empty without such cells."""


def tune(
    encoder: Encoder,
    head: LinearHead,
    ranked: CellTokens,
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
    """Train a copy of an encoder together with a head.

    Parameters
    ----------
    encoder, head
        Where it begins; both stay as they are.
    ranked, truth
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
        The loss is no longer finite, or `unfreeze` refuses.
    """
    torch.manual_seed(options.seed)
    model = CellClassifier(copy.deepcopy(encoder), head)
    unfreeze(model, options)
    model.to(device)
    set_compute_dtype(model, dtype)
    optimizer = _optimizer(model, options)
    per_epoch = math.ceil(len(learn) / options.batch_cells)
    losses = [] if stop is None else [_held_out(model, ranked, truth, stop, device)]
    best, kept, done = 0, _trained(model), 0
    for epoch in range(1, epochs + 1):
        rng = np.random.default_rng([options.seed, epoch])
        model.train()
        for place, rows in enumerate(np.array_split(rng.permutation(learn), per_epoch)):
            rate = _rate((epoch - 1) * per_epoch + place + 1, options.epochs * per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = options.peak_rate * rate
            batch = pack(ranked, rows, model.specials.n, device, options.genes_per_cell, rng)
            _step(model, optimizer, batch, torch.from_numpy(truth[rows]).to(device))
            done += len(rows)
            if progress is not None:
                progress(done, epochs * len(learn))
        if stop is not None:
            losses.append(_held_out(model, ranked, truth, stop, device))
        if stop is None or losses[-1] < losses[best]:
            best, kept = epoch, _trained(model)
        elif epoch - best >= options.patience:
            break
    model.load_state_dict(kept, strict=False)
    return Tuned(model=model.eval(), epochs=best, losses=losses)


def _step(model: CellClassifier, optimizer: Any, batch: Packed, truth_B: torch.Tensor) -> None:
    loss = F.cross_entropy(model(batch.tokens_N, batch.cells, batch.ranks_N), truth_B)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    if not bool(torch.isfinite(norm)):
        raise InputError("the loss is no longer finite; give a lower --learning-rate")
    optimizer.step()


def _optimizer(model: CellClassifier, options: FinetuneOptions) -> torch.optim.AdamW:
    return torch.optim.AdamW(decay_groups(model, options.weight_decay), lr=options.peak_rate)


def _rate(step: int, steps: int) -> float:
    """Share of the peak: a linear rise, then a linear fall that would end after the last step."""
    rise = max(1, round(WARMUP * steps))
    return step / rise if step <= rise else (steps + 1 - step) / (steps + 1 - rise)


def _trained(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _held_out(
    model: CellClassifier,
    ranked: CellTokens,
    truth: Integers,
    rows: Integers,
    device: torch.device,
) -> float:
    return log_loss(predict(model, ranked, rows, device), truth[rows])
