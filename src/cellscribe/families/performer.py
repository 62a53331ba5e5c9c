"""The Performer: FAVOR+ attention and the pre-norm trunk of scBERT and of scFoundation's decoder.

FAVOR+ (Choromanski et al. 2021, arXiv:2009.14794) replaces exp(q k^T) by a product of positive
random features, so that attention takes time and memory linear in the length of a cell. Both
published models stabilise the features in the same way: a query by its own largest projection, a
key by the largest one of all keys and heads, and add 1e-4 to each. The largest one of all keys is
taken within a cell, as if each cell were a batch of its own: no cell depends on another.

Features are never kept for a whole cell. Keys are summed in one pass, relative to the largest
projection so far, and the sums are rescaled when a larger one is found. Layers that act place by
place work on stretches, features on shorter chunks, so that both stay in the cache of a core.
Without gradients the residual stream is changed in place. With them nothing is, features are made
for a whole cell, and those of a layer are computed again in the backward pass, so that one layer's
are kept at a time.

Letters: ``L`` places of a cell, ``N`` of all cells, ``C`` of a chunk, ``D`` width, ``H`` heads,
``K`` head width, ``M`` random features.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from cellscribe.model.attention import Lengths
from cellscribe.model.encoder import Linear

EPSILON = 1e-4
"""Added to each feature, after stabilising."""
STRETCH = 1_024
"""Places that go through the linear layers at a time on a CPU."""
CHUNK = 128
"""Places whose random features are computed at a time on a CPU."""
GPU_PLACES = 1 << 15
"""Both, on a GPU: a whole cell of the published models."""


class PlainLinear(Linear):
    """`Linear` without a bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` to ``[..., out]``, the result in `compute_dtype`."""
        dtype = self.compute_dtype
        return F.linear(x.to(dtype), self.weight.to(dtype))


class PerformerLayer(nn.Module):
    """FAVOR+ attention and feed-forward (GELU), each on a norm of the residual stream."""

    projection: torch.Tensor

    def __init__(
        self, width: int, heads: int, head_width: int, ffn_width: int, features: int, qkv_bias: bool
    ) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * inner) if qkv_bias else PlainLinear(width, 3 * inner)
        self.register_buffer("projection", torch.zeros(features, head_width))
        self.attention_out = Linear(inner, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.up = Linear(width, ffn_width)
        self.down = Linear(ffn_width, width)

    def forward(self, x_LD: torch.Tensor) -> torch.Tensor:
        """Add both branches to the float32 residual stream ``[L, D]`` of a cell, in place."""
        return self.feed(self.attend(x_LD))

    def differentiable(self, x_LD: torch.Tensor) -> torch.Tensor:
        """Both branches on a residual stream that stays as it is, with gradients."""
        projection_KM = scaled(self.projection)
        q_LHK, k_LHK, v_LHK = self.queries_keys_values(x_LD)
        queries_HLM = features(q_LHK, projection_KM, is_query=True)
        keys_HLM = features(k_LHK, projection_KM, is_query=False)
        values_HMK = keys_HLM.transpose(1, 2) @ v_LHK.float().transpose(0, 1)
        weights_HL1 = queries_HLM @ keys_HLM.sum(1)[..., None]
        mixed_LHK = (queries_HLM @ values_HMK / weights_HL1).transpose(0, 1)
        x_LD = x_LD + self.attention_out(mixed_LHK.flatten(1))
        return x_LD + self.down(F.gelu(self.up(self.ffn_norm(x_LD))))

    def attend(self, x_LD: torch.Tensor) -> torch.Tensor:
        """Add the attention branch, in place."""
        projection_KM = scaled(self.projection)
        sums, queries = KeySums(self.heads, projection_KM, len(projection_KM)), []
        for part in stretches(x_LD):
            q_LHK, k_LHK, v_LHK = self.queries_keys_values(x_LD[part])
            sums.add(k_LHK, v_LHK)
            # a copy, so that the memory of keys and values is freed
            queries.append(q_LHK.contiguous())
        table = sums.table()
        for part, q_LHK in zip(stretches(x_LD), queries, strict=True):
            x_LD[part] += self.attention_out(table.read(q_LHK).flatten(1))
        return x_LD

    def feed(self, x_LD: torch.Tensor) -> torch.Tensor:
        """Add the feed-forward branch, in place."""
        for part in stretches(x_LD):
            x_LD[part] += self.down(F.gelu(self.up(self.ffn_norm(x_LD[part]))))
        return x_LD

    def queries_keys_values(
        self, x_LD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Three of ``[L, H, K]``, in the type of the products."""
        q_LHK, k_LHK, v_LHK = (
            self.qkv(self.attention_norm(x_LD)).unflatten(1, (3, self.heads, -1)).unbind(1)
        )
        return q_LHK, k_LHK, v_LHK

    def received(self, x_LD: torch.Tensor) -> torch.Tensor:
        """Compute the attention that each place gets, ``[L]``: mean over heads and queries.

        The attention of query i to key j is ``q'_i k'_j / (q'_i sum k')``. All of it is positive,
        so the mean over queries can be taken before the product with a key: the result is exact,
        and no table of queries by keys is needed.
        """
        projection_KM = scaled(self.projection)
        sums, kept = KeySums(self.heads, projection_KM, 1), []
        for part in stretches(x_LD):
            q_LHK, k_LHK, _ = self.queries_keys_values(x_LD[part])
            # a single value, 0: of a table, only the weights are needed
            sums.add(k_LHK, torch.zeros_like(k_LHK[..., :1]))
            kept.append((q_LHK, k_LHK))
        table = sums.table()
        queries_HM = torch.zeros(self.heads, projection_KM.shape[1], device=x_LD.device)
        for q_LHK, _ in kept:
            queries_HM += table.sum_queries(q_LHK)
        queries_HM /= len(x_LD)
        parts = []
        for _, k_LHK in kept:
            for k_CHK in k_LHK.split(chunk(k_LHK)):
                exps_HCM = exponents(k_CHK, projection_KM, sums.peak)[0]
                got_HC = torch.einsum("hcm,hm->hc", exps_HCM, queries_HM)
                parts.append((got_HC + EPSILON * queries_HM.sum(1, keepdim=True)).mean(0))
        return torch.cat(parts)


class Performer(nn.Module):
    """Performer layers, one after the other; embedding and last norm are the family's own.

    State: ``layers.{i}.`` + ``attention_norm``, ``qkv`` (rows q, k, v; each head's rows together),
    ``projection`` (``[M, K]``, a buffer), ``attention_out``, ``ffn_norm``, ``up``, ``down``; see
    `published_names`.

    Parameters
    ----------
    width, heads, head_width, ffn_width, depth
        ``D``, ``H``, ``K``, width of the feed-forward layer, number of layers.
    features
        ``M``, random features; both published models have ``int(64 ln 64) = 266``.
    qkv_bias
        Whether queries, keys and values have a bias: scFoundation's do, scBERT's do not.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        ffn_width: int,
        depth: int,
        qkv_bias: bool,
        head_width: int = 64,
        features: int = 266,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            PerformerLayer(width, heads, head_width, ffn_width, features, qkv_bias)
            for _ in range(depth)
        )

    def forward(self, x_ND: torch.Tensor, cells: Lengths) -> torch.Tensor:
        """Contextual vectors of packed cells, ``[N, D]`` in and out, float32.

        Cells go through one after the other: one of published length fills any device.
        """
        if torch.is_grad_enabled():
            parts = x_ND.split(list(cells.lengths))
            return torch.cat([self._differentiable(x_LD) for x_LD in parts])
        out_ND = x_ND.clone()
        for start, stop in pairwise(cells.offsets_host.tolist()):
            for layer in self.layers:
                layer(out_ND[start:stop])
        return out_ND

    def _differentiable(self, x_LD: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            assert isinstance(layer, PerformerLayer)
            if x_LD.requires_grad or any(p.requires_grad for p in layer.parameters()):
                x_LD = checkpoint(layer.differentiable, x_LD, use_reentrant=False)
            else:
                with torch.no_grad():
                    x_LD = layer(x_LD.clone())
        return x_LD


def published_names(
    depth: int, *, qkv_bias: bool, prefix: str = "performer."
) -> dict[str, tuple[str, ...]]:
    """Names of `Performer`'s state, each with the published tensors whose rows it stacks.

    Parameters
    ----------
    depth
        Number of layers.
    qkv_bias
        As for `Performer`.
    prefix
        Before the published names: ``performer.`` in scBERT, ``decoder.performer.`` in
        scFoundation. The published counter ``{prefix}calls_since_last_redraw`` has no use here.
    """
    names: dict[str, tuple[str, ...]] = {}
    for i in range(depth):
        ours, theirs = f"layers.{i}.", f"{prefix}net.layers.{i}."
        names[f"{ours}projection"] = (f"{theirs}0.fn.fast_attention.projection_matrix",)
        for kind in ("weight", "bias"):
            if qkv_bias or kind == "weight":
                names[f"{ours}qkv.{kind}"] = tuple(f"{theirs}0.fn.to_{x}.{kind}" for x in "qkv")
            for our, their in (
                ("attention_norm", "0.norm"),
                ("attention_out", "0.fn.to_out"),
                ("ffn_norm", "1.norm"),
                ("up", "1.fn.fn.w1"),
                ("down", "1.fn.fn.w2"),
            ):
                names[f"{ours}{our}.{kind}"] = (f"{theirs}{their}.{kind}",)
    return names


class KeySums:
    """Sums over the keys of a cell, which its queries read; keys are added in parts.

    Attributes
    ----------
    peak
        Largest projection so far, of all keys and heads: the exponentials are relative to it.
    """

    def __init__(self, heads: int, projection_KM: torch.Tensor, value_width: int) -> None:
        self.projection_KM = projection_KM
        features = projection_KM.shape[1]
        self.peak = projection_KM.new_full((), -torch.inf)
        self.weights_HM = projection_KM.new_zeros(heads, features)
        self.values_HMK = projection_KM.new_zeros(heads, features, value_width)
        self.plain_HK = projection_KM.new_zeros(heads, value_width)
        self.places = 0

    def add(self, k_LHK: torch.Tensor, v_LHK: torch.Tensor) -> None:
        """Add keys and their values, ``[L, H, K]`` each."""
        size = chunk(k_LHK)
        for k_CHK, v_CHK in zip(k_LHK.split(size), v_LHK.split(size), strict=True):
            exps_HCM, peak = exponents(k_CHK, self.projection_KM, self.peak)
            v_HCK = v_CHK.float().transpose(0, 1)
            fade = (self.peak - peak).exp()
            self.weights_HM.mul_(fade).add_(exps_HCM.sum(1))
            self.values_HMK.mul_(fade).baddbmm_(exps_HCM.transpose(1, 2), v_HCK)
            self.plain_HK += v_HCK.sum(1)
            self.peak = peak
        self.places += len(k_LHK)

    def table(self) -> KeyTable:
        """Make the table that queries read, after all keys were added."""
        values_HMK = self.values_HMK + EPSILON * self.plain_HK[:, None]
        weights_HM1 = (self.weights_HM + EPSILON * self.places)[..., None]
        return KeyTable(torch.cat([values_HMK, weights_HM1], dim=2), self.projection_KM)


class KeyTable:
    """Sums of key features times values, and in the last column of key features alone."""

    def __init__(self, sums_HMJ: torch.Tensor, projection_KM: torch.Tensor) -> None:
        self.sums_HMJ = sums_HMJ
        self.projection_KM = projection_KM
        # the part of every query's epsilon, taken out of the product over features
        self.floor_H1J = EPSILON * sums_HMJ.sum(1, keepdim=True)

    def read(self, q_LHK: torch.Tensor) -> torch.Tensor:
        """Mean of the values, weighted by attention: ``[L, H, K]``, float32."""
        parts = []
        for q_CHK in q_LHK.split(chunk(q_LHK)):
            exps_HCM = exponents(q_CHK, self.projection_KM)[0]
            mixed_HCJ = torch.baddbmm(self.floor_H1J, exps_HCM, self.sums_HMJ)
            parts.append((mixed_HCJ[..., :-1] / mixed_HCJ[..., -1:]).transpose(0, 1))
        return torch.cat(parts)

    def sum_queries(self, q_LHK: torch.Tensor) -> torch.Tensor:
        """Sum the features of queries, each divided by its normaliser: ``[H, M]``, float32."""
        total_HM = torch.zeros_like(self.sums_HMJ[..., 0])
        for q_CHK in q_LHK.split(chunk(q_LHK)):
            exps_HCM = exponents(q_CHK, self.projection_KM)[0]
            mixed_HC1 = torch.baddbmm(self.floor_H1J, exps_HCM, self.sums_HMJ)[..., -1:]
            shares_HC1 = 1.0 / mixed_HC1
            total_HM += (exps_HCM * shares_HC1).sum(1) + EPSILON * shares_HC1.sum(1)
        return total_HM


def exponents(
    x_CHK: torch.Tensor, projection_KM: torch.Tensor, peak: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Exponentials of random features, before epsilon is added.

    Parameters
    ----------
    x_CHK
        Queries or keys of a chunk.
    projection_KM
        From `scaled`.
    peak
        For keys: largest projection before this chunk. None for queries: each has its own.

    Returns
    -------
    exps_HCM
        ``exp(x P - |x|^2 / (2 sqrt(K)) - peak)``, float32.
    peak
        Largest projection, this chunk's among them.
    """
    x_HCK = x_CHK.transpose(0, 1).float().contiguous()
    dashed_HCM = x_HCK @ projection_KM
    if peak is None:
        peak = dashed_HCM.amax(-1, keepdim=True)
    else:
        peak = torch.maximum(peak, dashed_HCM.amax())
    norms_HC1 = torch.linalg.vecdot(x_HCK, x_HCK)[..., None] / (2 * len(projection_KM) ** 0.5)
    return dashed_HCM.sub_(norms_HC1.add_(peak)).exp_(), peak


def features(x_LHK: torch.Tensor, projection_KM: torch.Tensor, *, is_query: bool) -> torch.Tensor:
    """Random features of the queries or keys of a cell, ``[H, L, M]``, with gradients.

    Gradients also go through the peak, as in the published code: epsilon is added after it.
    """
    x_HLK = x_LHK.transpose(0, 1).float()
    dashed_HLM = x_HLK @ projection_KM
    peak = dashed_HLM.amax(-1, keepdim=True) if is_query else dashed_HLM.max()
    norms_HL1 = x_HLK.square().sum(-1, keepdim=True) / (2 * len(projection_KM) ** 0.5)
    return (dashed_HLM - norms_HL1 - peak).exp() + EPSILON


def scaled(projection_MK: torch.Tensor) -> torch.Tensor:
    """Scale the projection by ``K ** -1/4``, ``[K, M]``, so that queries and keys need not be."""
    return (projection_MK.float() * projection_MK.shape[1] ** -0.25).T.contiguous()


def stretches(x_LD: torch.Tensor) -> Iterator[slice]:
    """Yield the slices of places that are computed at a time."""
    step = GPU_PLACES if x_LD.is_cuda else STRETCH
    for start in range(0, len(x_LD), step):
        yield slice(start, start + step)


def chunk(x_LHK: torch.Tensor) -> int:
    """Number of places whose features are computed at a time."""
    return GPU_PLACES if x_LHK.is_cuda else CHUNK
