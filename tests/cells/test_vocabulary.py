"""The gene table: bit for bit through its file, and what it refuses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellscribe.cells.gene_names import vocabulary
from cellscribe.cells.gene_names.vocabulary import (
    CLS,
    MASK,
    MAX_TOKENS,
    PAD,
    SEP,
    SPECIAL_TOKENS,
    UKW,
    Vocabulary,
    _whole_columns,
)
from cellscribe.errors import InputError
from cellscribe.model.metadata import find_checkpoint

HEADER = "token\tensembl_id\tsymbol\tmedian\n"
SPECIAL = "".join(f"{i}\t{name}\t\t\n" for i, name in enumerate(SPECIAL_TOKENS))


def three_genes() -> Vocabulary:
    return Vocabulary.build(["ENSG1", "ENSG2", "ENSG3"], ["A", "", "C"], np.array([0.5, 1.5, 3.0]))


@settings(max_examples=60)
@given(
    medians=st.lists(
        st.floats(min_value=0, exclude_min=True, allow_infinity=False), min_size=1, max_size=9
    ),
    symbol=st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=8),
)
def test_the_file_gives_back_every_bit(medians: list[float], symbol: str) -> None:
    ids = [f"ENSG{i:011}" for i in range(len(medians))]
    before = Vocabulary.build(ids, [symbol] * len(ids), np.array(medians))
    with tempfile.TemporaryDirectory() as folder:
        before.write(Path(folder) / "genes.tsv")
        after = Vocabulary.read(Path(folder) / "genes.tsv")
    assert (after.ids, after.symbols, after.n_special) == (before.ids, before.symbols, 5)
    np.testing.assert_array_equal(
        after.medians[5:].view(np.int64), np.array(medians).view(np.int64)
    )
    assert np.isnan(after.medians[:5]).all()
    assert after.hash == before.hash


def test_both_readers_of_the_file_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_checkpoint("mini") / "genes.tsv"
    quick = Vocabulary.read(path)
    assert _whole_columns(path.read_text().splitlines()[1:]) is not None
    monkeypatch.setattr(vocabulary, "_whole_columns", lambda lines: None)
    assert Vocabulary.read(path).hash == quick.hash


def test_another_program_reads_the_same(tmp_path: Path) -> None:
    three_genes().write(tmp_path / "genes.tsv")
    table = pd.read_csv(tmp_path / "genes.tsv", sep="\t", keep_default_na=False)
    assert table["token"].tolist() == list(range(8))
    assert table["ensembl_id"].tolist() == [*SPECIAL_TOKENS, "ENSG1", "ENSG2", "ENSG3"]
    assert table["symbol"].tolist()[5:] == ["A", "", "C"]
    assert table["median"].tolist() == [""] * 5 + ["0.5", "1.5", "3.0"]


def test_special_tokens_are_where_sc_fm_has_them() -> None:
    token_of = three_genes().token_of
    assert (CLS, MASK, PAD, SEP, UKW) == (0, 1, 2, 3, 4)
    names = ("[CLS]", "[MASK]", "[PAD]", "[SEP]", "[UKW]", "ENSG1", "ENSG3")
    assert [token_of[name] for name in names] == [0, 1, 2, 3, 4, 5, 7]
    assert (len(three_genes()), three_genes().n_genes) == (8, 3)


def test_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / "genes.tsv").write_bytes(three_genes().to_text().replace("\n", "\r\n").encode())
    assert Vocabulary.read(tmp_path / "genes.tsv").hash == three_genes().hash


@pytest.mark.parametrize(
    "change",
    [
        lambda v: replace(v, ids=(*v.ids[:-1], "ENSG4")),
        lambda v: replace(v, symbols=(*v.symbols[:-1], "D")),
        lambda v: replace(v, medians=np.append(v.medians[:-1], np.nextafter(v.medians[-1], 9))),
        lambda v: replace(v, ids=(*v.ids[:-2], v.ids[-1], v.ids[-2])),
    ],
    ids=["id", "symbol", "last bit of a median", "order"],
)
def test_hash_tells_any_change(change: Callable[[Vocabulary], Vocabulary]) -> None:
    assert three_genes().hash == three_genes().hash
    assert change(three_genes()).hash != three_genes().hash


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the first line must be"),
        (b"token,ensembl_id,symbol,median\n", "the first line must be"),
        (HEADER.encode() + b"0\t\xff\xfe\t\t\n", "not a text file"),
        ((HEADER + SPECIAL + "6\tENSG1\tA\t1.0\n").encode(), "line 7: expected token 5"),
        ((HEADER + SPECIAL + "5\tENSG1\t1.0\n").encode(), "line 7: expected token 5"),
        (
            (HEADER + SPECIAL + "5\tENSG1\tA\tmuch\n").encode(),
            "line 7: 'much' is not a median above",
        ),
        ((HEADER + SPECIAL + "5\tENSG1\tA\t\n").encode(), "median above zero"),
        ((HEADER + SPECIAL + "5\tENSG1\tA\t0\n").encode(), "median above zero"),
        ((HEADER + SPECIAL + "5\tENSG1\tA\t-1\n").encode(), "median above zero"),
        ((HEADER + SPECIAL + "5\tENSG1\tA\tinf\n").encode(), "median above zero"),
        ((HEADER + SPECIAL + "5\t\tA\t\n6\tENSG1\tA\t1\n").encode(), "line 7: "),
        (
            (HEADER + SPECIAL + "5\tENSG1\tA\t1.0\n6\tENSG1\tB\t1.0\n").encode(),
            "an id stands twice",
        ),
    ],
)
def test_bad_files_are_refused_in_a_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "genes.tsv").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        Vocabulary.read(tmp_path / "genes.tsv")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the gene table is missing"):
        Vocabulary.read(tmp_path / "genes.tsv")
    with pytest.raises(InputError, match="cannot be read"):
        Vocabulary.read(tmp_path)


def test_columns_of_unequal_length_and_too_many_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="differ in length"):
        Vocabulary(ids=("a", "b"), symbols=("",), medians=np.ones(2), n_special=0)
    ids = [str(i) for i in range(MAX_TOKENS)]
    with pytest.raises(InputError, match="65,541 tokens, at most 65,536"):
        Vocabulary.build(ids, ids, np.ones(MAX_TOKENS))
