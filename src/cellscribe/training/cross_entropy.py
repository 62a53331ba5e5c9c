"""The loss of masked-gene training: hidden states to weighted cross-entropy, chunk by chunk.

Logits ``[M, V]`` are never kept: for each chunk of rows, logits, losses and gradients are computed
at once; the backward pass only scales the gradients (as in Liger Kernel, Hsu et al. 2024,
arXiv:2410.10989). On a CPU in bf16, compiled code turns a row of logits into its gradient in place,
while the row is in the cache; most of the remaining time is that of the three products. Every other
device and type uses torch's operations.

Letters: M chosen places, C of a chunk, D width, V vocabulary, W the vocabulary padded to S whole
strips of I = LANES logits, T threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch

from cellscribe.model.cpu_kernels import F32, U32, bits, compiled

LOGITS = 1 << 24
"""Number of logits of a chunk, 32 MB of bf16: with smaller chunks, adding up the gradients of the
weights takes too large a share of a CPU's time; larger chunks are not faster."""
GPU_LOGITS = 1 << 26
"""The same on a GPU, where many small steps are slow: 256 MB of float32."""
LANES = 128
"""Number of partial sums of a row: whole vectors, and enough of them to hide the latency."""
FP16_UNIT = 2.0**15
"""Scaled largest weight in fp16, whose largest number is 65,504 and smallest normal 6e-5."""
LOG2_E = F32(np.log2(np.e))


class Gradients(NamedTuple):
    """Sums in float32, still to be multiplied by the `unit` of the weights."""

    hidden_MD: torch.Tensor
    weight_VD: torch.Tensor
    bias_V: torch.Tensor


