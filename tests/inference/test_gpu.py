"""Embedding as on a GPU: its logic on CPU tensors here, the device itself where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

import cellscribe
from cellscribe.cells.counts import open_counts
from cellscribe.cells.gene_names.genes import map_genes
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.cells.rank import rank_cells
from cellscribe.cells.tokens import PER_CELL, CellTokens
from cellscribe.config import ModelConfig, Pooling, load_preset
from cellscribe.errors import InputError
from cellscribe.families.bert.model import Bert
from cellscribe.families.registry import Opened, RankedHeader
from cellscribe.inference import gpu
from cellscribe.inference.embedder import Block, Embedder
from cellscribe.inference.pinned import Streams, stage
from cellscribe.model.checkpoint import Checkpoint
from cellscribe.model.encoder import MaskedGeneModel, initialise

CPU = torch.device("cpu")
BLOCK, GROUP = 64, 2


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several groups, each of several batches, from a few hundred cells."""
    monkeypatch.setattr(gpu, "BLOCK", BLOCK)
    monkeypatch.setattr(gpu, "GROUP", GROUP)
    monkeypatch.setattr(gpu, "GPU_TOKENS", 4_096)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Products this small are slower on two threads, and far slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_checkpoint(
    config: ModelConfig, vocabulary: Vocabulary, pooling: Pooling | None = None
) -> Checkpoint:
    model = MaskedGeneModel(config)
    initialise(model, seed=1)
    return Checkpoint(
        name="test",
        config=config,
        vocabulary=vocabulary,
        model=model,
        provenance={},
        hash="0",
        pooling=pooling or Pooling(),
    )


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    """300 real cells, some of them emptied, one gene named twice."""
    adata = cellscribe.sample()[:300].copy()
    counts = adata.X.tolil()
    counts[[3, 128, 299]] = 0
    adata.X = counts.tocsr()
    ids = adata.var["ensembl_id"].to_list()
    ids[7] = ids[2]
    adata.var["gene"] = ids
    return adata


@pytest.fixture(scope="module")
def vocabulary(cells: anndata.AnnData) -> Vocabulary:
    """Two genes of three of the sample."""
    ids = sorted({name for place, name in enumerate(cells.var["gene"]) if place % 3})
    medians = np.random.default_rng(0).lognormal(size=len(ids))
    return Vocabulary.build(ids, [""] * len(ids), medians)


WAYS: dict[str, tuple[dict[str, Any], Pooling]] = {
    "cls": ({}, Pooling()),
    "no cls": ({"cls_token": False}, Pooling()),
    "both ends": ({"sep_token": True}, Pooling(hidden_layer=-2, pool="genes_but_last")),
    "at cls": ({"sep_token": True}, Pooling(pool="cls")),
    "cell head": ({"cell_vector_size": 12, "sep_token": True}, Pooling(pool="head")),
}


@pytest.fixture(scope="module", params=WAYS)
def embedder(request: pytest.FixtureRequest, vocabulary: Vocabulary) -> Embedder:
    specials, pooling = WAYS[request.param]
    config = ModelConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        context=100,
        **specials,
        # the usual 0.02 leaves attention nearly flat, and a wrong mask or order unnoticed
        initializer_range=0.4,
    )
    return embedder_of(make_checkpoint(config, vocabulary, pooling), CPU)


def embedder_of(
    checkpoint: Checkpoint, device: torch.device, precision: str = "float32"
) -> Embedder:
    header = RankedHeader(
        name=checkpoint.name,
        directory=Path(),
        family=checkpoint.family,
        table=checkpoint.vocabulary,
        provenance={},
        config=checkpoint.config,
        pooling=checkpoint.pooling,
    )
    opened = Opened(header=header, cells=Bert(checkpoint), hash=checkpoint.hash)
    return Embedder(opened, device, precision, threads=1)  # type: ignore[arg-type]


def bert_of(embedder: Embedder) -> Bert:
    bert = embedder.cells
    assert isinstance(bert, Bert)
    return bert


