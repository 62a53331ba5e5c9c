"""Attention of packed cells on a CPU, for inference (no gradient).

The bf16 kernel keeps one query in each SIMD lane: maxima, sums and rescaling need no step across
lanes, and weights leave their registers in the very order in which the second product reads them.
Both products are one routine around AVX512-BF16's dot product of pairs, which no compiler finds by
itself, so it is emitted as LLVM code; the rest is plain numba. Scores stay in the cache: a block of
keys meets a block of queries, with a running maximum (Dao et al. 2022, arXiv:2205.14135).
Other machines, and float32, take torch's own attention, cell by cell.

Letters: N tokens of all cells, B cells, H heads, K width of a head, P pairs of bf16 in one uint32,
L keys of a cell, J keys of a block, I queries of a block (one a lane), R rows of a product.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from cellscribe.errors import InputError

LANES = 64
"""Queries of a block: four vectors of 16 float32."""
ROWS = 4
"""Rows that a product keeps in registers: 4 x 4 sums under way hide the instruction's latency."""
KEYS = 256
"""Keys of a block: its scores, 64 kB, stay in the L2 cache."""
LOWEST = np.float32(-3e38)
DOT = "llvm.x86.avx512bf16.dpbf16ps.512"

Offsets = npt.NDArray[np.int64]
U32 = np.uint32
F32 = np.float32
# Any: numba's declared types do not know what a decorated function may be called with
emitted: Any = intrinsic
compiled: Any = partial(njit, nogil=True, cache=True)


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
    bounds = np.ascontiguousarray(offsets, dtype=np.int64)
    if len({(x.shape, x.dtype) for x in (q_NHK, k_NHK, v_NHK)}) > 1:
        raise InputError(
            "queries, keys and values differ in shape or type; cut them from one product"
        )
    if bounds[0] != 0 or bounds[-1] != len(q_NHK) or (np.diff(bounds) < 0).any():
        raise InputError(f"offsets must rise from 0 to the {len(q_NHK):,} tokens of the batch")
    if q_NHK.dtype == torch.bfloat16 and q_NHK.shape[2] % ROWS == 0 and has_bf16_kernel():
        return _attend_bf16(q_NHK, k_NHK, v_NHK, bounds)
    return _attend_torch(q_NHK, k_NHK, v_NHK, bounds)


@cache
def has_bf16_kernel() -> bool:
    """Say whether this CPU has the bf16 dot product and numba may compile for it."""
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


def _attend_bf16(
    q_NHK: torch.Tensor, k_NHK: torch.Tensor, v_NHK: torch.Tensor, offsets: Offsets
) -> torch.Tensor:
    out_NHK = torch.empty(q_NHK.shape, dtype=torch.bfloat16)
    scale = F32(np.log2(np.e) / q_NHK.shape[2] ** 0.5)  # log2(e): the kernel raises 2, not e
    tensors = [_pairs(x_NHK) for x_NHK in (q_NHK, k_NHK, v_NHK, out_NHK)]
    # long cells first, dealt in turn: every thread gets about the same work
    cells = np.argsort(-np.diff(offsets), kind="stable").repeat(q_NHK.shape[1])
    work = np.stack([cells, np.arange(len(cells)) % q_NHK.shape[1]], axis=1)
    threads = max(1, min(torch.get_num_threads(), len(work)))
    shares = [np.ascontiguousarray(work[thread::threads]) for thread in range(threads)]
    if threads == 1:
        _attend_items(work, offsets, *tensors, scale)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda share: _attend_items(share, offsets, *tensors, scale), shares))
    return out_NHK


def _pairs(x_NHK: torch.Tensor) -> npt.NDArray[np.uint32]:
    """View bf16 as pairs, ``[N, H, P]``; only a layout that splits pairs is copied."""
    x_NHK = x_NHK.detach()
    strides = x_NHK.stride()
    if strides[2] != 1 or strides[0] % 2 or strides[1] % 2 or x_NHK.storage_offset() % 2:
        x_NHK = x_NHK.contiguous()
    return x_NHK.view(torch.int32).numpy().view(np.uint32)


