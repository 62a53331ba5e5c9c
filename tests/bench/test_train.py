"""`bench train`: the sides do the same work, or are refused; figures follow from seconds."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import train, train_peer, train_side
from benchmarks.train_side import KEEPING, OURS, PEER
from hypothesis import given, settings
from hypothesis import strategies as st
from support.command import Cli, nothing_new, refused
from support.training import planted_corpus

from cellscribe.cells.gene_names.vocabulary import CLS, PAD
from cellscribe.config import TrainOptions
from cellscribe.corpus.store import open_corpus
from cellscribe.errors import InputError
from cellscribe.model import peak
from cellscribe.training.masking import MaskedBatch, mask_cells

pytest.importorskip("transformers", reason="needs the dependency group bench")
pytestmark = pytest.mark.usefixtures("one_thread")

TINY = """
[model]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 32
max_position_embeddings = 64
context = 40
hidden_dropout_prob = 0.1

[training]
schedule_steps = 4
warmup_steps = 1
genes_per_cell = 12
full_length_steps = 2
"""
PLAYED = """
import json, sys
asked = json.loads(sys.argv[1])
print(json.dumps({"first_losses": {"float32": [1.0]}}), flush=True)
for line in sys.stdin:
    if int(line) > 3:
        sys.exit("out of memory")
    print(json.dumps({"side": asked["side"], "steps": int(line)}), flush=True)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_corpus(tmp_path_factory.mktemp("corpus") / "planted")


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@contextmanager
def side_here(
    side: str, record: dict[str, Any], scratch: Path
) -> Iterator[tuple[train_peer.Losses, train_peer.Turn]]:
    """A side in this process."""
    planned = train_side.plan_of(record)
    make = train_side.our_side if side == OURS else train_peer.peer_side
    batches = train_side.batches_of(planned)
    try:
        yield make(planned, Path(record["checkpoint"]), batches)
    finally:
        batches.close()


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    genes_per_cell=st.none() | st.integers(1, 20),
    seed=st.integers(0, 1_000),
)
def test_rows_hold_what_packed_cells_hold(
    lengths: list[int], genes_per_cell: int | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # A length of 1 is [CLS] and no gene.
    cells = [np.r_[CLS, 5 + rng.permutation(60)[: n - 1]] for n in lengths]
    batch = mask_cells(
        np.concatenate(cells).astype(np.int32),
        np.array(lengths, np.int32),
        np.arange(len(cells)),
        1,
        (5, 65),
        TrainOptions(seed=seed),
        front=1,
        genes_per_cell=genes_per_cell,
    )
    padded = train_peer.padded_batch(batch)
    masked = dict(zip(batch.chosen_M.tolist(), batch.targets_M.tolist(), strict=True))
    positions = padded.positions
    if positions is None:
        positions = torch.arange(padded.tokens.shape[1]).expand_as(padded.tokens)
    start = 0
    for cell, n in enumerate(batch.cells.lengths):
        here = slice(start, start + n)
        assert padded.tokens[cell, :n].tolist() == batch.tokens_N[here].tolist()
        assert positions[cell, :n].tolist() == batch.positions_N[here].tolist()
        labels = [masked.get(place, train_peer.IGNORED) for place in range(start, start + n)]
        assert padded.labels[cell, :n].tolist() == labels
        assert padded.mask[cell].tolist() == [1] * n + [0] * (padded.mask.shape[1] - n)
        assert set(padded.tokens[cell, n:].tolist()) <= {PAD}
        assert set(padded.labels[cell, n:].tolist()) <= {train_peer.IGNORED}
        start += n
    assert start == len(batch.tokens_N)
    assert padded.tokens.shape == (len(lengths), max(batch.cells.lengths))


def test_a_result_from_end_to_end(
    corpus: Path, preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peak, "measure_peak", lambda device: {"bf16": {"8x8x8": 50.0}})
    monkeypatch.setattr(train, "_side", side_here)
    path = train.bench_train(
        corpus, None, str(preset), cells=6, steps=2, repeats=3, device="cpu", out=tmp_path
    )
    found = json.loads(path.read_text())
    assert found["name"] == "train-tiny-cpu"
    assert found["settings"]["hidden_dropout"] == 0.1
    assert found["settings"]["corpus"] == open_corpus(corpus).hash
    # Cells show 12 of their 20 genes, and at the schedule's end (raised to 8 steps) all: the last
    # turn's. Each has its [CLS].
    assert found["tokens"] == [2 * 6 * 13, 2 * 6 * 13, 2 * 6 * 21]
    assert found["tokens_per_cell"] == pytest.approx((13 + 13 + 21) / 3)
    assert found["padding_of_peer"] == 0
    assert {side: len(each) for side, each in found["seconds"].items()} == {
        OURS: 3,
        PEER: 3,
        KEEPING: 3,
    }
    assert found["largest_loss_difference"]["float32"] < 1e-5
    assert found["first_loss"][OURS] == pytest.approx(found["first_loss"][PEER], abs=0.02)
    assert set(found["ratio_of_medians"]) == {PEER, KEEPING}
    assert found["peak_gflop_per_second"] == {"bf16": {"8x8x8": 50.0}}


def without_mask(padded: train_peer.Padded) -> train_peer.Padded:
    return padded._replace(mask=torch.ones_like(padded.mask))


def with_plain_positions(padded: train_peer.Padded) -> train_peer.Padded:
    return padded._replace(positions=None)


def with_one_other_gene(padded: train_peer.Padded) -> train_peer.Padded:
    padded.tokens[1, 3] = 5 + (int(padded.tokens[1, 3]) - 4) % 100
    return padded


def with_labels_moved(padded: train_peer.Padded) -> train_peer.Padded:
    return padded._replace(labels=padded.labels.roll(1, 1))


@pytest.mark.parametrize(
    "change", [without_mask, with_plain_positions, with_one_other_gene, with_labels_moved]
)
def test_a_peer_that_is_shown_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: Path, change: Any
) -> None:
    # Cells of unequal length, so that there is padding to attend to.
    from support.corpus import write_corpus

    corpus = write_corpus(tmp_path / "corpus", {"train": [60]})
    monkeypatch.setattr(peak, "measure_peak", lambda device: {"bf16": {"8x8x8": 50.0}})
    monkeypatch.setattr(train, "_side", side_here)

    def measure() -> Path:
        return train.bench_train(
            corpus, None, str(preset), cells=5, steps=1, repeats=1, device="cpu", out=tmp_path
        )

    right = train_peer.padded_batch

    def wrong(batch: MaskedBatch) -> train_peer.Padded:
        return change(right(batch))

    monkeypatch.setattr(train_peer, "padded_batch", wrong)
    with pytest.raises(RuntimeError, match="do not compute the same"):
        measure()
    nothing_new(tmp_path, "corpus", "tiny.toml")
    monkeypatch.setattr(train_peer, "padded_batch", right)
    assert json.loads(measure().read_text())["padding_of_peer"] > 0


