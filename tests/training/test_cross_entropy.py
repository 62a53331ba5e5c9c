"""The fused head against torch's linear layer, cross-entropy and autograd."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cellscribe.training import cross_entropy as module
from cellscribe.training.cross_entropy import LANES, cross_entropy

VOCABULARY, WIDTH = 3 * LANES - 7, 24
BF16_STEP = 2.0**-8


def problem(
    n_places: int, seed: int = 0, scale: float = 1.0, vocabulary: int = VOCABULARY
) -> tuple[torch.Tensor, ...]:
    """hidden, weight, bias, targets, weights: ragged shares, as of cells of 1 to 40 genes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    targets = torch.randint(0, vocabulary, (n_places,), generator=generator)
    genes = torch.randint(1, 41, (n_places,), generator=generator)
    hidden, weight, bias = normal(n_places, WIDTH), normal(vocabulary, WIDTH), normal(vocabulary)
    return hidden * scale, weight * 0.3, bias, targets, 1 / genes


def naive(hidden, weight, bias, targets, weights, dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as one expression; products of what `dtype` makes of their factors, in float64."""
    logits = hidden.to(dtype).double() @ weight.to(dtype).double().T + bias.double()
    losses = F.cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum(), losses


def gradients(function, inputs, dtype, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    """Total, losses, and the three gradients of ``scale * total`` divided by `scale`."""
    leaves = [x.clone().requires_grad_() for x in inputs[:3]]
    total, losses = function(*leaves, *inputs[3:], dtype)
    (total * scale).backward()
    return total.detach(), losses.detach(), *(leaf.grad / scale for leaf in leaves)


def relative(x: torch.Tensor, expected: torch.Tensor) -> float:
    """Length of the difference as a share of what was expected."""
    difference = float((x.double() - expected.double()).norm())
    return difference / float(expected.double().norm()) if difference else 0.0


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six rows a chunk, at most."""
    monkeypatch.setattr(module, "LOGITS", 6 * 3 * LANES + 5)
    monkeypatch.setattr(module, "GPU_LOGITS", 6 * 3 * LANES + 5)


@pytest.mark.parametrize("n_places", [1, 5, 6, 7, 50])
def test_float32_equals_autograd(n_places: int, small_chunks: None) -> None:
    inputs = problem(n_places)
    total, losses, *ours = gradients(cross_entropy, inputs, torch.float32)
    expected, expected_losses, *theirs = gradients(naive, inputs, torch.float32)
    assert relative(total, expected) < 1e-6
    torch.testing.assert_close(losses.double(), expected_losses, rtol=1e-6, atol=1e-6)
    for x, y in zip(ours, theirs, strict=True):
        assert x.dtype == torch.float32
        assert relative(x, y) < 1e-5


@pytest.mark.parametrize("n_places", [1, 5, 6, 7, 50])
def test_bf16_is_as_near_as_bf16_comes(n_places: int, small_chunks: None) -> None:
    """Logits and gradients of logits are rounded once, each product once more."""
    inputs = problem(n_places, seed=1)
    total, losses, *ours = gradients(cross_entropy, inputs, torch.bfloat16)
    expected, expected_losses, *theirs = gradients(naive, inputs, torch.bfloat16)
    assert relative(total, expected) < BF16_STEP
    largest = float((inputs[0] @ inputs[1].T).abs().max())
    torch.testing.assert_close(losses.double(), expected_losses, rtol=0, atol=BF16_STEP * largest)
    for x, y in zip(ours, theirs, strict=True):
        assert x.dtype == torch.float32
        assert relative(x, y) < 2 * BF16_STEP


def test_bf16_losses_are_exact_for_logits_without_rounding() -> None:
    """Logits which bf16 holds: what is left is the error of the sum of exponentials."""
    inputs = list(problem(40, seed=2, vocabulary=5000))
    generator = torch.Generator().manual_seed(2)
    inputs[0] = torch.eye(WIDTH)[torch.randint(0, WIDTH, (40,), generator=generator)]
    inputs[1] = (inputs[1] * 20).bfloat16().float()
    with torch.no_grad():
        _, losses = cross_entropy(*inputs, torch.bfloat16)
        _, expected = naive(*inputs, torch.float32)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=0)


def test_compiled_and_torch_paths_agree_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = problem(50, seed=3)
    compiled = gradients(cross_entropy, inputs, torch.bfloat16)
    monkeypatch.setattr(module, "_takes_compiled", lambda *_: False)
    for x, y in zip(compiled, gradients(cross_entropy, inputs, torch.bfloat16), strict=True):
        assert relative(x, y) < BF16_STEP


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_places_give_nothing(dtype: torch.dtype) -> None:
    total, losses, *ours = gradients(cross_entropy, problem(0), dtype)
    assert total == 0
    assert losses.shape == (0,)
    assert [x.shape for x in ours] == [(0, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,)]
    assert all((x == 0).all() for x in ours)