def run(
    embedder: Embedder, cells: anndata.AnnData, **options: object
) -> tuple[np.ndarray, CellTokens]:
    blocks = list(blocks_of(embedder, cells, **options))
    vectors = np.concatenate([block.vectors for block in blocks])
    return vectors, CellTokens.concatenate([block.cells for block in blocks])


def blocks_of(embedder: Embedder, cells: anndata.AnnData, **options: object) -> Iterator[Block]:
    bert = bert_of(embedder)
    with open_counts(cells) as counts:
        genes = map_genes(counts.var, bert.vocabulary, gene_key="gene")
        yield from gpu.gpu_blocks(bert, counts, genes, **options)


def ranked_on_cpu(embedder: Embedder, cells: anndata.AnnData) -> CellTokens:
    vocabulary = bert_of(embedder).vocabulary
    token = map_genes(cells.var, vocabulary, gene_key="gene").token
    return rank_cells(csr_matrix(cells.X), token, vocabulary.medians, embedder.context)


def assert_same_cells(found: CellTokens, wanted: CellTokens) -> None:
    for name in ("tokens", "offsets", *PER_CELL):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(wanted, name).dtype


@given(
    # Columns may repeat in a cell, hold a stored zero, share a token, or be unknown.
    cells=st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 2, 70_000, 2**31 - 1]))),
        min_size=1,
        max_size=6,
    ),
    tokens=st.lists(st.sampled_from([-1, 5, 6, 7]), min_size=10, max_size=10),
    dtype=st.sampled_from([np.int32, np.uint32, np.int64, np.float64]),
    context=st.integers(1, 3),
)
@settings(max_examples=150)
def test_counting_agrees_with_ranking(
    cells: list[list[tuple[int, int]]], tokens: list[int], dtype: type, context: int
) -> None:
    indptr = np.cumsum([0, *map(len, cells)])
    columns = np.array([column for cell in cells for column, _ in cell], dtype=np.int32)
    data = np.array([count for cell in cells for _, count in cell], dtype=dtype)
    block = csr_matrix((data, columns, indptr), shape=(len(cells), 10))
    token_of_column = np.array(tokens, dtype=np.int32)
    wanted = rank_cells(block, token_of_column, np.ones(8), context)
    staged = stage(block, token_of_column, 8, Streams(CPU))
    for name in PER_CELL:
        np.testing.assert_array_equal(staged.per_cell[name], getattr(wanted, name), err_msg=name)
    np.testing.assert_array_equal(
        np.minimum(staged.per_cell["genes_known"], context), wanted.lengths
    )
    assert staged.longest == max(map(len, cells))


def test_fractional_counts_are_staged_and_rounded_in_sum_alone() -> None:
    block = csr_matrix(np.array([[0.25, 0.4, 0.8], [0, 1.5, 0.1]], dtype=np.float32))
    tokens = np.array([5, 6, 5], np.int32)
    staged = stage(block, tokens, 7, Streams(CPU), whole=False)
    np.testing.assert_array_equal(staged.csr[2].numpy(), block.data.astype(np.float64))
    wanted = rank_cells(block, tokens, np.ones(7), 3)
    assert wanted.umis.tolist() == [1, 2] and wanted.genes.tolist() == [3, 2]
    for name in PER_CELL:
        np.testing.assert_array_equal(staged.per_cell[name], getattr(wanted, name), err_msg=name)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.float32])
def test_counts_of_any_type_are_staged(dtype: type) -> None:
    block = csr_matrix(np.array([[0, 1, 1], [1, 0, 0]], dtype=dtype))
    staged = stage(block, np.array([5, 6, -1], np.int32), 7, Streams(CPU))
    assert [tensor.tolist() for tensor in staged.csr] == [[0, 2, 3], [1, 2, 0], [1, 1, 1]]
    assert staged.per_cell["umis_known"].tolist() == [1, 1]


