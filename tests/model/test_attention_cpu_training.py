"""The trainable CPU attention against autograd over a softmax written out in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from cellscribe.errors import InputError
from cellscribe.model import attention_cpu
from cellscribe.model.attention import Lengths, packed
from cellscribe.model.attention_cpu_training import attend, dropout_mask

HEADS = 3
LENGTHS = [1, 2, 3, 0, 31, 63, 64, 65, 130, 255, 256, 257]
SEED = 11

needs_kernel = pytest.mark.skipif(
    not attention_cpu.has_bf16_kernel(), reason="needs a CPU with AVX512-BF16"
)


@pytest.fixture(autouse=True)
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


def batch(
    lengths: list[int], width: int, dtype: torch.dtype, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """q, k and v in one tensor, a gradient of the output, and the offsets."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    generator = torch.Generator().manual_seed(width)
    values = torch.randn((int(offsets[-1]), 4, HEADS, width), generator=generator)
    values[:, 0] *= scale
    values = values.to(dtype)
    return values[:, :3], values[:, 3].contiguous(), offsets


def run(qkv, dout, offsets, dropout=0.0, seed=SEED) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and gradient of q, k and v, from slices of one tensor as in training."""
    leaf = qkv.clone().requires_grad_()
    out = attend(*leaf.unbind(1), offsets, dropout, seed)
    out.backward(dout)
    return out.detach(), leaf.grad


def closed_form(qkv, dout, offsets, dropout=0.0, seed=SEED) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in float64 by torch's own autograd, with the mask laid on by hand."""
    leaf = qkv.double().requires_grad_()
    kept_share = 1 - round(dropout * 2**16) / 2**16
    parts = []
    for start, end in pairwise(offsets.tolist()):
        q, k, v = leaf[start:end].permute(1, 2, 0, 3)
        weights = (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).softmax(-1)
        if dropout:
            weights = weights * dropout_mask(start, end - start, HEADS, dropout, seed) / kept_share
        parts.append((weights @ v).transpose(0, 1))
    out = torch.cat(parts)
    out.backward(dout.double())
    return out.detach(), leaf.grad


def assert_close(actual: torch.Tensor, expected: torch.Tensor, offsets, tolerance: float) -> None:
    """Close cell by cell: by the largest entry, and on the average by a fifth of that."""
    for start, end in pairwise(offsets.tolist()):
        if end > start:
            error = (actual[start:end].double() - expected[start:end]).abs()
            size = expected[start:end].abs()
            assert error.max() <= tolerance * max(size.max(), 1.0)
            assert error.mean() <= tolerance / 5 * max(size.mean(), 1.0)


@needs_kernel
@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("width", [32, 64, 128])
def test_bf16_equals_the_closed_form(width: int, dropout: float) -> None:
    qkv, dout, offsets = batch(LENGTHS, width, torch.bfloat16)
    for actual, expected in zip(
        run(qkv, dout, offsets, dropout), closed_form(qkv, dout, offsets, dropout), strict=True
    ):
        # weights, gradients of scores and results are each rounded once to 2^-8
        assert_close(actual, expected, offsets, 3 * 2.0**-8)


@needs_kernel
def test_bf16_holds_where_a_few_keys_take_all_weight() -> None:
    qkv, dout, offsets = batch([5, 130, 300], 64, torch.bfloat16, scale=30.0)
    out, grad = run(qkv, dout, offsets, 0.1)
    expected_out, expected_grad = closed_form(qkv, dout, offsets, 0.1)
    assert_close(out, expected_out, offsets, 2.0**-6)
    # where a weight is 1, the slope of its score is a difference of nearly equal numbers, known to
    # the rounding of the output; the gradient of keys holds it times queries, thirty times larger
    for x in (grad, expected_grad):
        x[:, 1] /= 30
    assert_close(grad, expected_grad, offsets, 2.0**-6)


