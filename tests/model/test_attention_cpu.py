"""The CPU attention against a float64 softmax written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellscribe.errors import InputError
from cellscribe.model import attention_cpu
from cellscribe.model.attention_cpu import KEYS, LANES, ROWS, attend

HEADS, WIDTH = 3, 32
BF16_STEP = 2.0**-8
"""Relative step of bf16: an output is a mean of values; weights and mean are rounded once each."""

needs_kernel = pytest.mark.skipif(
    not attention_cpu.has_bf16_kernel(), reason="needs a CPU with AVX512-BF16"
)


def batch(lengths: list[int], seed: int, dtype: torch.dtype, scale: float = 1.0):
    """q, k, v as slices of one product, and the offsets."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn((int(offsets[-1]), 3, HEADS, WIDTH), generator=generator)
    qkv[:, 0] *= scale
    return qkv.to(dtype).unbind(1), offsets


def closed_form(q, k, v, offsets) -> np.ndarray:
    """Softmax attention in float64, one cell and one head at a time."""
    q, k, v = (x.to(torch.float64).numpy() for x in (q, k, v))
    out = np.empty_like(q)
    for start, end in pairwise(offsets):
        for head in range(q.shape[1]):
            scores = q[start:end, head] @ k[start:end, head].T / np.sqrt(q.shape[2])
            weights = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
            weights /= weights.sum(axis=1, keepdims=True)
            out[start:end, head] = weights @ v[start:end, head]
    return out


def assert_close_in_bf16(out, q, k, v, offsets) -> None:
    expected = closed_form(q, k, v, offsets)
    largest = np.abs(v.to(torch.float64).numpy()).max()
    np.testing.assert_allclose(out.double().numpy(), expected, rtol=0, atol=BF16_STEP * largest)


# around every edge of the blocks: rows, lanes, keys
EDGES = [
    1,
    2,
    ROWS - 1,
    ROWS + 1,
    LANES - 1,
    LANES,
    LANES + 1,
    KEYS - 1,
    KEYS,
    KEYS + 1,
    2 * KEYS + 7,
]


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 3e3])
def test_bf16_equals_the_closed_form_on_ragged_cells(scale: float) -> None:
    (q, k, v), offsets = batch(EDGES, 0, torch.bfloat16, scale)
    assert_close_in_bf16(attend(q, k, v, offsets), q, k, v, offsets)


def test_float32_equals_the_closed_form() -> None:
    (q, k, v), offsets = batch(EDGES, 1, torch.float32)
    out = attend(q, k, v, torch.from_numpy(offsets))
    np.testing.assert_allclose(out.numpy(), closed_form(q, k, v, offsets), rtol=0, atol=1e-5)


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 90), max_size=6),
    scale=st.floats(0, 1e4),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_lengths_and_scores(lengths: list[int], scale: float, seed: int) -> None:
    (q, k, v), offsets = batch(lengths, seed, torch.bfloat16, scale)
    if len(q):
        assert_close_in_bf16(attend(q, k, v, offsets), q, k, v, offsets)
    else:
        assert attend(q, k, v, offsets).shape == q.shape


def test_scores_far_apart_pick_one_key() -> None:
    """Scores of +-1e8: the weights are exactly one and zero, whichever block holds the key."""
    n = KEYS + 40
    q, k = torch.full((n, 1, WIDTH), 1e4), torch.full((n, 1, WIDTH), -1e4)
    v = torch.arange(n).remainder(251).float()[:, None, None].expand(n, 1, WIDTH)
    for winner in (0, 5, KEYS - 1, KEYS, n - 1):
        keys = k.clone()
        keys[winner] = 1e4
        out = attend(q.bfloat16(), keys.bfloat16(), v.bfloat16(), np.array([0, n]))
        np.testing.assert_allclose(out.float(), v[[winner]].expand_as(out), rtol=0, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_cell_does_not_depend_on_its_neighbours(dtype: torch.dtype) -> None:
    (q, k, v), offsets = batch([70, 130, 3, 300], 2, dtype)
    for x in (q, k, v):
        x[:70] = torch.nan  # a broken neighbour stays alone with it
    together = attend(q, k, v, offsets)
    assert together[:70].isnan().all()
    for start, end in pairwise(offsets[1:]):
        alone = attend(q[start:end], k[start:end], v[start:end], np.array([0, end - start]))
        torch.testing.assert_close(together[start:end], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_layout_of_the_input_does_not_matter(dtype: torch.dtype) -> None:
    (q, k, v), offsets = batch([40, 71], 3, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else BF16_STEP
    expected = attend(q, k, v, offsets)
    odd = torch.cat([q[..., :1], q], dim=2)[..., 1:]  # starts between two pairs
    widths_apart = k.transpose(1, 2).contiguous().transpose(1, 2)
    out = attend(odd, widths_apart, v.contiguous(), offsets)
    torch.testing.assert_close(out, expected, rtol=0, atol=tolerance)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_kernel
def test_threads_do_not_change_a_bit(set_threads: Callable[[int], None]) -> None:
    (q, k, v), offsets = batch([90, 1, 33], 4, torch.bfloat16)
    outputs = []
    for threads in (1, 2, 64):
        set_threads(threads)
        outputs.append(attend(q, k, v, offsets))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@needs_kernel
@pytest.mark.parametrize("width", [4, 20, 64, 128])
def test_kernel_takes_any_width_of_whole_rows(width: int) -> None:
    q, k, v = torch.randn((90, 3, 2, width), generator=torch.Generator().manual_seed(5)).unbind(1)
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    offsets = np.array([0, 25, 90])
    assert_close_in_bf16(attend(q, k, v, offsets), q, k, v, offsets)


def test_without_the_kernel_torch_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    (q, k, v), offsets = batch([40, 71], 6, torch.bfloat16)
    monkeypatch.setattr(attention_cpu, "has_bf16_kernel", lambda: False)
    assert_close_in_bf16(attend(q, k, v, offsets), q, k, v, offsets)


@pytest.mark.parametrize("offsets", [[0, 5], [1, 10], [0, 8, 6, 10], [0, 11]])
def test_offsets_that_do_not_divide_the_tokens_are_refused(offsets: list[int]) -> None:
    (q, k, v), _ = batch([10], 7, torch.bfloat16)
    with pytest.raises(InputError, match="offsets must rise from 0 to the 10 tokens"):
        attend(q, k, v, np.array(offsets))


def test_unequal_shapes_and_types_are_refused() -> None:
    (q, k, v), offsets = batch([10], 8, torch.bfloat16)
    with pytest.raises(InputError, match="differ in shape or type"):
        attend(q, k[:9], v, offsets)
    with pytest.raises(InputError, match="differ in shape or type"):
        attend(q, k.float(), v, offsets)
