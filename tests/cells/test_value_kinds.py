"""Fractional counts are told from normalised values and logarithms, and read where they are asked.

Cells are drawn from a gamma-Poisson mixture of unequal genes and depths, as sequencing gives them;
on real files the rules are tried in `test_counts_real`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from cellscribe.cells.counts import open_counts
from cellscribe.cells.value_kinds import sample_cells, tell_kind
from cellscribe.config import CountsKind, InputOptions
from cellscribe.errors import InputError

RANDOM = np.random.default_rng(1)
MEANS = RANDOM.lognormal(-1, 1.5, 800)
LENGTHS = RANDOM.lognormal(7.5, 0.8, 800)
DEPTHS = RANDOM.lognormal(0, 0.5, (60, 1))
COUNTS = sp.csr_matrix(RANDOM.poisson(RANDOM.gamma(1, MEANS * DEPTHS)).astype(np.float64))
Values = Callable[[], sp.csr_matrix]


def on_values(x: sp.csr_matrix, change: Callable[[np.ndarray], np.ndarray]) -> sp.csr_matrix:
    x = x.copy()
    x.data = change(x.data)
    x.eliminate_zeros()
    return x


def per(x: sp.csr_matrix, total: float) -> sp.csr_matrix:
    return sp.csr_matrix(sp.diags(total / np.asarray(x.sum(axis=1)).ravel()) @ x)


def tpm() -> sp.csr_matrix:
    return per(sp.csr_matrix(COUNTS @ sp.diags(1 / LENGTHS)), 1e6)


def soupx() -> sp.csr_matrix:
    """Take a tenth of each cell's molecules away, by the profile of all cells."""
    profile = np.asarray(COUNTS.sum(axis=0)).ravel() / COUNTS.sum()
    totals = np.repeat(np.asarray(COUNTS.sum(axis=1)).ravel(), np.diff(COUNTS.indptr))
    soup = 0.1 * totals * profile[COUNTS.indices]
    return on_values(COUNTS, lambda x: np.maximum(x - soup, 0))


def expected_counts() -> sp.csr_matrix:
    """A quarter of the values moved by shared reads, two decimals, as RSEM writes them."""
    moved = np.random.default_rng(2).random(COUNTS.nnz) < 0.25
    by = np.random.default_rng(3).uniform(-0.9, 0.9, COUNTS.nnz) * moved
    return on_values(COUNTS, lambda x: np.maximum(np.round(x + by, 2), 0.01))


def shared_reads() -> sp.csr_matrix:
    """Reads of two to five genes counted as that part of each, as STARsolo's Uniform does."""
    parts = 1 / np.random.default_rng(4).integers(1, 6, COUNTS.nnz)
    return on_values(COUNTS, lambda x: x - 1 + parts)


def decontx() -> sp.csr_matrix:
    kept = np.random.default_rng(5).beta(9, 1, COUNTS.nnz)
    return on_values(COUNTS, lambda x: x * kept)


FRACTIONAL: list[Values] = [soupx, expected_counts, shared_reads, decontx]
LOGARITHMS: dict[str, Values] = {
    "log1p of counts per 10,000": lambda: per(COUNTS, 1e4).log1p(),
    "log1p of counts": lambda: COUNTS.log1p(),
    "log2 of counts per million": lambda: on_values(per(COUNTS, 1e6), lambda x: np.log2(x + 1)),
    "log10": lambda: on_values(per(COUNTS, 1e6), lambda x: np.log10(x + 1)),
    "some genes": lambda: per(COUNTS, 1e4).log1p()[:, ::4],
    "log1p of corrected counts": lambda: per(soupx(), 1e4).log1p(),
    "and some genes": lambda: per(soupx(), 1e4).log1p()[:, ::4],
    "log2 of TPM": lambda: on_values(tpm(), lambda x: np.log2(x + 1)),
    "two decimals": lambda: on_values(per(COUNTS, 1e4).log1p(), lambda x: np.round(x, 2)),
}
ROOTS: dict[str, Values] = {
    "of counts": lambda: COUNTS.sqrt(),
    "of counts per 10,000": lambda: per(COUNTS, 1e4).sqrt(),
}
NORMALISED: dict[str, Values] = {
    "counts per million": lambda: per(COUNTS, 1e6),
    "counts per 10,000": lambda: per(COUNTS, 1e4),
    "and some genes": lambda: per(COUNTS, 1e4)[:, ::4],
    "size factors": lambda: sp.csr_matrix(sp.diags(1 / DEPTHS.ravel()) @ COUNTS),
    "TPM": tpm,
}