@pytest.mark.parametrize("loss_scale", [1.0, 65536.0])
def test_fp16_keeps_tiny_shares(loss_scale: float) -> None:
    """Shares of 1e-7 times a softmax of 1 / V are far below fp16's smallest number."""
    *rest, weights = problem(30, seed=4, scale=0.1, vocabulary=5000)
    inputs = (*rest, weights * 1e-7)
    ours = gradients(cross_entropy, inputs, torch.float16, loss_scale)
    for x, y in zip(ours, gradients(naive, inputs, torch.float32), strict=True):
        assert relative(x, y) < 1e-2
    # the many small gradients too, not only the large ones of the targets
    untouched = torch.ones(5000, dtype=torch.bool)
    untouched[inputs[3]] = False
    expected = gradients(naive, inputs, torch.float32)
    assert relative(ours[4][untouched], expected[4][untouched]) < 1e-2
    assert relative(ours[3][untouched], expected[3][untouched]) < 1e-2


def test_fp16_does_not_overflow_where_places_share_a_target() -> None:
    hidden, weight, bias, targets, weights = problem(400, seed=5)
    inputs = (hidden.abs() * 9, weight, bias, torch.zeros_like(targets), torch.ones_like(weights))
    for x, y in zip(
        gradients(cross_entropy, inputs, torch.float16),
        gradients(naive, inputs, torch.float16),
        strict=True,
    ):
        assert relative(x, y) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_gradient_the_losses_are_the_same(dtype: torch.dtype, small_chunks: None) -> None:
    inputs = problem(20, seed=6)
    total, losses, *_ = gradients(cross_entropy, inputs, dtype)
    leaves = [x.clone().requires_grad_() for x in inputs[:3]]
    with torch.no_grad():
        total_alone, losses_alone = cross_entropy(*leaves, *inputs[3:], dtype)
    assert not total_alone.requires_grad
    assert torch.equal(losses_alone, losses)
    assert torch.equal(total_alone, total)


def test_losses_take_no_gradient() -> None:
    hidden, *others = problem(3)
    total, losses = cross_entropy(hidden.requires_grad_(), *others, torch.float32)
    assert total.requires_grad
    assert not losses.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_calls_accumulate(dtype: torch.dtype) -> None:
    """Two batches, the second scaled, add up to the sum of what each gives alone."""
    first, second = problem(9, seed=7), problem(12, seed=8)
    weight, bias = (x.clone().requires_grad_() for x in first[1:3])
    cross_entropy(first[0], weight, bias, *first[3:], dtype)[0].backward()
    (3 * cross_entropy(second[0], weight, bias, *second[3:], dtype)[0]).backward()
    shared = (second[0], first[1], first[2], *second[3:])
    one, other = gradients(cross_entropy, first, dtype), gradients(cross_entropy, shared, dtype)
    torch.testing.assert_close(weight.grad, one[3] + 3 * other[3])
    torch.testing.assert_close(bias.grad, one[4] + 3 * other[4])


def test_a_second_backward_is_refused() -> None:
    hidden, *others = problem(3)
    total, _ = cross_entropy(hidden.requires_grad_(), *others, torch.float32)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="handed out before"):
        total.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_extreme_logits_stay_finite(dtype: torch.dtype, sign: float) -> None:
    """All logits -80 but one of 80, which is the target or is not."""
    hidden, weight = torch.zeros(2, WIDTH), torch.zeros(VOCABULARY, WIDTH)
    hidden[:, 0] = 1
    weight[:, 0] = -80 * sign
    weight[5, 0] = 80 * sign
    inputs = (hidden, weight, torch.zeros(VOCABULARY), torch.tensor([5, 9]), torch.ones(2))
    total, losses, *ours = gradients(cross_entropy, inputs, dtype)
    _, expected, *theirs = gradients(naive, inputs, torch.float32)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-30)
    assert total.isfinite()
    # float32 near 80 is rounded by 4e-6, and its exponential is off by as much
    step = torch.finfo(dtype).eps + 1e-5
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.double(), y.double(), rtol=step, atol=160 * step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [1, 2, LANES - 1, LANES, LANES + 1, 3000])
def test_equal_logits_give_log_v(dtype: torch.dtype, vocabulary: int) -> None:
    hidden, weight, bias, targets, weights = problem(4, vocabulary=vocabulary)
    bias = torch.full_like(bias, -7.3)
    _, losses = cross_entropy(hidden, torch.zeros_like(weight), bias, targets, weights, dtype)
    torch.testing.assert_close(losses, torch.full((4,), math.log(vocabulary)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_broken_place_shows_in_its_own_loss(dtype: torch.dtype) -> None:
    hidden, *others = problem(6)
    hidden[2] = torch.nan
    total, losses = cross_entropy(hidden.requires_grad_(), *others, dtype)
    assert losses.isnan().tolist() == [False, False, True, False, False, False]
    assert total.isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("target", [-1, VOCABULARY])
def test_targets_outside_the_vocabulary_are_refused(dtype: torch.dtype, target: int) -> None:
    hidden, weight, bias, targets, weights = problem(6)
    targets[4] = target
    with pytest.raises((IndexError, RuntimeError), match=r"out of bounds|outside"):
        cross_entropy(hidden, weight, bias, targets, weights, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_gives_what_a_cpu_gives(dtype: torch.dtype, small_chunks: None) -> None:
    inputs = problem(50, seed=9)
    on_gpu = gradients(cross_entropy, tuple(x.cuda() for x in inputs), dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 2 * BF16_STEP
    for x, y in zip(on_gpu, gradients(naive, inputs, dtype), strict=True):
        assert relative(x.cpu(), y) < tolerance
