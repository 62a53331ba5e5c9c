"""Compiled kernels of attention on a CPU, for packed cells in bf16.

One query lies in each SIMD lane: maxima, sums and rescaling need no step across lanes, and weights
leave their registers in the very order in which the next product reads them. All products are one
routine around AVX512-BF16's dot product of pairs, which no compiler finds by itself, so it is
emitted as LLVM code; the rest is plain numba. Scores stay in the cache: a block of keys meets a
block of queries, with a running maximum (Dao et al. 2022, arXiv:2205.14135); the backward pass
computes the weights again from the log-sum-exp of each query (Dao 2023, arXiv:2307.08691).
All that is compiled is in this one file, because numba's cache watches no other.

Letters: N tokens of all cells, B cells, H heads, K width of a head, P pairs of bf16 in one uint32,
L keys of a cell, J keys of a block, I queries of a block (one a lane), R rows of a product.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 64
"""Queries of a block: four vectors of 16 float32."""
ROWS = 4
"""Rows that a product keeps in registers: 4 x 4 sums under way hide the instruction's latency."""
KEYS = 256
"""Keys of a block: its scores, 64 kB, stay in the L2 cache."""
LOWEST = np.float32(-3e38)
DOT = "llvm.x86.avx512bf16.dpbf16ps.512"

U32 = np.uint32
F32 = np.float32
# Any: numba's declared types do not know what a decorated function may be called with
emitted: Any = intrinsic
compiled: Any = partial(njit, nogil=True, cache=True)


@emitted
def _multiply(typing: Any, out_RI: Any, left_RP: Any, right_PI: Any, add: Any) -> tuple[Any, Any]:
    """Emit ``out = left @ right`` (``+=`` if `add`) over pairs of bf16, summed in float32.

    R is a multiple of ROWS, I is LANES; ``out`` and ``right`` are C-contiguous. ``left`` may have
    more columns than ``right`` has rows: they are left out.
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
    n_rows, n_pairs = builder.extract_value(left.shape, 0), builder.extract_value(right.shape, 0)
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
def bits(typing: Any, x: Any) -> tuple[Any, Any]:
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
def _mix(x: np.uint32) -> np.uint32:
    """Hash of 32 bits: lowbias32 of C. Wellons' hash-prospector."""
    x = U32(U32(x ^ (x >> U32(16))) * U32(0x7FEB352D))
    x = U32(U32(x ^ (x >> U32(15))) * U32(0x846CA68B))
    return U32(x ^ (x >> U32(16)))


