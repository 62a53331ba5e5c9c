"""FAVOR+ against its definition in float64 with every table spelt out, and against softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from families.formula import fill

from cellscribe.errors import InputError
from cellscribe.families import performer
from cellscribe.families.performer import KeySums, Performer, published_names, scaled
from cellscribe.families.weights import renamed
from cellscribe.model.attention import Lengths
from cellscribe.model.encoder import set_compute_dtype

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def features(x: np.ndarray, projection: np.ndarray, peak: float | None) -> np.ndarray:
    """phi of ``[L, K]`` in float64; `peak` None: each row has its own."""
    width = projection.shape[1]
    dashed = x @ projection.T / width**0.25
    norms = (x**2).sum(1, keepdims=True) / (2 * width**0.5)
    peaks = dashed.max(1, keepdims=True) if peak is None else peak
    return (np.exp(dashed - norms - peaks) + 1e-4) / len(projection) ** 0.5


def attention(q: np.ndarray, k: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """Attention of every query to every key, ``[H, L, L]``, from ``[L, H, K]``."""
    peak = float((k @ projection.T).max() / projection.shape[1] ** 0.25)
    tables = []
    for head in range(q.shape[1]):
        keys = features(k[:, head], projection, peak)
        table = features(q[:, head], projection, None) @ keys.T
        tables.append(table / table.sum(1, keepdims=True))
    return np.stack(tables)


def mixed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """What the package makes of ``[L, H, K]``."""
    sums = KeySums(q.shape[1], scaled(p), v.shape[2])
    sums.add(k, v)
    return sums.table().read(q)


def inputs(length: int, heads: int = 3, width: int = 16, n: int = 40) -> list[torch.Tensor]:
    """Queries, keys, values ``[L, H, K]`` and projection ``[M, K]``."""
    qkv = [fill(f"{x}{length}", (length, heads, width), 1.5) for x in "qkv"]
    return [*qkv, fill("p", (n, width), 3**0.5)]


@pytest.mark.parametrize("length", [1, 5, 300])
def test_attention_is_its_definition(length: int) -> None:
    q, k, v, p = inputs(length)
    # The largest projection comes in the second chunk: the sums of the first have to be scaled.
    k[length // 2 :] *= 2
    weights = attention(q.double().numpy(), k.double().numpy(), p.double().numpy())
    expected = np.einsum("hij,jhk->ihk", weights, v.double().numpy())
    np.testing.assert_allclose(mixed(q, k, v, p).numpy(), expected, rtol=0, atol=2e-5)


def test_with_many_features_it_nears_softmax_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    # Epsilon pulls towards even attention, and the more so the more features there are.
    monkeypatch.setattr(performer, "EPSILON", 0.0)
    generator = torch.Generator().manual_seed(0)
    q, k, v, _ = inputs(30, heads=1)
    q, k = q / 2, k / 2  # the spread of the estimate grows with exp of their squares
    p = torch.randn(60_000, 16, generator=generator)
    exact = torch.softmax(q[:, 0] @ k[:, 0].T / math.sqrt(16), dim=1) @ v[:, 0]
    error = (mixed(q, k, v, p)[:, 0] - exact).abs().max()
    # Without attention, what would be wrong is of this size.
    assert error < 0.1 * (v[:, 0].mean(0) - exact).abs().max()


def trunk(*, qkv_bias: bool = False, seed: str = "trunk") -> Performer:
    net = Performer(
        width=24, heads=2, head_width=16, ffn_width=40, depth=2, features=30, qkv_bias=qkv_bias
    )
    with torch.no_grad():
        for name, x in net.state_dict().items():
            scale = 1.7 if name.endswith("projection") else 0.4
            x.copy_(fill(seed + name, x.shape, scale) + float("norm.weight" in name))
    return net.eval()


def plainly(net: Performer, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The trunk in float64, and the tables ``[H, L, L]`` of each layer."""
    erf = np.vectorize(math.erf)
    state = {name: value.double().numpy() for name, value in net.state_dict().items()}

    def linear(y: np.ndarray, name: str) -> np.ndarray:
        return y @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)

    def norm(y: np.ndarray, name: str) -> np.ndarray:
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
        return y * state[f"{name}.weight"] + state[f"{name}.bias"]

    tables = []
    for i in range(len(net.layers)):
        at = f"layers.{i}"
        qkv = linear(norm(x, f"{at}.attention_norm"), f"{at}.qkv")
        q, k, v = qkv.reshape(len(x), 3, 2, 16).transpose(1, 0, 2, 3)
        tables.append(attention(q, k, state[f"{at}.projection"]))
        out = np.einsum("hij,jhk->ihk", tables[-1], v).reshape(len(x), -1)
        x = x + linear(out, f"{at}.attention_out")
        up = linear(norm(x, f"{at}.ffn_norm"), f"{at}.up")
        x = x + linear(0.5 * up * (1 + erf(up / math.sqrt(2))), f"{at}.down")
    return x, tables


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_trunk_is_its_definition(qkv_bias: bool) -> None:
    net, x = trunk(qkv_bias=qkv_bias), fill("x", (50, 24), 1.5)
    before = x.clone()
    with torch.no_grad():
        out = net(x, Lengths((50,), CPU))
    torch.testing.assert_close(x, before, rtol=0, atol=0)  # the input is left as it was
    expected = plainly(net, x.double().numpy())[0]
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-4)