def cross_entropy(
    hidden_MD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_M: torch.Tensor,
    weights_M: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the weighted sum of the cross-entropies of ``hidden_MD @ weight_VD.T + bias_V``.

    With gradients enabled, they are computed here and kept until the backward pass, which can be
    taken once. Under ``torch.no_grad`` only the losses are computed.

    Parameters
    ----------
    hidden_MD, weight_VD, bias_V
        Hidden states at the chosen places, and the head; any floating type.
    targets_M
        True tokens, int64, each in ``0 .. V - 1``.
    weights_M
        Weight of each place in the total, float32, not negative; it gets no gradient.
    dtype
        Type of the products' factors: bf16, fp16 or float32. Softmax and sums are float32.

    Returns
    -------
    total : torch.Tensor
        Scalar, ``sum_m weights_M[m] * loss_M[m]``; differentiable in the first three arguments.
    losses_M : torch.Tensor
        ``[M]`` cross-entropies, natural logarithm, float32, detached.
    """
    return _CrossEntropy.apply(
        hidden_MD, weight_VD, bias_V, targets_M, weights_M, dtype, torch.is_grad_enabled()
    )


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, hidden_MD, weight_VD, bias_V, targets_M, weights_M, dtype, is_grad_enabled
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the losses, and the gradients if any is needed."""
        unit = torch.ones((), device=weights_M.device)
        if dtype == torch.float16 and len(weights_M):
            # 1 / (genes of a cell) times a softmax over the vocabulary underflows in fp16, whatever
            # the loss is scaled by afterwards. So the chunks get weights of at most FP16_UNIT, and
            # the float32 sums are divided again; bf16 has the range of float32.
            unit = weights_M.max().clamp_min(1e-30) / FP16_UNIT
        wants = is_grad_enabled and any(ctx.needs_input_grad)
        gradients = None
        if wants:
            gradients = Gradients(
                torch.empty(hidden_MD.shape, device=hidden_MD.device),
                torch.zeros(weight_VD.shape, device=weight_VD.device),
                torch.zeros(bias_V.shape, device=bias_V.device),
            )
        steps = _chunks_compiled if _takes_compiled(hidden_MD, dtype) else _chunks_torch
        losses_M = steps(
            hidden_MD.to(dtype), weight_VD, bias_V.float(), targets_M, weights_M / unit, gradients
        )
        ctx.mark_non_differentiable(losses_M)
        ctx.gradients, ctx.unit = gradients, unit
        ctx.dtypes = hidden_MD.dtype, weight_VD.dtype, bias_V.dtype
        return (losses_M * weights_M).sum(), losses_M

    @staticmethod
    def backward(ctx, grad_total, _):  # type: ignore[no-untyped-def]
        """Scale the gradients in place, so that only one backward pass is possible."""
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this cross-entropy were handed out before")
        gradients, ctx.gradients = ctx.gradients, None
        factor = grad_total * ctx.unit
        # on a GPU, reading the factor means to wait, which costs more than the product
        if factor.device.type != "cpu" or factor != 1:
            for gradient in gradients:
                gradient.mul_(factor)
        typed = (x.to(dtype) for x, dtype in zip(gradients, ctx.dtypes, strict=True))
        return (*typed, None, None, None, None)


def _takes_compiled(hidden_MD: torch.Tensor, dtype: torch.dtype) -> bool:
    user: Any = numba.config
    return hidden_MD.device.type == "cpu" and dtype == torch.bfloat16 and not user.DISABLE_JIT


def _bounds(n_rows: int, n_columns: int, most: int) -> list[tuple[int, int]]:
    """Return the bounds of chunks of about equal size, at most `most` numbers each."""
    n_chunks = -(-n_rows // max(1, most // n_columns))
    edges = [n_rows * chunk // max(1, n_chunks) for chunk in range(n_chunks + 1)]
    return list(pairwise(edges))


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply to float32, so that fp16 does not overflow, nor is rounded on a GPU."""
    if left.device.type == "cuda" and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    if left.dtype == torch.float16:
        return left.float() @ right.float()
    return (left @ right).float()


def _chunks_torch(
    hidden_MD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_M: torch.Tensor,
    weights_M: torch.Tensor,
    gradients: Gradients | None,
) -> torch.Tensor:
    """Return the losses of all places; fill `gradients`, unless they are None."""
    weight_VD = weight_VD.to(hidden_MD.dtype)
    losses_M = torch.empty(len(hidden_MD), device=hidden_MD.device)
    most = GPU_LOGITS if hidden_MD.device.type == "cuda" else LOGITS
    for start, end in _bounds(len(hidden_MD), len(weight_VD), most):
        here = slice(start, end)
        targets_C = targets_M[here, None]
        logs_CV = _product(hidden_MD[here], weight_VD.T).add_(bias_V).log_softmax(1)
        losses_M[here] = logs_CV.gather(1, targets_C).neg_()[:, 0]
        if gradients is None:
            continue
        grad_CV = logs_CV.exp_()
        grad_CV.scatter_(1, targets_C, grad_CV.gather(1, targets_C) - 1)
        grad_CV.mul_(weights_M[here, None])
        gradients.bias_V.add_(grad_CV.sum(0))
        grad_CV = grad_CV.to(hidden_MD.dtype)
        gradients.hidden_MD[here] = _product(grad_CV, weight_VD)
        gradients.weight_VD.add_(_product(grad_CV.T, hidden_MD[here]))
    return losses_M


def _chunks_compiled(
    hidden_MD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_M: torch.Tensor,
    weights_M: torch.Tensor,
    gradients: Gradients | None,
) -> torch.Tensor:
    """Do the same as `_chunks_torch`, for bf16 on a CPU."""
    n_vocabulary, width = weight_VD.shape
    if len(targets_M) and not 0 <= int(targets_M.min()) <= int(targets_M.max()) < n_vocabulary:
        raise IndexError(f"a target is outside 0 .. {n_vocabulary - 1:,}")
    padding = -n_vocabulary % LANES
    weight_WD = weight_VD.new_zeros((n_vocabulary + padding, width), dtype=torch.bfloat16)
    weight_WD[:n_vocabulary] = weight_VD
    product_WD = torch.empty_like(weight_WD)
    bias_SI = np.pad(bias_V.numpy(), (0, padding), constant_values=-np.inf).reshape(-1, LANES)
    losses = np.empty(len(hidden_MD), np.float32)
    columns = (targets_M.contiguous().numpy(), weights_M.contiguous().numpy(), losses)
    bounds = _bounds(len(hidden_MD), len(weight_WD), LOGITS)
    most = max((end - start for start, end in bounds), default=0)
    logits = torch.empty((most, len(weight_WD)), dtype=torch.bfloat16)
    bias_grads_TSI = np.zeros((torch.get_num_threads(), *bias_SI.shape), np.float32)
    with ThreadPoolExecutor(len(bias_grads_TSI)) as pool:
        for start, end in bounds:
            hidden_CD = hidden_MD[start:end]
            logits_CW = torch.mm(hidden_CD, weight_WD.T, out=logits[: end - start])
            bits_CSI = logits_CW.view(torch.uint16).numpy().reshape(-1, *bias_SI.shape)
            some = tuple(column[start:end] for column in columns)
            _rows_in_threads(pool, bits_CSI, bias_SI, some, bias_grads_TSI, gradients is not None)
            if gradients is not None:
                gradients.hidden_MD[start:end] = logits_CW @ weight_WD
                torch.mm(logits_CW.T, hidden_CD, out=product_WD)
                gradients.weight_VD.add_(product_WD[:n_vocabulary])
    if gradients is not None:
        gradients.bias_V.copy_(torch.from_numpy(bias_grads_TSI.sum(0).ravel()[:n_vocabulary]))
    return torch.from_numpy(losses)


def _rows_in_threads(
    pool: ThreadPoolExecutor,
    bits_CSI: npt.NDArray[np.uint16],
    bias_SI: npt.NDArray[np.float32],
    columns: tuple[npt.NDArray[Any], ...],
    bias_grads_TSI: npt.NDArray[np.float32],
    wants_gradient: bool,
) -> None:
    """Divide the rows among T threads, each with its own sum of bias gradients."""
    n_rows, threads = len(bits_CSI), len(bias_grads_TSI)

    def work(thread: int) -> None:
        share = slice(n_rows * thread // threads, n_rows * (thread + 1) // threads)
        some = (column[share] for column in columns)
        _rows(bits_CSI[share], bias_SI, *some, bias_grads_TSI[thread], wants_gradient)

    list(pool.map(work, range(threads)))


@compiled(inline="always")
def _exp2(x):  # type: ignore[no-untyped-def]
    """Compute 2^x for x <= 0 to 2e-7, by a minimax quintic with 2^0 = 1; at least 2^-126."""
    x = F32(-126) if x < F32(-126) else x
    shifted = x + F32(12582912)  # 1.5 x 2^23: the low bits now hold x rounded
    rest = x - (shifted - F32(12582912))
    power = (F32(0.0013264727) * rest + F32(0.009671513)) * rest + F32(0.055507336)
    power = ((power * rest + F32(0.24022242)) * rest + F32(0.693147)) * rest + F32(1)
    return power * bits(U32((bits(shifted) + U32(127)) << U32(23)))


@compiled(inline="always")
def _wide(x):  # type: ignore[no-untyped-def]
    """Convert the bits of a bf16 to float32."""
    return bits(U32(U32(x) << U32(16)))


@compiled(inline="always")
def _narrow(x):  # type: ignore[no-untyped-def]
    """Round a float32 to the bits of a bf16."""
    return np.uint16(U32(bits(x) + U32(0x8000)) >> U32(16))


@compiled(fastmath={"contract"})
def _rows(bits_CSI, bias_SI, targets_C, weights_C, losses_C, bias_grad_SI, wants):  # type: ignore[no-untyped-def]
    """Compute losses of rows of bf16 logits, and replace the logits by gradients if wanted."""
    n_strips = len(bias_SI)
    powers_SI = np.empty(bias_SI.shape, np.float32)
    top_I, sum_I = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for c in range(len(bits_CSI)):
        bits_SI, place = bits_CSI[c], (targets_C[c] // LANES, targets_C[c] % LANES)
        target = _wide(bits_SI[place]) + bias_SI[place]
        top_I[:] = -np.inf
        for s in range(n_strips):
            for i in range(LANES):
                logit = _wide(bits_SI[s, i]) + bias_SI[s, i]
                top_I[i] = logit if logit > top_I[i] else top_I[i]
        top = top_I.max()
        sum_I[:] = 0
        for s in range(n_strips):
            for i in range(LANES):
                power = _exp2((_wide(bits_SI[s, i]) + bias_SI[s, i] - top) * LOG2_E)
                powers_SI[s, i] = power
                sum_I[i] += power
        total = sum_I.sum()
        losses_C[c] = np.log(total) + (top - target)
        if not wants:
            continue
        powers_SI[place] -= total
        scale = weights_C[c] / total
        for s in range(n_strips):
            for i in range(LANES):
                gradient = powers_SI[s, i] * scale
                bias_grad_SI[s, i] += gradient
                bits_SI[s, i] = _narrow(gradient)