@needs_kernel
def test_scores_far_below_zero_leave_no_trace_in_the_padding() -> None:
    """Scores about -7,000, so that a key of zeros beyond the end would outweigh all others."""
    qkv, dout, offsets = batch([3, 65], 64, torch.bfloat16)
    qkv[:, 0], qkv[:, 1] = 30 + 0.1 * qkv[:, 0], qkv[:, 1] / 8 - 30
    out, grad = run(qkv, dout, offsets)
    expected_out, expected_grad = closed_form(qkv, dout, offsets)
    assert_close(out, expected_out, offsets, 3 * 2.0**-8)
    for x in (grad, expected_grad):
        x[:, :2] /= 30
    assert_close(grad, expected_grad, offsets, 2.0**-6)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_float32_equals_the_closed_form(dropout: float) -> None:
    qkv, dout, offsets = batch(LENGTHS, 32, torch.float32)
    actual, expected = run(qkv, dout, offsets, dropout), closed_form(qkv, dout, offsets, dropout)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_plain_path_has_the_slope_of_finite_differences(dropout: float) -> None:
    qkv, _, offsets = batch([1, 4, 3], 4, torch.float64)
    leaf = qkv.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attend(*x.unbind(1), offsets, dropout, SEED), (leaf,))


@needs_kernel
def test_one_key_gives_its_value_and_passes_the_gradient_on() -> None:
    """With a single token the weight is 1, whatever the score: dv = dout, dq = dk = 0."""
    qkv, dout, offsets = batch([1, 1], 64, torch.bfloat16)
    out, grad = run(qkv, dout, offsets)
    assert torch.equal(out, qkv[:, 2])
    assert torch.equal(grad[:, 2], dout)
    torch.testing.assert_close(grad[:, :2], torch.zeros_like(grad[:, :2]), rtol=0, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_kernel)])
def test_the_mask_is_what_is_applied(dtype: torch.dtype) -> None:
    """Equal scores and one-hot values: the output shows which keys of a query were kept."""
    lengths, dropout = [7, 64, 5], 0.25
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    zeros = torch.zeros((int(offsets[-1]), HEADS, 64), dtype=dtype)
    place = torch.cat([torch.arange(n) for n in lengths])
    values = torch.nn.functional.one_hot(place, 64).to(dtype)[:, None].expand_as(zeros)
    out = attend(zeros, zeros, values, offsets, dropout, SEED)
    for start, end in pairwise(offsets.tolist()):
        mask = dropout_mask(start, end - start, HEADS, dropout, SEED)
        seen = out[start:end, :, : end - start].transpose(0, 1)
        assert torch.equal(seen > 0, mask)
        kept = torch.full_like(seen, 1 / (end - start) / (1 - dropout))
        torch.testing.assert_close(seen[mask], kept[mask], rtol=2.0**-7, atol=0)


@pytest.mark.parametrize("dropout", [0.02, 0.1, 0.5])
def test_share_of_dropped_weights(dropout: float) -> None:
    mask = dropout_mask(1000, 257, 4, dropout, SEED)
    exact = 1 - round(dropout * 2**16) / 2**16
    deviation = (exact * (1 - exact)) ** 0.5
    assert abs(mask.double().mean() - exact) < 4 * deviation / mask.numel() ** 0.5
    # by head, by query and by key: each sum is binomial too
    for axes in [(1, 2), (0, 2), (0, 1)]:
        shares = mask.double().mean(dim=axes)
        drawn = mask.numel() / len(shares)
        assert (shares - exact).abs().max() < 5 * deviation / drawn**0.5


def test_draws_of_heads_queries_keys_and_seeds_are_not_correlated() -> None:
    mask = dropout_mask(0, 256, 4, 0.1, SEED).double()
    others = {
        "seed": dropout_mask(0, 256, 4, 0.1, SEED + 1).double(),
        "place": dropout_mask(256, 256, 4, 0.1, SEED).double(),
        "head": mask.roll(1, 0),
        "query": mask.roll(1, 1),
        "key": mask.roll(1, 2),
        "pair": mask.roll(2, 2),
    }
    for name, other in others.items():
        correlation = np.corrcoef(mask.flatten(), other.flatten())[0, 1]
        assert abs(correlation) < 5 / mask.numel() ** 0.5, name


