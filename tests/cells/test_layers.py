"""The layer that is advised is one of counts, by the word that works when it is typed."""

from __future__ import annotations

import re
import shlex
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from cellscribe.cells.counts import open_counts
from cellscribe.errors import InputError

COUNTS = sp.random(40, 30, density=0.4, random_state=0, format="csr")
COUNTS.data = np.ceil(COUNTS.data * 50)
ONES = COUNTS.sign()
LOG = COUNTS.log1p()


def advised(adata: ad.AnnData, **options: Any) -> str:
    with pytest.raises(InputError) as caught, open_counts(adata, **options) as counts:
        list(counts.blocks(16))
    found = re.search(r"use --layer (.+)$", str(caught.value))
    assert found is not None, caught.value
    return shlex.split(found[1])[0]


def read(adata: ad.AnnData, said: list[str] | None = None, **options: Any) -> sp.csr_matrix:
    log = (lambda line: None) if said is None else said.append
    with open_counts(adata, log=log, **options) as counts:
        return sp.vstack(list(counts.blocks(16)))


@pytest.mark.parametrize(
    ("layers", "raw", "best"),
    [
        ({"aa_detected": ONES, "molecules": COUNTS}, None, "molecules"),
        ({"ambiguous": COUNTS, "raw_counts": COUNTS}, None, "raw_counts"),
        ({"ambiguous": COUNTS, "counts": COUNTS}, COUNTS, "counts"),
        ({"ambiguous": COUNTS}, COUNTS, "raw"),
        ({"raw": COUNTS}, LOG, "layers/raw"),
        ({"X": COUNTS}, LOG, "layers/X"),
        ({"my counts": COUNTS}, LOG, "my counts"),
    ],
)
@pytest.mark.parametrize("x", [LOG, sp.csr_matrix(COUNTS.shape), ONES, COUNTS * np.nan])
def test_the_word_that_is_advised_gives_the_counts(
    layers: dict[str, Any], raw: Any, best: str, x: sp.csr_matrix
) -> None:
    adata = ad.AnnData(X=x, layers=layers)
    if raw is not None:
        adata.raw = ad.AnnData(X=raw)
    word = advised(adata)
    assert word == best
    assert (read(adata, layer=word) != COUNTS).nnz == 0


def test_a_named_layer_that_is_not_counts_advises_another_word() -> None:
    adata = ad.AnnData(X=LOG, layers={"raw": COUNTS})
    adata.raw = ad.AnnData(X=LOG)
    assert advised(adata, layer="raw") == "layers/raw"


def test_zeros_and_ones_alone_are_read_with_a_word() -> None:
    said: list[str] = []
    assert (read(ad.AnnData(X=ONES, layers={"log": LOG}), said) != ONES).nnz == 0
    assert len(said) == 1 and "only zeros and ones" in said[0]
    # who names the matrix gets it
    said.clear()
    named = ad.AnnData(X=ONES, layers={"counts": COUNTS})
    assert (read(named, said, layer="X") != ONES).nnz == 0
    assert len(said) == 1
    assert read(ad.AnnData(X=COUNTS), said).nnz and len(said) == 1


def test_a_first_block_of_ones_says_nothing_of_the_others() -> None:
    x = sp.vstack([ONES[:16], COUNTS[16:]]).tocsr()
    said: list[str] = []
    assert (read(ad.AnnData(X=x, layers={"counts": COUNTS}), said) != x).nnz == 0
    assert not said


def test_layers_are_listed_by_words_that_work() -> None:
    adata = ad.AnnData(X=COUNTS, layers={"raw": COUNTS, "umi": COUNTS})
    adata.raw = ad.AnnData(X=LOG)
    with pytest.raises(InputError, match=r"there are X, layers/raw, umi, raw$"):
        open_counts(adata, layer="nothing")