def test_losses_are_compared_place_by_place() -> None:
    losses = {OURS: {"float32": [1.0, 2.0, 6.0]}, PEER: {"float32": [1.0, 2.00001, 6.0]}}
    record = train.compare_losses(losses, "float32")
    assert record["first_loss"][OURS] == 3
    assert record["largest_loss_difference"] == {"float32": pytest.approx(1e-5)}
    for theirs in ([2.0, 1.0, 6.0], [1.0, 2.0, float("nan")]):
        with pytest.raises(RuntimeError, match="do not compute the same"):
            train.compare_losses({**losses, PEER: {"float32": theirs}}, "float32")
    with pytest.raises(RuntimeError, match="not one batch"):
        train.compare_losses({**losses, PEER: {"float32": [1.0]}}, "float32")


def some_turn(order: list[str], name: str, **changes: Any) -> train_peer.Turn:
    def turn(steps: int) -> dict[str, Any]:
        order.append(name)
        record = {"seconds": 1.0, "cells": steps, "tokens": 9 * steps, "flop": 1e9, "losses": [1.0]}
        return record | changes

    return turn


def test_sides_take_turns_after_a_warm_up() -> None:
    order: list[str] = []
    sides = {OURS: some_turn(order, "a"), PEER: some_turn(order, "b")}
    taken = train.in_turns(sides, 2, 3)
    assert order == ["a", "b"] * 4
    assert {side: len(turns) for side, turns in taken.items()} == {OURS: 3, PEER: 3}
    assert taken[PEER][0]["tokens"] == 18


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokens": 17}, "differ in tokens"),
        ({"flop": 2e9}, "differ in flop"),
        ({"losses": [1.0, float("nan")]}, "not finite"),
    ],
)
def test_turns_that_differ_are_no_result(changes: dict[str, Any], expected: str) -> None:
    order: list[str] = []
    sides = {OURS: some_turn(order, "a"), PEER: some_turn(order, "b", **changes)}
    with pytest.raises(RuntimeError, match=expected):
        train.in_turns(sides, 2, 1)