@pytest.mark.parametrize("packed", [True, False])
def test_vectors_and_cells_equal_the_cpus(
    embedder: Embedder, cells: anndata.AnnData, packed: bool
) -> None:
    vectors, ranked = run(embedder, cells, packed=packed)
    wanted = embedder.embed(cells, gene_key="gene")
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-5)
    assert_same_cells(ranked, ranked_on_cpu(embedder, cells))
    assert (vectors[[3, 128, 299]] == 0).all()
    assert np.abs(np.delete(vectors, [3, 128, 299], axis=0)).max(axis=1).min() > 0


@pytest.mark.parametrize("start", [BLOCK, 2 * BLOCK, 3 * BLOCK, 70])
def test_any_start_gives_the_same_bytes(
    embedder: Embedder, cells: anndata.AnnData, start: int
) -> None:
    vectors, ranked = run(embedder, cells)
    later, ranked_later = run(embedder, cells, start=start)
    np.testing.assert_array_equal(later, vectors[start:])
    assert_same_cells(ranked_later, ranked.slice(start, len(vectors)))
    # Batches stay what they were because groups begin where they would have begun.
    size = GROUP * BLOCK
    assert len(next(blocks_of(embedder, cells, start=start)).vectors) == size - start % size


def test_progress_counts_every_cell_once(embedder: Embedder, cells: anndata.AnnData) -> None:
    told: list[tuple[int, int]] = []
    run(embedder, cells, start=BLOCK, progress=lambda done, total: told.append((done, total)))
    done = [done for done, _ in told]
    assert {total for _, total in told} == {cells.n_obs}
    assert done == sorted(done)
    assert done[0] >= BLOCK
    assert done[-1] == cells.n_obs
    assert len(done) > 2 * GROUP


def test_cells_without_any_count(embedder: Embedder, cells: anndata.AnnData) -> None:
    empty = cells[:150].copy()
    empty.X = csr_matrix(empty.shape, dtype=np.int32)
    vectors, ranked = run(embedder, empty)
    assert vectors.shape == (150, embedder.width)
    assert not vectors.any()
    assert not ranked.lengths.any()


def test_bad_counts_come_through_the_threads(embedder: Embedder, cells: anndata.AnnData) -> None:
    bad = cells.copy()
    bad.X = bad.X.astype(np.float32)
    bad.X.data[-1] = 0.5
    with pytest.raises(InputError, match="not raw counts"):
        run(embedder, bad)