def kind_of(x: sp.csr_matrix, dtype: Any = np.float64) -> str:
    x = sp.csr_matrix(x).astype(dtype)
    return tell_kind(sample_cells(x.indptr, x.data))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("counts", [lambda: COUNTS]),
        ("fractional", FRACTIONAL),
        ("logarithms", LOGARITHMS.values()),
        ("roots", ROOTS.values()),
        ("normalised", NORMALISED.values()),
    ],
)
def test_kinds_are_told_apart(kind: str, made: Any, dtype: Any) -> None:
    assert [kind_of(each(), dtype) for each in made] == [kind] * len(made)


def read(x: Any, kind: CountsKind) -> tuple[sp.csr_matrix, list[str]]:
    said: list[str] = []
    options = InputOptions(counts=kind)
    with open_counts(ad.AnnData(X=x), options=options, log=said.append) as counts:
        return sp.vstack(list(counts.blocks(16))), said


@pytest.mark.parametrize("made", FRACTIONAL)
def test_fractional_counts_come_as_they_are_where_they_are_asked_for(made: Values) -> None:
    x = made()
    found, said = read(x, "fractional")
    assert (found != x).nnz == 0
    assert len(said) == 1 and said[0].endswith("(--counts fractional)")
    with pytest.raises(InputError, match=r"fractional counts, it seems.*: --counts fractional$"):
        read(x, "raw")


@pytest.mark.parametrize("made", [*LOGARITHMS.values(), *ROOTS.values()])
@pytest.mark.parametrize("kind", ["fractional", "tpm"])
def test_no_kind_of_counts_lets_logarithms_through(made: Values, kind: CountsKind) -> None:
    with pytest.raises(InputError, match=r"(log-normalised values|square roots).*--layer"):
        read(made(), kind)


@pytest.mark.parametrize("made", NORMALISED.values())
def test_normalised_values_pass_as_tpm_alone(made: Values) -> None:
    for kind in ("raw", "fractional"):
        with pytest.raises(InputError, match=r"normalised values, it seems.*: --counts tpm$"):
            read(made(), kind)
    found, said = read(made(), "tpm")
    assert (found != made()).nnz == 0
    assert len(said) == 1 and "--counts tpm" in said[0]


@pytest.mark.parametrize("kind", ["raw", "fractional", "tpm"])
def test_whole_counts_pass_as_anything_and_negative_ones_as_nothing(kind: CountsKind) -> None:
    assert (read(COUNTS, kind)[0] != COUNTS).nnz == 0
    for bad, what in ((-0.5, "below zero"), (np.nan, "missing or infinite"), (2.0**32, "overflow")):
        x = COUNTS.copy()
        x.data[x.indptr[40]] = bad
        with pytest.raises(InputError, match=f"{what}.*in cell 40, gene"):
            read(x, kind)


def test_logarithms_below_counts_in_one_file_are_found() -> None:
    x = sp.vstack([COUNTS, per(COUNTS, 1e4).log1p()]).tocsr()
    with pytest.raises(InputError, match="log-normalised values, it seems, not fractional counts"):
        read(x, "fractional")


def test_few_cells_are_not_judged_again() -> None:
    x = on_values(COUNTS[:3], lambda x: np.minimum(x, 20) * 0.77)
    options = InputOptions(counts="fractional")
    with open_counts(ad.AnnData(X=x), options=options, trusted=True) as counts:
        assert (next(counts.blocks()) != x).nnz == 0


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="must be 'raw', 'fractional' or 'tpm'"):
        InputOptions(counts="umi")  # type: ignore[arg-type]