def test_figures_follow_from_raw_seconds() -> None:
    def turns(seconds: list[float], **more: Any) -> list[dict[str, Any]]:
        tokens = [1_000, 2_000, 1_000]
        return [
            {"seconds": s, "tokens": t, "cells": 2, "flop": t * 1e7, **more}
            for s, t in zip(seconds, tokens, strict=True)
        ]

    taken = {
        OURS: turns([1.0, 4.0, 0.5]),  # 1,000, 500 and 2,000 tokens/s
        PEER: turns([4.0, 5.0, 8.0], places=1_600),  # 250, 400 and 125
        KEEPING: turns([2.0, 2.0, 8.0], places=1_600),  # 500, 1,000 and 125
    }
    found = train.rates(taken, peak_gflops=40.0)
    assert found["tokens_per_second"] == {OURS: 1_000, PEER: 250, KEEPING: 500}
    assert found["ratio_of_medians"] == {PEER: 4, KEEPING: 2}
    assert found["seconds"][PEER] == [4.0, 5.0, 8.0]
    assert found["gflop"] == pytest.approx([10, 20, 10])
    assert found["gflop_per_second"] == pytest.approx({OURS: 10, PEER: 2.5, KEEPING: 5})
    assert found["share_of_peak"] == pytest.approx({OURS: 0.25, PEER: 0.0625, KEEPING: 0.125})
    assert found["tokens_per_cell"] == pytest.approx(4_000 / 6)
    assert found["padding_of_peer"] == pytest.approx(1 - 4_000 / 4_800)


def test_a_side_answers_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "played.py"
    script.write_text(PLAYED)
    monkeypatch.setattr(train, "SIDE", (str(script),))
    with train._side(PEER, {"more": 1}, tmp_path) as (losses, turn):
        assert losses == {"float32": [1.0]}
        assert turn(3) == {"side": PEER, "steps": 3}
        for _ in range(2):
            with pytest.raises(InputError, match=r"transformers ended: out of memory; .*--cells"):
                turn(4)


def test_what_a_side_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "import json; print(json.dumps({'refused': 'take another preset'}))"
    monkeypatch.setattr(train, "SIDE", ("-c", said))
    with (
        pytest.raises(InputError, match="take another preset"),
        train._side(OURS, {}, tmp_path),
    ):
        pass


def test_pre_norm_has_no_peer(corpus: Path, preset: Path, tmp_path: Path) -> None:
    preset.write_text(TINY.replace("[training]", 'norm = "pre"\n[training]'))
    record = train._settings(str(preset), 4, 2, "cpu", tmp_path) | {"corpus": str(corpus)}
    planned = train_side.plan_of(record)
    train._start(planned, tmp_path / "model")
    with pytest.raises(InputError, match='norm = "post"'):
        train_peer.load_peer(tmp_path / "model", torch.device("cpu"))
    with pytest.raises(InputError, match="compares in bf16"):
        train._precision(replace(planned, dtype=torch.float16))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preset", "geneformer-11m"], "no preset 'geneformer-11m'"),
        (["--corpus", "nowhere"], "nowhere holds no corpus"),
        (["--cells", "0"], "global_batch must be positive"),
        (["--cells", "999"], "do not fill a batch of 999"),
        (["--steps", "0"], "--steps and --repeats must be positive"),
        (["--device", "cuda"], "no CUDA device"),
    ],
)
def test_refusals(
    bench: Cli,
    corpus: Path,
    preset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: str,
) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    monkeypatch.chdir(tmp_path)
    given = {"--preset": str(preset), "--corpus": str(corpus), "--out": "results"}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    line = refused(bench("train", *[word for pair in given.items() for word in pair]))
    assert expected in line
    nothing_new(tmp_path, "tiny.toml")


def test_cells_and_the_peer_are_needed(
    bench: Cli, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "name a --corpus" in refused(bench("train"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name)
    )
    line = refused(bench("train", "--corpus", corpus))
    assert "pip install --group bench" in line
    nothing_new(tmp_path)


@pytest.mark.slow
def test_each_side_in_its_own_process(
    bench: Cli, corpus: Path, preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peak, "SHAPES", ((8, 8, 8),))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["--preset", preset, "--corpus", corpus, "--cells", 4, "--repeats", 2]
    ran = bench("train", *words, "--device", "cpu", "--out", tmp_path)
    assert ran.status == 0, ran.err
    assert Path(ran.out.strip()) == tmp_path / "train-tiny-cpu.json"
    found = json.loads((tmp_path / "train-tiny-cpu.json").read_text())
    assert len(found["seconds"][KEEPING]) == 2
