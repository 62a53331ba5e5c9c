"""The peer of training: `transformers.BertForMaskedLM`, as a careful user trains it.

Padded batches, ``labels`` (so logits at every place), autocast, torch's fused attention, fused
AdamW, clipping, the learning rate of our schedule. Batches are those of `training.batches`, brought
into its layout before the clock starts, so reading and masking cost it nothing. Its loss is the
mean over all chosen places, ours that over cells of their means; the work is the same.

Letters: ``B`` cells, ``L`` tokens of the longest, ``N`` packed tokens, ``M`` chosen places.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from cellscribe.cells.gene_names.vocabulary import PAD
from cellscribe.errors import InputError
from cellscribe.model.device import DTYPES
from cellscribe.model.encoder import training_flop
from cellscribe.training.batches import StepBatches
from cellscribe.training.masking import MaskedBatch
from cellscribe.training.optimizer import learning_rate
from cellscribe.training.plan import TrainPlan

if TYPE_CHECKING:
    from transformers import BertForMaskedLM

IGNORED = -100
"""Label of a place that takes no part in the loss, as in torch and `transformers`."""
ATTENTION = "sdpa"
PRECISIONS = ("float32", "bf16")
Losses = dict[str, list[float]]
"""By precision, the losses at the places of the first batch, in order."""
Turn = Callable[[int], dict[str, Any]]
"""Takes so many steps; returns ``seconds``, and ``cells``, ``tokens``, ``flop`` and ``loss``."""


class Padded(NamedTuple):
    """A masked batch as `BertForMaskedLM` takes it, all ``[B, L]`` int64."""

    tokens: torch.Tensor
    mask: torch.Tensor
    """1 where there is a token, 0 where there is padding."""
    labels: torch.Tensor
    positions: torch.Tensor | None
    """None where each cell shows its first genes, which is what BERT takes by itself."""

    def to(self, device: torch.device) -> Padded:
        """Copy to a device, without waiting for it."""
        if device.type == "cpu":
            return self
        copies = (x if x is None else x.pin_memory().to(device, non_blocking=True) for x in self)
        return Padded(*copies)  # type: ignore[arg-type]


def padded_batch(batch: MaskedBatch) -> Padded:
    """Lay packed cells out in rows; nothing is dropped or changed."""
    lengths_B = torch.tensor(batch.cells.lengths)
    place_L = torch.arange(batch.cells.longest)
    there_BL = place_L < lengths_B[:, None]
    labels_N = torch.full_like(batch.tokens_N, IGNORED)
    labels_N[batch.chosen_M] = batch.targets_M

    def rows(values_N: torch.Tensor, padding: int) -> torch.Tensor:
        values_BL = torch.full(there_BL.shape, padding)
        values_BL[there_BL] = values_N
        return values_BL

    plain_N = place_L.expand_as(there_BL)[there_BL]
    return Padded(
        tokens=rows(batch.tokens_N, PAD),
        mask=there_BL.long(),
        labels=rows(labels_N, IGNORED),
        positions=None if torch.equal(plain_N, batch.positions_N) else rows(batch.positions_N, 0),
    )


def load_peer(checkpoint: Path, device: torch.device) -> BertForMaskedLM:
    """Read our checkpoint directory as the peer, float32, with torch's fused attention.

    Raises
    ------
    InputError
        The network is none that BERT can be.
    """
    from transformers import BertForMaskedLM

    from cellscribe.model.metadata import read_header

    if read_header(checkpoint).config.norm != "post":
        raise InputError(
            'BertForMaskedLM has its norms after each sum; take a preset with norm = "post"'
        )
    bert = BertForMaskedLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation=ATTENTION
    )
    # Module.to by name: the library's own wrapper hides its signature from type checkers.
    torch.nn.Module.to(bert, device)
    return bert


def peer_side(
    planned: TrainPlan, checkpoint: Path, batches: Iterator[StepBatches]
) -> tuple[Losses, Turn]:
    """Make the peer ready; returns its `first_losses` by precision and what takes steps."""
    options, device = planned.options, planned.device
    bert = load_peer(checkpoint, device)
    optimizer = torch.optim.AdamW(
        bert.parameters(),
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.epsilon,
        weight_decay=options.weight_decay,
        fused=True,
    )
    taken = 0

    def turn(steps: int) -> dict[str, Any]:
        nonlocal taken
        micro = [micro for _ in range(steps) for micro in next(batches).micro]
        ready = [padded_batch(batch) for batch in micro]
        bert.train()
        losses = []
        wait_for(device)
        began = time.perf_counter()
        for batch in ready:
            taken += 1
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(taken, options)
            optimizer.zero_grad(set_to_none=True)
            loss = run_peer(bert, batch.to(device), planned.dtype).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bert.parameters(), options.clip)
            optimizer.step()
            losses.append(float(loss.detach()))
        wait_for(device)
        return {
            "seconds": time.perf_counter() - began,
            "cells": sum(len(batch.cells.lengths) for batch in micro),
            "tokens": sum(len(batch.tokens_N) for batch in micro),
            "places": sum(batch.tokens.numel() for batch in ready),
            "flop": sum(
                training_flop(planned.config, batch.cells.lengths, len(batch.chosen_M))
                for batch in micro
            ),
            "losses": losses,
        }

    padded = padded_batch(next(batches).micro[0]).to(device)
    losses = {
        name: first_losses(bert, padded, dtype) for name, dtype in compared(planned.dtype).items()
    }
    return losses, turn


def run_peer(bert: BertForMaskedLM, batch: Padded, dtype: torch.dtype) -> Any:
    """One forward pass, products in `dtype`."""
    with torch.autocast(batch.tokens.device.type, dtype, enabled=dtype != torch.float32):
        return bert(
            input_ids=batch.tokens,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            labels=batch.labels,
        )


def first_losses(bert: BertForMaskedLM, padded: Padded, dtype: torch.dtype) -> list[float]:
    """``[M]`` cross-entropies without dropout, before any step, in the order of our places."""
    bert.eval()
    logits_BLV = run_peer(bert, padded, dtype).logits
    masked_BL = padded.labels != IGNORED
    logits_MV, labels_M = logits_BLV[masked_BL].float(), padded.labels[masked_BL]
    losses: list[float] = F.cross_entropy(logits_MV, labels_M, reduction="none").tolist()
    return losses


def compared(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Precisions in which first losses are compared: float32, which is sharp, and what is timed."""
    return {name: DTYPES[name] for name in PRECISIONS if DTYPES[name] in (torch.float32, dtype)}


def wait_for(device: torch.device) -> None:
    """Let a GPU come to the end of what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
