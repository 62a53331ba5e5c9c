"""Attention, one function per layout of a batch, with one signature.

``padded`` takes ``[B, L, H, K]`` and masks the places after the end of each cell; ``packed`` takes
the tokens of all cells one after the other, ``[N, H, K]``, and has no padding. Both are full
attention within a cell: the order of genes is in the position vectors, not in a mask.

Letters: ``B`` cells, ``L`` tokens of the longest, ``N`` tokens of all, ``H`` heads, ``K`` head
width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

import torch
import torch.nn.functional as F

from cellscribe.model import attention_cpu, attention_cpu_training


@dataclass(frozen=True)
class Lengths:
    """Lengths of the cells of a batch; they stay on the host, so nothing waits for a GPU."""

    lengths: tuple[int, ...]
    device: torch.device

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest cell."""
        return max(self.lengths, default=0)

    @cached_property
    def lengths_B(self) -> torch.Tensor:
        """``[B]`` int64 lengths on the device."""
        return torch.tensor(self.lengths, dtype=torch.int64).to(self.device, non_blocking=True)

    @cached_property
    def offsets_host(self) -> torch.Tensor:
        """``[B + 1]`` int64 on the host: packed cell i is rows ``offsets[i] : offsets[i + 1]``."""
        return F.pad(torch.cumsum(torch.tensor(self.lengths, dtype=torch.int64), 0), (1, 0))

    @cached_property
    def offsets(self) -> torch.Tensor:
        """``[B + 1]`` int32 offsets on the device."""
        return self.offsets_host.int().to(self.device, non_blocking=True)

    def positions(self, tokens: torch.Tensor) -> torch.Tensor:
        """Place of each token in its cell, for padded ``[B, L]`` or packed ``[N]`` tokens."""
        place = torch.arange(tokens.shape[-1], device=tokens.device)
        if tokens.ndim == 2:
            return place.expand_as(tokens)
        starts = self.offsets[:-1].long()
        return place - starts.repeat_interleave(self.lengths_B, output_size=len(tokens))

    @cached_property
    def key_mask_B11L(self) -> torch.Tensor | None:
        """True where a padded place holds a token; None where no cell is padded."""
        if min(self.lengths, default=0) == self.longest:
            return None
        place_L = torch.arange(self.longest, device=self.device)
        return (place_L < self.lengths_B[:, None])[:, None, None, :]


HALVES = (torch.bfloat16, torch.float16)
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Lengths, float], torch.Tensor]


def padded(
    q_BLHK: torch.Tensor, k_BLHK: torch.Tensor, v_BLHK: torch.Tensor, cells: Lengths, dropout: float
) -> torch.Tensor:
    """Attention over a padded batch, ``[B, L, H, K]`` in and out; `dropout` acts on the weights."""
    out_BHLK = F.scaled_dot_product_attention(
        q_BLHK.transpose(1, 2),
        k_BLHK.transpose(1, 2),
        v_BLHK.transpose(1, 2),
        attn_mask=cells.key_mask_B11L,
        dropout_p=dropout,
    )
    return out_BHLK.transpose(1, 2)