@emitted
def _multiply(typing: Any, out_RI: Any, left_RP: Any, right_PI: Any, add: Any) -> tuple[Any, Any]:
    """Emit ``out = left @ right`` (``+=`` if `add`) over pairs of bf16, summed in float32.

    R is a multiple of ROWS, I is LANES; ``out`` and ``right`` are C-contiguous.
    """
    return types.void(out_RI, left_RP, right_PI, add), _emit_multiply


def _emit_multiply(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    i32, i64, byte_p = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
    pairs_v, sums_v = ir.VectorType(i32, 16), ir.VectorType(ir.FloatType(), 16)
    kind = ir.FunctionType(sums_v, [sums_v, pairs_v, pairs_v])
    dot = builder.module.globals.get(DOT) or ir.Function(builder.module, kind, DOT)
    out, left, right = (
        context.make_array(array)(context, builder, value)
        for array, value in zip(signature.args[:3], args[:3], strict=True)
    )
    out_p, left_p, right_p = (builder.bitcast(x.data, byte_p) for x in (out, left, right))
    n_rows, n_pairs = cgutils.unpack_tuple(builder, left.shape, 2)
    row_step, pair_step = cgutils.unpack_tuple(builder, left.strides, 2)
    # a stride known here is folded into the address of each load
    if signature.args[1].layout == "C":
        pair_step = i64(4)
    elif signature.args[1].layout == "F":
        row_step = i64(4)

    def at(base: Any, index: Any, step: Any, constant: int, kind: Any) -> Any:
        offset = builder.add(builder.mul(index, step), i64(constant))
        return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())

    def spread(pair: Any) -> Any:
        blank = ir.Constant(pairs_v, ir.Undefined)
        first = builder.insert_element(blank, pair, i32(0))
        return builder.shuffle_vector(first, blank, ir.Constant(pairs_v, [0] * 16))

    line = i64(4 * LANES)
    places = [(r, v) for r in range(ROWS) for v in range(LANES // 16)]
    sums = {place: cgutils.alloca_once(builder, sums_v) for place in places}  # become registers
    with cgutils.for_range_slice(builder, i64(0), n_rows, i64(ROWS)) as (row, _):
        target = {(r, v): at(out_p, row, line, 4 * r * LANES + 64 * v, sums_v) for r, v in places}
        for place in places:
            old, zero = builder.load(target[place], align=4), ir.Constant(sums_v, None)
            builder.store(builder.select(args[3], old, zero), sums[place])
        with cgutils.for_range(builder, n_pairs) as loop:
            vectors_p = [at(right_p, loop.index, line, 64 * v, pairs_v) for v in range(LANES // 16)]
            vectors = [builder.load(pointer, align=4) for pointer in vectors_p]
            column_p = builder.gep(left_p, [builder.mul(loop.index, pair_step)])
            for r in range(ROWS):
                pair = builder.load(at(column_p, builder.add(row, i64(r)), row_step, 0, i32))
                for v, vector in enumerate(vectors):
                    total = builder.call(dot, [builder.load(sums[r, v]), spread(pair), vector])
                    builder.store(total, sums[r, v])
        for place in places:
            builder.store(builder.load(sums[place]), target[place], align=4)
    return context.get_dummy_value()


@emitted
def _bits(typing: Any, x: Any) -> tuple[Any, Any]:
    """Read float32 as uint32, or back."""
    other = types.uint32 if x == types.float32 else types.float32

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return other(x), emit


@emitted
def _pair(typing: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """Round two float32 to bf16, packed into a uint32; numba itself would widen to 64 bits."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        low, high = (builder.add(builder.bitcast(x, i32), i32(0x8000)) for x in args)
        return builder.or_(builder.lshr(low, i32(16)), builder.and_(high, i32(0xFFFF0000)))

    return types.uint32(types.float32, types.float32), emit


@compiled(inline="always")
def _exp2(x: np.float32) -> np.float32:
    """2^x for x <= 0, to 1e-4, by a minimax cubic with 2^0 = 1; under 2^-126 it stays at that."""
    x = F32(-126) if x < F32(-126) else x
    shifted = x + F32(12582912)  # 1.5 x 2^23: the low bits now hold x rounded
    rest = x - (shifted - F32(12582912))
    power = ((F32(0.055009102) * rest + F32(0.24221098)) * rest + F32(0.69328289)) * rest + F32(1)
    return power * _bits(U32((_bits(shifted) + U32(127)) << U32(23)))


@compiled(fastmath={"contract"})
def _weigh(scores_JI, n_keys, weights_PI, top_I, sum_I, out_KI, scale):  # type: ignore[no-untyped-def]
    """Turn a block's scores into weights under the running maximum; rescale what came before."""
    new_I, fade_I = top_I.copy(), np.empty_like(top_I)
    for j in range(n_keys):
        for i in range(LANES):
            new_I[i] = scores_JI[j, i] if scores_JI[j, i] > new_I[i] else new_I[i]
    scores_JI[n_keys:] = LOWEST
    for i in range(LANES):
        fade_I[i] = _exp2((top_I[i] - new_I[i]) * scale)
        sum_I[i] *= fade_I[i]
        top_I[i] = new_I[i]
    for p in range(len(weights_PI)):
        for i in range(LANES):
            even = _exp2((scores_JI[2 * p, i] - new_I[i]) * scale)
            odd = _exp2((scores_JI[2 * p + 1, i] - new_I[i]) * scale)
            sum_I[i] += even + odd
            weights_PI[p, i] = _pair(even, odd)
    for k in range(len(out_KI)):
        for i in range(LANES):
            out_KI[k, i] *= fade_I[i]


@compiled()
def _pair_rows(v_LP, v_PK):  # type: ignore[no-untyped-def]
    """Put the values of two keys side by side: from pairs along K to pairs along the keys."""
    n_keys, n_pairs = v_LP.shape
    for j in range(0, n_keys, 2):
        for p in range(n_pairs):
            this = v_LP[j, p]
            following = v_LP[j + 1, p] if j + 1 < n_keys else U32(0)
            v_PK[j // 2, 2 * p] = (this & U32(0xFFFF)) | (following << U32(16))
            v_PK[j // 2, 2 * p + 1] = (this >> U32(16)) | (following & U32(0xFFFF0000))


@compiled()
def _attend_items(work, offsets, q_NHP, k_NHP, v_NHP, out_NHP, scale):  # type: ignore[no-untyped-def]
    """Attend within each (cell, head) of `work`, whose first cell is the longest."""
    if len(work) == 0:
        return
    most = offsets[work[0, 0] + 1] - offsets[work[0, 0]] + ROWS
    n_pairs = q_NHP.shape[2]
    k_LP = np.empty((most, n_pairs), np.uint32)
    v_PK = np.empty((most // 2, 2 * n_pairs), np.uint32)
    q_PI = np.zeros((n_pairs, LANES), np.uint32)
    scores_JI = np.empty((KEYS, LANES), np.float32)
    weights_PI = np.empty((KEYS // 2, LANES), np.uint32)
    out_KI = np.empty((2 * n_pairs, LANES), np.float32)
    top_I, sum_I = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for item in range(len(work)):
        head = work[item, 1]
        start, end = offsets[work[item, 0]], offsets[work[item, 0] + 1]
        n = end - start
        padded = (n + ROWS - 1) // ROWS * ROWS
        k_LP[:n] = k_NHP[start:end, head]
        k_LP[n:padded] = U32(0)
        _pair_rows(v_NHP[start:end, head], v_PK)
        v_PK[(n + 1) // 2 : padded // 2] = U32(0)
        for first in range(start, end, LANES):
            last = min(first + LANES, end)
            q_PI[:, : last - first] = q_NHP[first:last, head].T
            out_KI[:] = F32(0)
            top_I[:] = LOWEST
            sum_I[:] = F32(0)
            for j in range(0, padded, KEYS):
                to = min(j + KEYS, padded)
                scores = scores_JI[: to - j]
                weights = weights_PI[: (to - j) // 2]
                _multiply(scores, k_LP[j:to], q_PI, False)
                _weigh(scores, min(n - j, KEYS), weights, top_I, sum_I, out_KI, scale)
                _multiply(out_KI, v_PK[j // 2 : to // 2].T, weights, True)
            for i in range(last - first):
                share = F32(1) / sum_I[i]
                for p in range(n_pairs):
                    even, odd = out_KI[2 * p, i] * share, out_KI[2 * p + 1, i] * share
                    out_NHP[first + i, head, p] = _pair(even, odd)