def test_attention_received_is_the_column_mean_of_the_table() -> None:
    net, x = trunk(), fill("x", (50, 24), 1.5)
    table = plainly(net, x.double().numpy())[1][0]
    with torch.no_grad():
        received = net.layers[0].received(x)  # type: ignore[operator]
    np.testing.assert_allclose(received.numpy(), table.mean((0, 1)), rtol=1e-4)
    assert float(received.sum()) == pytest.approx(1.0, abs=1e-5)
    assert received.max() > 1.2 * received.min()


def test_chunks_and_stretches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = trunk(), fill("x", (200, 24), 1.5)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return net(x, Lengths((200,), CPU)), net.layers[0].received(x)  # type: ignore[operator]

    whole = both()
    monkeypatch.setattr(performer, "STRETCH", 33)
    monkeypatch.setattr(performer, "CHUNK", 7)
    torch.testing.assert_close(both(), whole, rtol=0, atol=1e-5)


def test_a_cell_does_not_depend_on_its_neighbours() -> None:
    net = trunk()
    # A neighbour with far longer keys would be the peak of all, were cells not apart.
    parts = [fill("a", (20, 24), 1.5), fill("b", (70, 24), 9.0), fill("c", (1, 24), 1.5)]
    with torch.no_grad():
        alone = torch.cat([net(x, Lengths((len(x),), CPU)) for x in parts])
        together = net(torch.cat(parts), Lengths((20, 70, 1), CPU))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_products_follow_the_compute_dtype() -> None:
    x, cells = fill("x", (50, 24), 1.5), Lengths((50,), CPU)
    net, half = trunk(), trunk()
    set_compute_dtype(half, torch.bfloat16, cast_weights=True)
    with torch.no_grad():
        exact, rough = net(x, cells), half(x, cells)
    assert rough.dtype == torch.float32
    error = float((rough - exact).abs().max() / exact.abs().max())
    assert 1e-6 < error < 0.03


def published(qkv_bias: bool) -> dict[str, torch.Tensor]:
    """The trunk's tensors under published names, q, k and v apart."""
    state = trunk(qkv_bias=qkv_bias).state_dict()
    out: dict[str, torch.Tensor] = {}
    for ours, theirs in published_names(2, qkv_bias=qkv_bias).items():
        out |= dict(zip(theirs, state[ours].chunk(len(theirs)), strict=True))
    return out


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_published_names_cover_the_state(qkv_bias: bool) -> None:
    net = trunk(qkv_bias=qkv_bias)
    theirs = published(qkv_bias)
    assert theirs["performer.net.layers.1.0.fn.to_k.weight"].shape == (32, 24)
    tensors = renamed(theirs, published_names(2, qkv_bias=qkv_bias), "file")
    assert tensors.keys() == net.state_dict().keys()
    for name, x in net.state_dict().items():
        torch.testing.assert_close(tensors[name], x, rtol=0, atol=0)


def drop(state: dict[str, torch.Tensor]) -> None:
    del state["performer.net.layers.0.0.fn.to_q.weight"]


def add(state: dict[str, torch.Tensor]) -> None:
    state["performer.net.layers.2.0.norm.weight"] = torch.ones(24)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (drop, r"file: lacks performer\.net\.layers\.0\.0\.fn\.to_q\.weight \(1 tensors"),
        (add, r"file: also holds performer\.net\.layers\.2\.0\.norm\.weight \(1 tensors"),
    ],
)
def test_missing_and_left_over_tensors(
    spoil: Callable[[dict[str, torch.Tensor]], None], line: str
) -> None:
    state = published(False)
    spoil(state)
    with pytest.raises(InputError, match=line):
        renamed(state, published_names(2, qkv_bias=False), "file")