def test_lack_of_memory_is_told_in_one_line(
    embedder: Embedder, cells: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(bert_of(embedder).network, "forward", too_much)
    with pytest.raises(InputError, match=r"too little free memory .*; end what else runs on it"):
        run(embedder, cells)


def test_leaving_early_ends_the_threads(embedder: Embedder, cells: anndata.AnnData) -> None:
    import threading

    before = set(threading.enumerate())
    blocks = blocks_of(embedder, cells)
    next(blocks)
    assert set(threading.enumerate()) > before
    blocks.close()
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("packed", [True, False])
def test_no_value_is_asked_of_the_device(
    embedder: Embedder, cells: anndata.AnnData, packed: bool
) -> None:
    """Tensors of device "meta" have no values: whatever needs one to go on fails there."""
    known, streams = bert_of(embedder), Streams(torch.device("meta"))
    bert = Bert(make_checkpoint(known.config, known.vocabulary, known.rule))
    bert.network.to("meta")
    with open_counts(cells) as counts:
        genes = map_genes(counts.var, bert.vocabulary, gene_key="gene")
        queue = gpu._Queue(bert, genes, streams, packed)
        for block in counts.blocks(BLOCK):
            queue.rank(stage(block, genes.token, len(bert.vocabulary), streams))
            if queue.n_blocks == GROUP:
                group = queue.embed()
                assert group.vectors_CD.shape == (GROUP * BLOCK, embedder.width)
                assert group.tokens_N.shape == (group.lengths.sum(),)


# On a device


@pytest.fixture
def real_blocks(monkeypatch: pytest.MonkeyPatch, small_blocks: None) -> None:
    """Sizes as they are used."""
    monkeypatch.undo()


def on_cuda(embedder: Embedder, precision: str) -> Embedder:
    bert = bert_of(embedder)
    fresh = make_checkpoint(bert.config, bert.vocabulary, bert.rule)
    fresh.model.encoder.load_state_dict(bert.network.state_dict())
    return embedder_of(fresh, torch.device("cuda"), precision)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnCuda:
    """Against the same cells on the CPU in float32."""

    def test_tokens_equal_the_cpus(self, embedder: Embedder, cells: anndata.AnnData) -> None:
        _, ranked = run(on_cuda(embedder, "float32"), cells)
        assert_same_cells(ranked, ranked_on_cpu(embedder, cells))

    @pytest.mark.parametrize("packed", [True, False])
    def test_float32_vectors(
        self, embedder: Embedder, cells: anndata.AnnData, packed: bool
    ) -> None:
        vectors, _ = run(on_cuda(embedder, "float32"), cells, packed=packed)
        wanted = embedder.embed(cells, gene_key="gene")
        np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-5)

    def test_half_precision_keeps_the_direction(
        self, embedder: Embedder, cells: anndata.AnnData
    ) -> None:
        bf16 = torch.cuda.get_device_capability() >= (8, 0)
        vectors = on_cuda(embedder, "bf16" if bf16 else "fp16").embed(cells, gene_key="gene")
        assert least_cosine(vectors, embedder.embed(cells, gene_key="gene")) > 0.9995

    def test_the_same_bytes_again_and_from_any_start(
        self, embedder: Embedder, cells: anndata.AnnData
    ) -> None:
        device = on_cuda(embedder, "float32")
        vectors, _ = run(device, cells)
        np.testing.assert_array_equal(run(device, cells)[0], vectors)
        np.testing.assert_array_equal(run(device, cells, start=BLOCK)[0], vectors[BLOCK:])

    # torch says once that this mode does not see every way to wait.
    @pytest.mark.filterwarnings("ignore:Synchronization debug mode")
    def test_nothing_waits_for_the_device(self, embedder: Embedder, cells: anndata.AnnData) -> None:
        bf16 = torch.cuda.get_device_capability() >= (8, 0)
        device = on_cuda(embedder, "bf16" if bf16 else "fp16")
        wanted, _ = run(device, cells)  # libraries set themselves up in a first run
        torch.cuda.set_sync_debug_mode("error")
        try:
            vectors, _ = run(device, cells)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        np.testing.assert_array_equal(vectors, wanted)

    @pytest.mark.usefixtures("real_blocks")
    @pytest.mark.parametrize("preset", ["geneformer-10m", "geneformer-106m"])
    def test_presets_run(self, preset: str, cells: anndata.AnnData) -> None:
        config = load_preset(preset)
        ids = sorted(set(cells.var["gene"]))
        ids += [f"ENSG9{place:010d}" for place in range(config.vocab_size - 5 - len(ids))]
        vocabulary = Vocabulary.build(ids, [""] * len(ids), np.ones(len(ids)))
        some = cells[:4].copy()
        on_cpu = embedder_of(make_checkpoint(config, vocabulary), CPU, "float32")
        wanted = on_cpu.embed(some, gene_key="gene")
        bf16 = torch.cuda.get_device_capability() >= (8, 0)
        vectors = on_cuda(on_cpu, "bf16" if bf16 else "fp16").embed(some, gene_key="gene")
        assert least_cosine(vectors, wanted) > 0.9995


def least_cosine(vectors: np.ndarray, wanted: np.ndarray) -> float:
    """Of the cells that are not empty; empty ones must be so in both."""
    filled = wanted.any(axis=1)
    assert not vectors[~filled].any()
    a, b = vectors[filled].astype(np.float64), wanted[filled].astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())
