"""The training reader: every cell once, the same batches for any number of ranks, exact resuming.

What is read is compared with pyarrow's own reading of the same files.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from support.corpus import write_corpus

from cellscribe.cells.gene_names.vocabulary import CLS, PAD
from cellscribe.config import ReaderOptions
from cellscribe.corpus import reader, row_groups
from cellscribe.corpus.order import EpochOrder
from cellscribe.corpus.reader import Batch, Reader
from cellscribe.corpus.store import open_corpus, tokens_name
from cellscribe.errors import InputError

Cells = list[list[int]]
GOLDEN = [(1, 1), (0, 0), (0, 1), (2, 0), (1, 0), (1, 4), (0, 2), (2, 1), (1, 2), (1, 3)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of 270 cells in 18 row groups, and a validation split."""
    folder = tmp_path_factory.mktemp("reader") / "corpus"
    return write_corpus(folder, {"train": [100, 103, 67], "val": [9]})


def tokens_of(folder: Path, split: str = "train") -> dict[int, list[int]]:
    """Cell number -> tokens, as pyarrow reads them."""
    found = {}
    for path in sorted((folder / "tokens" / split).iterdir()):
        table = pq.read_table(path, columns=["cell", "input_ids"])
        found |= dict(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    return found


def cells_of(batches: Iterable[Batch]) -> Cells:
    return [batch.cells.tolist() for batch in batches]


def joined(parts: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


def rows_of(batch: Batch) -> list[list[int]]:
    """Tokens of each cell, whatever the layout."""
    if batch.tokens.ndim == 1:
        return [part.tolist() for part in np.split(batch.tokens, batch.offsets[1:-1])]
    assert (batch.tokens[np.arange(batch.tokens.shape[1]) >= batch.lengths[:, None]] == PAD).all()
    return [row[:n].tolist() for row, n in zip(batch.tokens, batch.lengths, strict=True)]


def test_order_is_kept_for_good() -> None:
    order = EpochOrder(np.array([3, 5, 2]), seed=1, epoch=2, lanes=4)
    groups, rows = order.share(0, 10, 0, 1)
    assert list(zip(groups.tolist(), rows.tolist(), strict=True)) == GOLDEN


@given(
    rows=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    ranks=st.sampled_from([1, 2, 3, 6]),
    factor=st.integers(1, 3),
    step=st.integers(1, 40),
    seed=st.integers(0, 1 << 40),
)
def test_order_has_every_cell_once(
    rows: list[int], ranks: int, factor: int, step: int, seed: int
) -> None:
    lanes, total = ranks * factor, sum(rows)
    order = EpochOrder(np.array(rows), seed, 3, lanes)
    whole = list(zip(*(part.tolist() for part in order.share(0, total, 0, 1)), strict=True))
    assert sorted(whole) == [(group, row) for group, n in enumerate(rows) for row in range(n)]
    for rank in range(ranks):
        some = EpochOrder(np.array(rows), seed, 3, lanes)
        mine = []
        for start in range(0, total, step):
            share = some.share(start, min(start + step, total), rank, ranks)
            mine += zip(*(part.tolist() for part in share), strict=True)
        assert mine == whole[rank::ranks]


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(
    shards=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    row_group=st.integers(1, 40),
    ranks=st.sampled_from([2, 3, 4]),
    factor=st.integers(1, 5),
    batch_cells=st.integers(4, 60),
    block=st.integers(1, 100),
)
def test_every_cell_once_and_the_same_batches_for_any_number_of_ranks(
    tmp_path_factory: pytest.TempPathFactory,
    shards: list[int],
    row_group: int,
    ranks: int,
    factor: int,
    batch_cells: int,
    block: int,
) -> None:
    folder = tmp_path_factory.mktemp("cells") / "corpus"
    opened = open_corpus(write_corpus(folder, {"train": shards}, row_group=row_group))
    options = ReaderOptions(batch_cells=batch_cells, lanes=ranks * factor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "BLOCK", block)
        alone = cells_of(Reader(opened, options))
        shared = [
            cells_of(Reader(opened, options, rank=rank, world_size=ranks)) for rank in range(ranks)
        ]
    assert sorted(joined(alone)) == list(range(sum(shards)))
    assert [len(batch) for batch in alone[:-1]] == [batch_cells] * (len(alone) - 1)
    assert {len(part) for part in shared} == {len(alone)}
    for together, parts in zip(alone, zip(*shared, strict=True), strict=True):
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert sorted(together) == sorted(joined(parts))


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("context", [None, 10])
def test_tokens_are_those_of_the_files(
    corpus: Path, layout: Any, cls_token: bool, context: int | None
) -> None:
    expected = tokens_of(corpus)
    options = ReaderOptions(
        batch_cells=32, layout=layout, cls_token=cls_token, context=context, lanes=4
    )
    for number, batch in enumerate(Reader(corpus, options)):
        assert (batch.epoch, batch.number) == (0, number)
        assert [a.dtype for a in (batch.tokens, batch.lengths)] == [np.int32] * 2
        told = [[CLS] * cls_token + expected[cell][:context] for cell in batch.cells.tolist()]
        assert rows_of(batch) == told
        if layout == "padded":
            assert batch.tokens.shape == (len(told), max(map(len, told)))


def test_lists_that_cannot_be_null_are_read_as_well(corpus: Path, tmp_path: Path) -> None:
    """A builder may declare the lists without nulls, and compress them in another way."""
    import pyarrow as pa

    from cellscribe.corpus.row_groups import TokenFiles

    table = pq.read_table(corpus / tokens_name("train", 0))
    element = pa.field("element", pa.uint16(), nullable=False)
    field = pa.field("input_ids", pa.list_(element), nullable=False)
    lists = table["input_ids"].combine_chunks()
    strict = pa.ListArray.from_arrays(lists.offsets, lists.values, type=field.type)
    schema = pa.schema([pa.field("cell", pa.int64()), field])
    path = tmp_path / "strict.parquet"
    pq.write_table(pa.table([table["cell"], strict], schema=schema), path, compression="lz4")
    group = TokenFiles([path]).read(0, 0, len(table))
    assert group.tokens.tolist() == lists.values.to_pylist()
    assert group.offsets.tolist() == lists.offsets.to_pylist()


def test_batches_depend_on_seed_and_epoch_alone(corpus: Path) -> None:
    def read(epoch: int, **options: Any) -> Cells:
        return cells_of(Reader(corpus, ReaderOptions(batch_cells=20, **options)).epoch(epoch))

    first = read(0)
    assert read(0, threads=5, layout="packed", context=3) == first
    assert read(1) != first
    assert read(0, seed=1) != first
    running = Reader(corpus, ReaderOptions(batch_cells=20))
    assert [cells_of(running), cells_of(running), cells_of(running)] == [read(e) for e in range(3)]


def test_drop_last(corpus: Path) -> None:
    every = Reader(corpus, ReaderOptions(batch_cells=100))
    full = Reader(corpus, ReaderOptions(batch_cells=100, drop_last=True))
    assert (len(every), len(full)) == (3, 2)
    assert cells_of(full) == cells_of(every)[:2]


def test_other_split(corpus: Path) -> None:
    (batch,) = Reader(corpus, ReaderOptions(split="val"))
    assert sorted(batch.cells) == list(tokens_of(corpus, "val"))


@pytest.mark.parametrize("cut", [0, 1, 7, 13, 14, 20])
def test_state_leads_to_the_very_next_batch(
    corpus: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken while the threads have run ahead; 14 batches are an epoch."""
    monkeypatch.setattr(reader, "BLOCK", 60)
    options = ReaderOptions(batch_cells=20, lanes=12)

    def batches(source: Reader) -> Iterable[Batch]:
        for _ in range(2):
            yield from source

    whole = [rows_of(batch) for batch in batches(Reader(corpus, options))]
    one = Reader(corpus, options)
    going = iter(batches(one))
    for _ in range(cut):
        next(going)
    state = json.loads(json.dumps(one.state_dict()))
    other = Reader(corpus, ReaderOptions(batch_cells=20, lanes=12, threads=4))
    other.load_state_dict(state)
    rest = [batch for _ in range(2 - cut // 14) for batch in other]
    assert [rows_of(batch) for batch in rest] == whole[cut:]
    assert [batch.epoch for batch in rest] == [n // 14 for n in range(cut, 28)]

    shared = [Reader(corpus, options, rank=rank, world_size=3) for rank in range(3)]
    for part in shared:
        part.load_state_dict(state)
    found = [sorted(joined(cells)) for cells in zip(*map(cells_of, shared), strict=True)]
    ends = cut - cut % 14 + 14
    assert found == [sorted(batch.cells.tolist()) for batch in rest][: ends - cut]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """File and place of each row group that is decoded."""
    seen: list[tuple[int, int]] = []
    read = row_groups.TokenFiles.read

    def note(self: Any, file: int, place: int, rows: int) -> Any:
        seen.append((file, place))
        return read(self, file, place, rows)

    monkeypatch.setattr(row_groups.TokenFiles, "read", note)
    return seen


def test_row_groups_are_decoded_once(
    corpus: Path, loads: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BLOCK", 16)
    groups = len(row_groups.row_groups(open_corpus(corpus).token_files("train")))
    for _ in Reader(corpus, ReaderOptions(lanes=4, batch_cells=16)):
        pass
    assert len(loads) == len(set(loads)) == groups
    loads.clear()
    for rank in range(4):
        for _ in Reader(corpus, ReaderOptions(lanes=4), rank=rank, world_size=4):
            pass
    assert len(set(loads)) == groups
    # Where a row group lies across two ranks' lanes, both need it.
    assert len(loads) < groups + 4


def test_going_on_reads_nothing_of_what_came_before(
    corpus: Path, loads: list[tuple[int, int]]
) -> None:
    late = Reader(corpus, ReaderOptions(lanes=4, batch_cells=16))
    late.load_state_dict(late.state_dict() | {"batch": len(late) - 1})
    (last,) = late
    assert len(last.cells) == 270 % 16
    assert len(loads) <= 4


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of 4,096 cells in 256 row groups."""
    return write_corpus(tmp_path_factory.mktemp("large") / "corpus", {"train": [1_024] * 4})


def test_order_is_well_mixed(large: Path) -> None:
    batches = cells_of(Reader(large, ReaderOptions(lanes=32, batch_cells=64)))
    order = joined(batches)
    # Of 4,096 shuffled cells the rank correlation has a standard deviation of 1/64.
    assert abs(spearmanr(order, np.arange(len(order))).statistic) < 4 / 64
    assert abs(spearmanr(order[:-1], order[1:]).statistic) < 4 / 64
    for batch in batches:
        assert len({cell // 16 for cell in batch}) >= 28
    again = joined(cells_of(Reader(large, ReaderOptions(lanes=32, batch_cells=64)).epoch(1)))
    assert abs(spearmanr(np.argsort(order), np.argsort(again)).statistic) < 4 / 64


def test_memory_does_not_grow_with_the_corpus(
    corpus: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BLOCK", 16)
    alive: weakref.WeakSet[row_groups.RowGroup] = weakref.WeakSet()
    read = row_groups.TokenFiles.read

    def note(*args: Any) -> row_groups.RowGroup:
        group = read(*args)
        alive.add(group)
        return group

    monkeypatch.setattr(row_groups.TokenFiles, "read", note)
    options = ReaderOptions(lanes=4, batch_cells=16, threads=2)
    for folder, total in ((corpus, 18), (large, 256)):
        most = max(len(alive) for _ in Reader(folder, options))
        # Four lanes, each of which may have begun its next one, and two blocks that are ahead.
        assert most <= 12 < total


def no_reader_threads() -> bool:
    return not any(thread.name.startswith("read-corpus") for thread in threading.enumerate())


def test_leaving_a_loop_ends_the_threads(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BLOCK", 64)
    one = Reader(large, ReaderOptions(batch_cells=64))
    batches = iter(one)
    next(batches)
    assert not no_reader_threads()
    batches.close()
    assert no_reader_threads()
    # The batch that was handed out counts as read.
    assert one.state_dict()["batch"] == 1
    assert next(iter(one)).number == 1


def test_no_more_files_stay_open_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "OPEN_FILES", 3)
    folder = write_corpus(tmp_path / "corpus", {"train": [20] * 12})
    few = Reader(folder, ReaderOptions(batch_cells=20))
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    seen = 0
    for _ in few:
        seen = max(seen, sum(str(os.readlink(fd)).startswith(str(folder)) for fd in open_fds()))
    assert 1 <= seen <= 3 + 2
    assert not any(str(os.readlink(fd)).startswith(str(folder)) for fd in open_fds())


def open_fds() -> list[Path]:
    return [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]


def refusal(action: Any) -> str:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_options_that_cannot_be(corpus: Path) -> None:
    def told(rank: int = 0, world_size: int = 1, **options: Any) -> str:
        make = lambda: Reader(corpus, ReaderOptions(**options), rank=rank, world_size=world_size)
        return refusal(make)

    assert "set lanes to 66" in told(world_size=6)
    assert "lower batch_cells" in told(batch_cells=271, drop_last=True)
    assert "raise it" in told(batch_cells=3, world_size=4)
    assert "rank 2" in told(rank=2, world_size=2)
    assert "there are train, val" in told(split="test")
    assert "layout must be 'padded' or 'packed'" in told(layout="ragged")
    assert "negative" in told(seed=-1)
    for name in ("batch_cells", "lanes", "threads", "context"):
        assert f"{name} must be positive" in told(**{name: 0})


def test_states_that_do_not_fit(corpus: Path, tmp_path: Path) -> None:
    one = Reader(corpus, ReaderOptions(batch_cells=20))
    state = one.state_dict()
    for name, other in (("seed", 1), ("lanes", 32), ("batch_cells", 40), ("split", "val")):
        strange = Reader(corpus, ReaderOptions(**({"batch_cells": 20} | {name: other})))
        assert f"{name} {state[name]}" in refusal(lambda: strange.load_state_dict(state))  # noqa: B023
    elsewhere = write_corpus(tmp_path / "corpus", {"train": [270]})
    strange = Reader(elsewhere, ReaderOptions(batch_cells=20))
    assert "corpus" in refusal(lambda: strange.load_state_dict(state))
    for name in state:
        less = {key: value for key, value in state.items() if key != name}
        assert f"no '{name}'" in refusal(lambda: one.load_state_dict(less))  # noqa: B023
    for place in ({"batch": 14}, {"batch": -1}, {"epoch": -1}, {"epoch": "one"}):
        assert "begin anew" in refusal(lambda: one.load_state_dict(state | place))  # noqa: B023
    assert one.state_dict() == state


def test_a_file_that_vanishes_or_is_damaged(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", {"train": [200, 200]}, row_group=20)
    one = Reader(folder, ReaderOptions(batch_cells=50))
    path = folder / tokens_name("train", 1)
    whole = path.read_bytes()

    path.unlink()
    assert f"{path} has vanished" in refusal(lambda: list(one))
    path.write_bytes(whole[: len(whole) // 2])
    assert f"{path} cannot be read" in refusal(lambda: list(one))
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    assert f"{path} cannot be read" in refusal(lambda: list(one))
    pq.write_table(pq.read_table(folder / tokens_name("train", 0)), path)
    assert "row groups have changed" in refusal(lambda: list(one))
    assert no_reader_threads()
    path.write_bytes(whole)
    assert sorted(joined(cells_of(one.epoch(0)))) == list(range(400))
