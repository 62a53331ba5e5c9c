"""Attention of packed cells on a CPU, for inference (no gradient).

On processors with bf16 products `cpu_kernels` does the work, one (cell, head) after the other on
each thread. Other machines, and float32, use torch's own attention, cell by cell.

Letters: N tokens of all cells, B cells, H heads, K width of a head, P pairs of bf16 in one uint32.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from llvmlite import binding

from cellscribe.errors import InputError
from cellscribe.model.cpu_kernels import KEYS, LANES, ROWS, attend_items

__all__ = ["KEYS", "LANES", "ROWS", "attend", "has_bf16_kernel"]

Offsets = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.uint32]


def attend(
    q_NHK: torch.Tensor, k_NHK: torch.Tensor, v_NHK: torch.Tensor, offsets: torch.Tensor | Offsets
) -> torch.Tensor:
    """Let every token attend to all tokens of its own cell: softmax(q k^T / sqrt(K)) v.

    It runs on ``torch.get_num_threads()`` threads and takes no gradient.

    Parameters
    ----------
    q_NHK, k_NHK, v_NHK
        Queries, keys and values of all cells, one after the other; bf16 or float32. Slices of one
        fused product are fine.
    offsets
        ``B + 1`` rising integers: cell ``b`` owns the tokens ``offsets[b]:offsets[b + 1]``.

    Returns
    -------
    torch.Tensor
        ``[N, H, K]``, contiguous, in the type of the input; no cell depends on another.

    Raises
    ------
    InputError
        The inputs differ in shape or type, or the offsets do not divide the tokens.
    """
    bounds = check(q_NHK, k_NHK, v_NHK, offsets)
    if takes_kernel(q_NHK):
        return attend_bf16(q_NHK, k_NHK, v_NHK, bounds)[0]
    return _attend_torch(q_NHK, k_NHK, v_NHK, bounds)


def check(
    q_NHK: torch.Tensor, k_NHK: torch.Tensor, v_NHK: torch.Tensor, offsets: torch.Tensor | Offsets
) -> Offsets:
    """Refuse what is not a packed batch; return the offsets as an array."""
    bounds = np.ascontiguousarray(offsets, dtype=np.int64)
    if len({(x.shape, x.dtype) for x in (q_NHK, k_NHK, v_NHK)}) > 1:
        raise InputError(
            "queries, keys and values differ in shape or type; cut them from one product"
        )
    if bounds[0] != 0 or bounds[-1] != len(q_NHK) or (np.diff(bounds) < 0).any():
        raise InputError(f"offsets must rise from 0 to the {len(q_NHK):,} tokens of the batch")
    return bounds


def takes_kernel(q_NHK: torch.Tensor) -> bool:
    """Whether the bf16 kernel can work on this tensor on this machine."""
    return q_NHK.dtype == torch.bfloat16 and q_NHK.shape[2] % ROWS == 0 and has_bf16_kernel()


@cache
def has_bf16_kernel() -> bool:
    """Whether this CPU has the bf16 dot product and numba may compile for it."""
    user: Any = numba.config
    other_target = user.DISABLE_JIT or user.CPU_NAME or user.CPU_FEATURES
    return not other_target and bool(binding.get_host_cpu_features().get("avx512bf16", False))


def _attend_torch(
    q_NHK: torch.Tensor, k_NHK: torch.Tensor, v_NHK: torch.Tensor, offsets: Offsets
) -> torch.Tensor:
    out_NHK = torch.empty(q_NHK.shape, dtype=q_NHK.dtype)
    for start, end in pairwise(offsets.tolist()):
        q, k, v = (x_NHK[start:end].transpose(0, 1)[None] for x_NHK in (q_NHK, k_NHK, v_NHK))
        out_NHK[start:end] = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)
    return out_NHK


def attend_bf16(
    q_NHK: torch.Tensor,
    k_NHK: torch.Tensor,
    v_NHK: torch.Tensor,
    offsets: Offsets,
    seed: int = 0,
    threshold: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the kernel; also give log2 of each query's sum of weights, ``[N, H]`` float32.

    A weight is dropped if its draw, one of 65,536, is below `threshold`.
    """
    out_NHK = torch.empty(q_NHK.shape, dtype=torch.bfloat16)
    lse_NH = torch.empty(q_NHK.shape[:2], dtype=torch.float32)
    on_threads(
        attend_items,
        offsets,
        q_NHK.shape[1],
        tuple(as_pairs(x_NHK) for x_NHK in (q_NHK, k_NHK, v_NHK, out_NHK)),
        lse_NH.numpy(),
        exponent_scale(q_NHK),
        np.uint32(seed % 2**32),
        np.uint32(threshold << 16),
    )
    return out_NHK, lse_NH


def exponent_scale(q_NHK: torch.Tensor) -> np.float32:
    """Factor from a product of query and key to its exponent, to the base 2 of the kernels."""
    return np.float32(np.log2(np.e) / q_NHK.shape[2] ** 0.5)


def on_threads(kernel: Callable[..., None], offsets: Offsets, heads: int, *arguments: Any) -> None:
    """Call ``kernel(work, offsets, *arguments)`` on each thread with its share of (cell, head).

    No share is empty, and the first cell of each is its longest.
    """
    # long cells first, dealt in turn: every thread gets about the same work
    cells = np.argsort(-np.diff(offsets), kind="stable").repeat(heads)
    work = np.stack([cells, np.arange(len(cells)) % heads], axis=1)
    threads = min(torch.get_num_threads(), len(work))
    if threads == 0:
        return
    if threads == 1:
        kernel(work, offsets, *arguments)
        return
    shares = [np.ascontiguousarray(work[thread::threads]) for thread in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda share: kernel(share, offsets, *arguments), shares))


def as_pairs(x_NHK: torch.Tensor) -> Pairs:
    """View bf16 as pairs, ``[N, H, P]``; only a layout that splits pairs is copied."""
    x_NHK = x_NHK.detach()
    strides = x_NHK.stride()
    if strides[2] != 1 or strides[0] % 2 or strides[1] % 2 or x_NHK.storage_offset() % 2:
        x_NHK = x_NHK.contiguous()
    return x_NHK.view(torch.int32).numpy().view(np.uint32)