@needs_kernel
def test_seed_decides_and_threads_do_not(set_threads: Callable[[int], None]) -> None:
    qkv, dout, offsets = batch([90, 1, 33, 130], 64, torch.bfloat16)
    results = []
    for threads, seed in ((1, 5), (2, 5), (64, 5), (1, 6)):
        set_threads(threads)
        results.append(run(qkv, dout, offsets, 0.1, seed))
    first, *others = results
    for out, grad in others[:2]:
        assert torch.equal(out, first[0])
        assert torch.equal(grad, first[1])
    assert not torch.equal(others[2][0], first[0])
    assert not torch.equal(others[2][1], first[1])


@needs_kernel
def test_without_dropout_it_is_the_inference_kernel() -> None:
    qkv, dout, offsets = batch(LENGTHS, 64, torch.bfloat16)
    out, _ = run(qkv, dout, offsets)
    assert torch.equal(out, attention_cpu.attend(*qkv.unbind(1), offsets))


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_kernel)])
def test_a_gradient_does_not_depend_on_neighbours(dtype: torch.dtype) -> None:
    qkv, dout, offsets = batch([71, 129, 3, 300], 64, dtype)
    qkv[:71] = torch.nan  # a broken neighbour stays alone with it
    out, grad = run(qkv, dout, offsets)
    assert out[:71].isnan().all()
    for start, end in pairwise(offsets[1:].tolist()):
        alone = run(qkv[start:end], dout[start:end], np.array([0, end - start]))
        torch.testing.assert_close(out[start:end], alone[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(grad[start:end], alone[1], rtol=0, atol=1e-6)


@needs_kernel
def test_any_layout_of_inputs_and_gradient() -> None:
    qkv, _, offsets = batch([40, 71], 32, torch.bfloat16)
    dout = torch.ones((), dtype=torch.bfloat16).expand_as(qkv[:, 0])
    expected = run(qkv, dout, offsets, 0.1)
    leaves = [x.contiguous().requires_grad_() for x in qkv.unbind(1)]
    heads_apart = leaves[1].transpose(0, 1).contiguous().transpose(0, 1)
    out = attend(leaves[0], heads_apart, leaves[2], offsets, 0.1, SEED)
    out.backward(dout)
    assert torch.equal(out, expected[0])
    assert torch.equal(torch.stack([x.grad for x in leaves], dim=1), expected[1])


@needs_kernel
def test_machines_without_the_kernel_drop_the_same_weights(monkeypatch) -> None:
    qkv, dout, offsets = batch([40, 71], 64, torch.bfloat16)
    kernel = run(qkv, dout, offsets, 0.1)
    monkeypatch.setattr(attention_cpu, "has_bf16_kernel", lambda: False)
    for actual, expected in zip(run(qkv, dout, offsets, 0.1), kernel, strict=True):
        assert_close(actual, expected.double(), offsets, 2.0**-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tokens_at_all(dtype: torch.dtype) -> None:
    qkv, dout, offsets = batch([0, 0], 64, dtype)
    out, grad = run(qkv, dout, offsets, 0.1)
    assert out.shape == dout.shape
    assert grad.shape == qkv.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_draws_from_the_generator_of_torch(dtype: torch.dtype) -> None:
    qkv, _, _ = batch([20, 9], 64, dtype)
    cells = Lengths((20, 9), torch.device("cpu"))
    leaf = qkv.clone().requires_grad_()

    def once(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return packed(*leaf.unbind(1), cells, 0.1)

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))
    assert torch.autograd.grad(once(1).float().sum(), leaf)[0].abs().sum() > 0


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 0.999999, float("nan")])
def test_a_dropout_that_leaves_nothing_is_refused(dropout: float) -> None:
    qkv, _, offsets = batch([3], 32, torch.float32)
    with pytest.raises(InputError, match="set it from 0 to below 1"):
        attend(*qkv.unbind(1), offsets, dropout, SEED)