@compiled(inline="always")
def _exp2(x: np.float32) -> np.float32:
    """2^x for x <= 0, to 1e-4, by a minimax cubic with 2^0 = 1; under 2^-126 it stays at that."""
    x = F32(-126) if x < F32(-126) else x
    shifted = x + F32(12582912)  # 1.5 x 2^23: the low bits now hold x rounded
    rest = x - (shifted - F32(12582912))
    power = ((F32(0.055009102) * rest + F32(0.24221098)) * rest + F32(0.69328289)) * rest + F32(1)
    return power * bits(U32((bits(shifted) + U32(127)) << U32(23)))


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
def _pair_rows(x_LP, x_PK):  # type: ignore[no-untyped-def]
    """Put two rows side by side: from pairs along K to pairs along the rows; zero what is left."""
    n_rows, n_pairs = x_LP.shape
    for j in range(0, n_rows, 2):
        for p in range(n_pairs):
            this = x_LP[j, p]
            following = x_LP[j + 1, p] if j + 1 < n_rows else U32(0)
            x_PK[j // 2, 2 * p] = (this & U32(0xFFFF)) | (following << U32(16))
            x_PK[j // 2, 2 * p + 1] = (this >> U32(16)) | (following & U32(0xFFFF0000))
    x_PK[(n_rows + 1) // 2 :] = U32(0)


@compiled()
def _read_rows(x_LP, rows_LP):  # type: ignore[no-untyped-def]
    """Bring the rows of one head together; zero what is left."""
    rows_LP[: len(x_LP)] = x_LP
    rows_LP[len(x_LP) :] = U32(0)


@compiled()
def _read_lanes(x_IP, x_PI):  # type: ignore[no-untyped-def]
    """Put each row in a lane; lanes without one are zero."""
    x_PI[:, : len(x_IP)] = x_IP.T
    x_PI[:, len(x_IP) :] = U32(0)


@compiled()
def _write_lanes(x_KI, share_I, x_PI, out_IP):  # type: ignore[no-untyped-def]
    """Write the rows that lie one in a lane, times their share, as bf16; `x_PI` is overwritten."""
    for p in range(len(x_PI)):
        for i in range(LANES):
            x_PI[p, i] = _pair(x_KI[2 * p, i] * share_I[i], x_KI[2 * p + 1, i] * share_I[i])
    out_IP[:] = x_PI[:, : len(out_IP)].T


@compiled()
def _seed_rows(row_I, seed, first, head, heads):  # type: ignore[no-untyped-def]
    """Start the draws of a block of queries, each from its place among all tokens and its head."""
    for i in range(LANES):
        row_I[i] = _mix(U32(_mix(U32((first + i) * heads + head)) ^ _mix(seed)))


@compiled()
def _draw(draws_PI, row_I, first):  # type: ignore[no-untyped-def]
    """Draw 32 bits for every pair of keys: the low half is the even key's, the high the odd's."""
    for p in range(len(draws_PI)):
        for i in range(LANES):
            draws_PI[p, i] = _mix(U32(row_I[i] ^ U32(first + p)))


@compiled()
def _drop(weights_PI, draws_PI, threshold):  # type: ignore[no-untyped-def]
    """Zero the weights whose draw is below the threshold."""
    for p in range(len(weights_PI)):
        for i in range(LANES):
            even = U32(0xFFFF) if U32(draws_PI[p, i] << U32(16)) >= threshold else U32(0)
            odd = U32(0xFFFF0000) if draws_PI[p, i] >= threshold else U32(0)
            weights_PI[p, i] &= even | odd


@compiled(fastmath={"contract"})
def _grad_scores(scores_JI, grads_JI, draws_PI, lse_I, delta_I, scale, threshold):  # type: ignore[no-untyped-def]
    """Turn scores into kept weights, and their gradients into the gradients of scores, in place."""
    for j in range(len(scores_JI)):
        shift = U32(16 * (1 - j % 2))
        for i in range(LANES):
            weight = _exp2(scores_JI[j, i] * scale - lse_I[i])
            kept = weight if U32(draws_PI[j // 2, i] << shift) >= threshold else F32(0)
            scores_JI[j, i] = kept
            grads_JI[j, i] = kept * grads_JI[j, i] - weight * delta_I[i]


@compiled()
def _round(x_JI, factor, halves_JI):  # type: ignore[no-untyped-def]
    """Round to bf16, times `factor`: pairs then lie along the lanes."""
    for j in range(len(halves_JI)):
        for i in range(halves_JI.shape[1]):
            halves_JI[j, i] = U32(bits(x_JI[j, i] * factor) + U32(0x8000)) >> U32(16)


@compiled()
def _pair_keys(x_JI, pairs_PI):  # type: ignore[no-untyped-def]
    """Round to bf16, so that pairs lie along the keys."""
    for p in range(len(pairs_PI)):
        for i in range(LANES):
            pairs_PI[p, i] = _pair(x_JI[2 * p, i], x_JI[2 * p + 1, i])


@compiled(fastmath={"contract"})
def _dots(left_PI, right_PI):  # type: ignore[no-untyped-def]
    """Sum the products of two rows in each lane."""
    dots_I = np.zeros(LANES, np.float32)
    for p in range(len(left_PI)):
        for i in range(LANES):
            left, right = left_PI[p, i], right_PI[p, i]
            even = bits(U32(left << U32(16))) * bits(U32(right << U32(16)))
            odd = bits(U32(left & U32(0xFFFF0000))) * bits(U32(right & U32(0xFFFF0000)))
            dots_I[i] += even + odd
    return dots_I


@compiled()
def attend_items(work, offsets, tensors, lse_NH, scale, seed, threshold):  # type: ignore[no-untyped-def]
    """Attend within each (cell, head) of `work`, whose first cell is the longest.

    `tensors` are queries, keys, values, outputs, ``[N, H, P]``; `scale` takes a product to the
    exponent of 2; `lse_NH` becomes log2 of a query's sum of weights; `threshold` is of 2^32.
    """
    q_NHP, k_NHP, v_NHP, out_NHP = tensors
    most = offsets[work[0, 0] + 1] - offsets[work[0, 0]] + ROWS
    n_pairs = q_NHP.shape[2]
    gain = F32(2.0**32 / (2.0**32 - threshold))
    k_LP = np.empty((most, n_pairs), np.uint32)
    v_PK = np.empty((most // 2, 2 * n_pairs), np.uint32)
    q_PI = np.empty((n_pairs, LANES), np.uint32)
    scores_JI = np.empty((KEYS, LANES), np.float32)
    weights_PI = np.empty((KEYS // 2, LANES), np.uint32)
    out_KI = np.empty((2 * n_pairs, LANES), np.float32)
    top_I, sum_I = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    draws_PI, row_I = np.empty((KEYS // 2, LANES), np.uint32), np.empty(LANES, np.uint32)
    for item in range(len(work)):
        head = work[item, 1]
        start, end = offsets[work[item, 0]], offsets[work[item, 0] + 1]
        n = end - start
        padded = (n + ROWS - 1) // ROWS * ROWS
        _read_rows(k_NHP[start:end, head], k_LP[:padded])
        _pair_rows(v_NHP[start:end, head], v_PK[: padded // 2])
        for first in range(start, end, LANES):
            last = min(first + LANES, end)
            _read_lanes(q_NHP[first:last, head], q_PI)
            _seed_rows(row_I, seed, first, head, q_NHP.shape[1])
            out_KI[:], sum_I[:], top_I[:] = F32(0), F32(0), LOWEST
            for j in range(0, padded, KEYS):
                to = min(j + KEYS, padded)
                scores, weights = scores_JI[: to - j], weights_PI[: (to - j) // 2]
                _multiply(scores, k_LP[j:to], q_PI, False)
                _weigh(scores, min(n - j, KEYS), weights, top_I, sum_I, out_KI, scale)
                if threshold > 0:
                    _draw(draws_PI[: len(weights)], row_I, j // 2)
                    _drop(weights, draws_PI, threshold)
                _multiply(out_KI, v_PK[j // 2 : to // 2].T, weights, True)
            _write_lanes(out_KI, gain / sum_I, q_PI, out_NHP[first:last, head])
            for i in range(last - first):
                lse_NH[first + i, head] = top_I[i] * scale + np.log2(sum_I[i])


@compiled()
def _grad_queries(rows, keys, n, sums_2CLK, lse_I, row_I, share_I, scale, threshold, room):  # type: ignore[no-untyped-def]
    """Gradients of a block of queries: write theirs, add to those of the cell's keys and values."""
    q_IP, out_IP, dout_IP, dq_IP = rows
    k_LP, v_LP, k_PK = keys
    lanes_3PI, rows_2CIK, dq_KI, (scores_JI, grads_JI), draws_PI, pairs_PI, halves_2JI = room
    q_PI, dout_PI, out_PI = lanes_3PI[0], lanes_3PI[1], lanes_3PI[2]
    weights_JP, grads_JP = halves_2JI[0].view(np.uint32), halves_2JI[1].view(np.uint32)
    n_pairs = (len(q_IP) + 1) // 2
    _read_lanes(q_IP, q_PI)
    _read_lanes(dout_IP, dout_PI)
    _read_lanes(out_IP, out_PI)
    for c in range(rows_2CIK.shape[1]):
        columns = slice(c * LANES // 2, (c + 1) * LANES // 2)
        _pair_rows(q_IP[:, columns], rows_2CIK[0, c])
        _pair_rows(dout_IP[:, columns], rows_2CIK[1, c])
    # the gain of dropout is left to the very end
    delta_I = _dots(dout_PI, out_PI) / F32(2.0**32 / (2.0**32 - threshold))
    dq_KI[:] = F32(0)
    for j in range(0, len(k_LP), KEYS):
        to = min(j + KEYS, len(k_LP))
        scores, grads, pairs = scores_JI[: to - j], grads_JI[: to - j], pairs_PI[: (to - j) // 2]
        _multiply(scores, k_LP[j:to], q_PI, False)
        _multiply(grads, v_LP[j:to], dout_PI, False)
        scores[n - j :] = LOWEST
        if threshold > 0:
            _draw(draws_PI[: len(pairs)], row_I, j // 2)
        _grad_scores(scores, grads, draws_PI, lse_I, delta_I, scale, threshold)
        _round(scores, F32(1), halves_2JI[0, : to - j])
        _round(grads, F32(1), halves_2JI[1, : to - j])
        _pair_keys(grads, pairs)
        _multiply(dq_KI, k_PK[j // 2 : to // 2].T, pairs, True)
        for c in range(rows_2CIK.shape[1]):
            _multiply(sums_2CLK[0, c, j:to], grads_JP[: to - j], rows_2CIK[0, c, :n_pairs], True)
            _multiply(sums_2CLK[1, c, j:to], weights_JP[: to - j], rows_2CIK[1, c, :n_pairs], True)
    _write_lanes(dq_KI, share_I, q_PI, dq_IP)


@compiled()
def gradient_items(work, offsets, tensors, lse_NH, grads, scale, seed, threshold):  # type: ignore[no-untyped-def]
    """Gradients of `attend_items` within each (cell, head) of `work`, whose first is the longest.

    `grads` are the gradient of the outputs, then room for those of queries, keys and values, the
    last two as ``[N, H, K]`` of 16 bits.
    """
    q_NHP, k_NHP, v_NHP, out_NHP = tensors
    dout_NHP, dq_NHP, dk_NHK, dv_NHK = grads
    most = offsets[work[0, 0] + 1] - offsets[work[0, 0]] + ROWS
    n_pairs = q_NHP.shape[2]
    chunks = (2 * n_pairs + LANES - 1) // LANES
    gain = F32(2.0**32 / (2.0**32 - threshold))
    share_I = np.full(LANES, gain * scale * F32(np.log(2)))  # times 1 / sqrt(K)
    k_LP, v_LP = np.empty((most, n_pairs), np.uint32), np.empty((most, n_pairs), np.uint32)
    k_PK = np.empty((most // 2, 2 * n_pairs), np.uint32)
    sums_2CLK = np.empty((2, chunks, most, LANES), np.float32)
    row_I, lse_I = np.empty(LANES, np.uint32), np.empty(LANES, np.float32)
    room = (
        np.empty((3, n_pairs, LANES), np.uint32),
        np.zeros((2, chunks, LANES // 2, LANES), np.uint32),
        np.empty((2 * n_pairs, LANES), np.float32),
        (np.empty((KEYS, LANES), np.float32), np.empty((KEYS, LANES), np.float32)),
        np.zeros((KEYS // 2, LANES), np.uint32),
        np.empty((KEYS // 2, LANES), np.uint32),
        np.empty((2, KEYS, LANES), np.uint16),
    )
    for item in range(len(work)):
        head = work[item, 1]
        start, end = offsets[work[item, 0]], offsets[work[item, 0] + 1]
        n = end - start
        padded = (n + ROWS - 1) // ROWS * ROWS
        _read_rows(k_NHP[start:end, head], k_LP[:padded])
        _read_rows(v_NHP[start:end, head], v_LP[:padded])
        _pair_rows(k_NHP[start:end, head], k_PK[: padded // 2])
        keys = k_LP[:padded], v_LP[:padded], k_PK[: padded // 2]
        sums_2CLK[:, :, :padded] = F32(0)
        for first in range(start, end, LANES):
            last = min(first + LANES, end)
            q_IP, out_IP = q_NHP[first:last, head], out_NHP[first:last, head]
            rows = q_IP, out_IP, dout_NHP[first:last, head], dq_NHP[first:last, head]
            lse_I[: last - first] = lse_NH[first:last, head]
            lse_I[last - first :] = F32(0)
            _seed_rows(row_I, seed, first, head, q_NHP.shape[1])
            _grad_queries(rows, keys, n, sums_2CLK, lse_I, row_I, share_I, scale, threshold, room)
        for c in range(chunks):
            columns = slice(c * LANES, (c + 1) * LANES)
            _round(sums_2CLK[0, c], share_I[0], dk_NHK[start:end, head, columns])
            _round(sums_2CLK[1, c], gain, dv_NHK[start:end, head, columns])
