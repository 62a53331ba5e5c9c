"""Attention of packed cells on a CPU, for training: with gradients and dropout of the weights.

No pass keeps anything of L x L: the forward pass keeps the log-sum-exp of each query, from which
the backward pass computes the weights again (Dao 2023, arXiv:2307.08691). Dropout draws come from
a hash of the place of a weight, so both passes agree, whatever the number of threads. On processors
with bf16 products `cpu_kernels` does the work; float32, and other machines, use plain torch
products, cell by cell, with the same draws.

Letters: N tokens of all cells, H heads, K width of a head, L tokens of a cell, P pairs of keys.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from cellscribe.errors import InputError
from cellscribe.model.attention_cpu import (
    Offsets,
    as_pairs,
    attend_bf16,
    check,
    exponent_scale,
    on_threads,
    takes_kernel,
)
from cellscribe.model.cpu_kernels import gradient_items


def attend(
    q_NHK: torch.Tensor,
    k_NHK: torch.Tensor,
    v_NHK: torch.Tensor,
    offsets: torch.Tensor | Offsets,
    dropout: float,
    seed: int,
) -> torch.Tensor:
    """Let every token attend to all tokens of its own cell, differentiably.

    It runs on ``torch.get_num_threads()`` threads, which change nothing in the result. Which
    weights are dropped depends on `seed`, the query's place among all N tokens, the head, and the
    key's place in its cell; see `dropout_mask`. Kept weights are divided by their true
    probability, which is `dropout`'s to 1/65,536.

    Parameters
    ----------
    q_NHK, k_NHK, v_NHK
        Queries, keys and values of all cells, one after the other; bf16 or float32. Slices of one
        fused product are fine.
    offsets
        ``B + 1`` rising integers: cell ``b`` owns the tokens ``offsets[b]:offsets[b + 1]``.
    dropout
        Probability with which a weight is dropped, from 0 to below 1; with 0 nothing is drawn.
    seed
        Start of the draws; it counts modulo 2^32.

    Returns
    -------
    torch.Tensor
        ``[N, H, K]`` in the type of the input.

    Raises
    ------
    InputError
        The inputs differ in shape or type, the offsets do not divide the tokens, or `dropout` is
        not a probability below 1.
    """
    bounds, threshold = check(q_NHK, k_NHK, v_NHK, offsets), _threshold(dropout)
    if takes_kernel(q_NHK):
        out_NHK: torch.Tensor = _Attention.apply(q_NHK, k_NHK, v_NHK, bounds, seed, threshold)
        return out_NHK
    return _attend_torch(q_NHK, k_NHK, v_NHK, bounds, dropout, seed)


def dropout_mask(start: int, length: int, heads: int, dropout: float, seed: int) -> torch.Tensor:
    """Find the weights of a cell that `attend` keeps.

    Two hashes of a query's place, its head and the seed start a row; a third one, with the number
    of a pair of keys, gives 16 bits to each key of the pair. A weight is kept if its bits are no
    less than ``round(dropout * 65536)``.

    Parameters
    ----------
    start
        Place of the cell's first token among all tokens of the batch.
    length
        Tokens of the cell.

    Returns
    -------
    torch.Tensor
        ``[H, L, L]`` bool: head, query, key.
    """
    place_L1, head_H = np.arange(start, start + length)[:, None], np.arange(heads)
    counter_HL = (place_L1 * heads + head_H).T.astype(np.uint32)
    row_HL = _mix(_mix(counter_HL) ^ _mix(np.array([seed % 2**32], np.uint32)))
    draws_HLP = _mix(row_HL[..., None] ^ np.arange((length + 1) // 2, dtype=np.uint32))
    bits_HLL = draws_HLP.astype("<u4").view("<u2")[..., :length]  # the lower half comes first
    return torch.from_numpy(bits_HLL >= _threshold(dropout))


def _mix(x: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Hash as `cpu_kernels` does."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x


def _threshold(dropout: float) -> int:
    threshold = round(dropout * 65536) if 0 <= dropout < 1 else 65536
    if threshold == 65536:
        raise InputError(f"dropout of {dropout} leaves no weight; set it from 0 to below 1")
    return threshold


class _Attention(torch.autograd.Function):
    """The bf16 kernels, forward and back."""

    @staticmethod
    def forward(
        ctx: Any,
        q_NHK: torch.Tensor,
        k_NHK: torch.Tensor,
        v_NHK: torch.Tensor,
        offsets: Offsets,
        seed: int,
        threshold: int,
    ) -> torch.Tensor:
        out_NHK, lse_NH = attend_bf16(q_NHK, k_NHK, v_NHK, offsets, seed, threshold)
        ctx.save_for_backward(q_NHK, k_NHK, v_NHK, out_NHK, lse_NH)
        ctx.draws = offsets, seed, threshold
        return out_NHK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_NHK: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *tensors, lse_NH = ctx.saved_tensors
        offsets, seed, threshold = ctx.draws
        grads = [torch.empty(dout_NHK.shape, dtype=dout_NHK.dtype) for _ in range(3)]
        dout, dq, dk, dv = (as_pairs(x_NHK) for x_NHK in (dout_NHK, *grads))
        on_threads(
            gradient_items,
            offsets,
            dout_NHK.shape[1],
            tuple(as_pairs(x_NHK) for x_NHK in tensors),
            lse_NH.numpy(),
            (dout, dq, dk.view(np.uint16), dv.view(np.uint16)),
            exponent_scale(dout_NHK),
            np.uint32(seed % 2**32),
            np.uint32(threshold << 16),
        )
        return *grads, None, None, None


def _attend_torch(
    q_NHK: torch.Tensor,
    k_NHK: torch.Tensor,
    v_NHK: torch.Tensor,
    offsets: Offsets,
    dropout: float,
    seed: int,
) -> torch.Tensor:
    gain = 65536 / (65536 - _threshold(dropout))
    parts = [q_NHK[:0]]
    for start, end in pairwise(offsets.tolist()):
        q, k, v = (x_NHK[start:end].transpose(0, 1) for x_NHK in (q_NHK, k_NHK, v_NHK))
        if gain == 1:
            out_HLK = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        else:
            scores_HLL = q @ k.transpose(1, 2) / q.shape[2] ** 0.5
            kept_HLL = dropout_mask(start, end - start, q.shape[0], dropout, seed)
            precise = torch.promote_types(q.dtype, torch.float32)
            weights_HLL = scores_HLL.softmax(dim=-1, dtype=precise) * kept_HLL * gain
            out_HLK = weights_HLL.to(v.dtype) @ v
        parts.append(out_HLK.transpose(0, 1))
    return torch.cat(parts)
