"""What is counted in a corpus: the same as pandas and NumPy count."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cards import SIZES, by_design, describe_with, frame, put
from support.corpus import write_corpus

from cellscribe.corpus.card import describe
from cellscribe.corpus.statistics import ValueCounts, find_repeats
from cellscribe.corpus.store import open_corpus
from cellscribe.errors import InputError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("card") / "some", SIZES, change=by_design)


@given(
    st.lists(st.integers(0, 50), min_size=1),
    st.lists(st.integers(0, 50)),
    st.floats(0, 1),
)
def test_value_counts_give_the_quantiles_of_what_was_counted(
    some: list[int], more: list[int], at: float
) -> None:
    counts = ValueCounts.of(np.array(some)).plus(ValueCounts.of(np.array(more)))
    assert counts.n_cells == len(some) + len(more)
    assert counts.quantile(at) == pytest.approx(np.quantile(some + more, at), abs=1e-9)


@pytest.mark.parametrize("most", [1, 7, 60, 1_000])
def test_repeats_are_the_same_however_many_are_held(tmp_path: Path, most: int) -> None:
    rng = np.random.default_rng(1)

    def repeat(table: pa.Table, split: str, place: int) -> pa.Table:
        spread = rng.integers(0, 40, table.num_rows).astype(np.uint64) * np.uint64(2**64 // 40)
        return put(table, "cell_hash", spread)

    found = find_repeats(open_corpus(write_corpus(tmp_path / "c", SIZES, change=repeat)), most)
    hashes = frame(tmp_path / "c").groupby("split")["cell_hash"]
    sets = hashes.agg(set)
    assert found.within == {
        split: n for split in SIZES if (n := int((hashes.size() - hashes.nunique())[split]))
    }
    assert found.across == {
        (one, other): n
        for i, one in enumerate(SIZES)
        for other in list(SIZES)[i + 1 :]
        if (n := len(sets[one] & sets[other]))
    }


def test_progress_runs_through_all_cells(corpus: Path) -> None:
    told: list[tuple[int, int]] = []
    describe(open_corpus(corpus), lambda done, total: told.append((done, total)))
    assert told == [(60, 150), (105, 150), (125, 150), (140, 150), (150, 150)]


def test_a_corpus_that_contradicts_itself_is_refused(corpus: Path, tmp_path: Path) -> None:
    opened = open_corpus(corpus)
    told = json.loads(json.dumps(opened.manifest))
    told["splits"]["val"]["tokens"] += 1
    with pytest.raises(InputError, match=r"val has .* tokens, the manifest says .*; build"):
        describe(replace(opened, manifest=told))
    with pytest.raises(InputError, match="has no cells to describe; build"):
        describe(replace(opened, manifest=told | {"splits": {}}))

    def strange(table: pa.Table, split: str, place: int) -> pa.Table:
        tokens = [[155]] * table.num_rows
        return table.set_column(
            2, table.schema.field(2), pa.array(tokens, table.schema.field(2).type)
        )

    with pytest.raises(InputError, match="has token 155, and the genes of the table are 5 to 154"):
        describe_with(tmp_path, strange)