def packed(
    q_NHK: torch.Tensor, k_NHK: torch.Tensor, v_NHK: torch.Tensor, cells: Lengths, dropout: float
) -> torch.Tensor:
    """Attention over a packed batch, ``[N, H, K]`` in and out; `dropout` acts on the weights.

    On a CPU this is `attention_cpu` or, with gradients or dropout, `attention_cpu_training`, seeded
    by torch's generator. On a GPU in half precision it is `varlen_attn` without gradients and
    dropout, else `flash`, or `jagged` before compute capability 8.0. In float32 on a GPU it is one
    product after the other, cell by cell.
    """
    plain = dropout == 0.0 and not (torch.is_grad_enabled() and q_NHK.requires_grad)
    if q_NHK.device.type == "cpu":
        offsets = cells.offsets_host
        if plain:
            return attention_cpu.attend(q_NHK, k_NHK, v_NHK, offsets)
        seed = int(torch.randint(1 << 31, ())) if dropout else 0
        return attention_cpu_training.attend(q_NHK, k_NHK, v_NHK, offsets, dropout, seed)
    if plain and has_varlen_kernel(q_NHK):
        from torch.nn.attention.varlen import varlen_attn

        longest = cells.longest
        out_NHK = varlen_attn(q_NHK, k_NHK, v_NHK, cells.offsets, cells.offsets, longest, longest)
        assert isinstance(out_NHK, torch.Tensor)
        return out_NHK
    if has_flash_kernel(q_NHK):
        return flash(q_NHK, k_NHK, v_NHK, cells, dropout)
    if q_NHK.device.type == "cuda" and q_NHK.dtype in HALVES:
        return jagged(q_NHK, k_NHK, v_NHK, cells, dropout)
    parts = []
    for qkv in zip(*(t.split(list(cells.lengths)) for t in (q_NHK, k_NHK, v_NHK)), strict=True):
        q_HLK, k_HLK, v_HLK = (t.transpose(0, 1)[None] for t in qkv)
        out_1HLK = F.scaled_dot_product_attention(q_HLK, k_HLK, v_HLK, dropout_p=dropout)
        parts.append(out_1HLK[0].transpose(0, 1))
    return torch.cat(parts)


def flash(
    q_NHK: torch.Tensor, k_NHK: torch.Tensor, v_NHK: torch.Tensor, cells: Lengths, dropout: float
) -> torch.Tensor:
    """Attention over a packed batch by torch's flash kernel, with gradients and dropout.

    `jagged` calls the same kernel. Here it is called directly, because nested tensors are a Python
    class: one operation takes longer on the host than that of a small model on the device.
    """
    offsets, longest = cells.offsets, cells.longest
    out_NHK = torch.ops.aten._flash_attention_forward(
        q_NHK, k_NHK, v_NHK, offsets, offsets, longest, longest, dropout, False, False
    )[0]
    assert isinstance(out_NHK, torch.Tensor)
    return out_NHK


def jagged(
    q_NHK: torch.Tensor, k_NHK: torch.Tensor, v_NHK: torch.Tensor, cells: Lengths, dropout: float
) -> torch.Tensor:
    """Attention over a packed batch as torch's nested tensors do it, with gradients and dropout."""

    def nested(x_NHK: torch.Tensor) -> torch.Tensor:
        x_BLHK = torch.nested.nested_tensor_from_jagged(
            x_NHK,
            offsets,
            min_seqlen=min(cells.lengths),
            max_seqlen=cells.longest,
        )
        return x_BLHK.transpose(1, 2)

    offsets = cells.offsets.long()
    with warnings.catch_warnings():
        # the warning is about the older, strided layout, but comes with this one as well
        warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
        out_BHLK = F.scaled_dot_product_attention(
            nested(q_NHK), nested(k_NHK), nested(v_NHK), dropout_p=dropout
        )
    out_NHK = out_BHLK.transpose(1, 2).values()
    assert isinstance(out_NHK, torch.Tensor)
    return out_NHK


def has_varlen_kernel(tensor: torch.Tensor) -> bool:
    """Whether torch's variable-length attention runs on this tensor's device and dtype."""
    if tensor.device.type != "cuda" or tensor.dtype not in HALVES:
        return False
    # Since torch 2.10.
    if find_spec("torch.nn.attention.varlen") is None:
        return False
    return torch.cuda.get_device_capability(tensor.device) >= (8, 0)


def has_flash_kernel(q_NHK: torch.Tensor) -> bool:
    """Whether torch's flash kernel trains on this device, with this dtype and width of a head."""
    if q_NHK.device.type != "cuda" or q_NHK.dtype not in HALVES:
        return False
    if torch.cuda.get_device_capability(q_NHK.device) < (8, 0):
        return False
    # Wider heads have no backward pass with dropout everywhere; others are padded by `jagged`.
    return q_NHK.shape[-1] % 8 == 0 and q_NHK.shape[-1] <= 128
