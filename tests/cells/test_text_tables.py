"""Tables of counts as people have them, both ways round, give the same cells."""

from __future__ import annotations

import gzip
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.text_cells import CELLS, DENSE, IDS, SYMBOLS, put, read, refusal, same_cells

from cellscribe.cells.counts import open_counts
from cellscribe.cells.readers import convert, table_source
from cellscribe.errors import InputError

BY_CELL = pd.DataFrame(DENSE, index=CELLS, columns=SYMBOLS)
BY_GENE = BY_CELL.T


def as_r(frame: pd.DataFrame, sep: str, **options: Any) -> str:
    """R's write.table: names in quotes, none above the names of the rows."""
    text = frame.to_csv(sep=sep, quoting=2, **options)
    return text.replace(f'""{sep}', "", 1)


def with_columns(frame: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    frame = frame.copy()
    for at, (name, values) in enumerate(columns.items()):
        frame.insert(at, name, values)
    return frame


GENE_LENGTHS = with_columns(
    BY_GENE, gene_id=IDS, Chr="chr1", description="a, b; c", Length=range(100, 114)
)
COMMENTS = "## made by BD\n## 2 lines, of them\n"

TABLES: dict[str, str] = {
    "csv": BY_CELL.to_csv(),
    "csv by gene": BY_GENE.to_csv(),
    "tsv": BY_CELL.to_csv(sep="\t"),
    "tsv by gene": BY_GENE.to_csv(sep="\t"),
    "semicolons": BY_GENE.to_csv(sep=";"),
    "blanks": BY_GENE.to_csv(sep=" ", index_label="gene"),
    "DropSeq": BY_GENE.to_csv(sep="\t", index_label="GENE"),
    "R": as_r(BY_GENE, "\t"),
    "R with blanks": as_r(BY_CELL, " "),
    "R's csv": BY_GENE.to_csv(quoting=2),
    "all in quotes": BY_GENE.to_csv(quoting=1),
    "CRLF": BY_GENE.to_csv(lineterminator="\r\n"),
    "CR": BY_GENE.to_csv(lineterminator="\r"),
    "BOM": "\ufeff" + BY_GENE.to_csv(),
    "no last line end": BY_GENE.to_csv().rstrip("\n"),
    "empty last lines": BY_GENE.to_csv() + "\n\n",
    "comments": COMMENTS + BY_CELL.to_csv(index_label="Cell_Index"),
    "a comma at each end": BY_GENE.to_csv().replace("\n", ",\n"),
    "decimals": BY_GENE.astype(float).to_csv(),
    "exponents": BY_GENE.astype(float).to_csv(float_format="%.6e"),
    "annotated genes": GENE_LENGTHS.to_csv(),
    "annotated cells": with_columns(BY_CELL, sample="a", nCount_RNA=5.5, sex=1).to_csv(),
    "GCT": "#1.2\n14\t6\n" + with_columns(BY_GENE, Description="x").to_csv(sep="\t"),
    "Excel": "sep=;\n" + BY_GENE.to_csv(sep=";"),
    "DigitalExpression": "#DGE\tVERSION:1.1\n" + BY_GENE.to_csv(sep="\t", index_label="GENE"),
    "row numbers": BY_GENE.reset_index(names="gene").to_csv(),
}


LINES_ARE_CELLS = {"csv", "tsv", "R with blanks", "comments", "annotated cells"}


@pytest.mark.parametrize("kind", TABLES)
def test_the_same_cells_from_every_table(kind: str, tmp_path: Path) -> None:
    put(tmp_path, {"x.csv": TABLES[kind], "x.csv.gz": gzip.compress(TABLES[kind].encode())})
    way = "columns are genes" if kind in LINES_ARE_CELLS else "lines are genes"
    for name in ("x.csv", "x.csv.gz"):
        assert way in same_cells(tmp_path / name)[-1]


def test_what_stands_next_to_the_counts_is_kept_or_named(tmp_path: Path) -> None:
    put(tmp_path, {"genes.csv": TABLES["annotated genes"], "x.csv": TABLES["annotated cells"]})
    _, said, var = read(tmp_path / "genes.csv")
    assert list(var["gene_id"]) == IDS
    assert list(var["description"]) == ["a, b; c"] * len(IDS)
    assert said[0].endswith("columns left out, which hold no counts: Length")
    with open_counts(tmp_path / "x.csv", log=said.append) as counts:
        assert list(counts.obs["sample"]) == ["a"] * len(CELLS)
    assert said[2].endswith("which hold no counts: nCount_RNA, sex")


def test_ids_and_mouse_genes_tell_the_axis_too(tmp_path: Path) -> None:
    mouse = ["Sox2", "Gapdh", "Actb", "Cd4", "mt-Nd1", "Xkr4", "Pax6", "ENSMUSG00000051951"]
    for names in (mouse, [f"{i}.3" for i in IDS[:8]]):
        frame = BY_CELL.iloc[:, :8].set_axis(names, axis=1)
        for turned in (frame, frame.T):
            turned.to_csv(tmp_path / "x.csv")
            np.testing.assert_array_equal(read(tmp_path / "x.csv")[0], frame)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), by_gene=st.booleans(), size=st.sampled_from([1, 3, 20, 100, 1 << 20]))
def test_blocks_and_limits_do_not_matter(data: st.DataObject, by_gene: bool, size: int) -> None:
    from tempfile import TemporaryDirectory

    from cellscribe.cells.readers import text_files

    values = data.draw(st.lists(st.integers(0, 2**31 - 1), min_size=8, max_size=8))
    dense = DENSE.copy()
    dense[:4, :2] = np.reshape(values, (4, 2))
    frame = pd.DataFrame(dense, index=CELLS, columns=SYMBOLS)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "x.csv"
        (frame.T if by_gene else frame).to_csv(path)
        patch.setattr(text_files, "READ_BYTES", size)
        for limit in (10, 10**6):
            patch.setattr(table_source, "IN_MEMORY", limit)
            patch.setattr(convert, "IN_MEMORY", limit)
            np.testing.assert_array_equal(read(path)[0].to_numpy(), dense)


@pytest.mark.parametrize("by_gene", [False, True])
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint16])
@pytest.mark.parametrize("index", [True, False])
def test_parquet(by_gene: bool, dtype: type, index: bool, tmp_path: Path) -> None:
    frame = (BY_GENE if by_gene else BY_CELL).astype(dtype)
    if index:
        frame.to_parquet(tmp_path / "x.parquet", row_group_size=4)
    else:
        frame.reset_index(names="name").to_parquet(tmp_path / "x.parquet", index=False)
    same_cells(tmp_path / "x.parquet")


def test_parquet_that_is_no_table_of_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"cell": ["a"], "input_ids": [[1, 2]]}), path)
    assert "'input_ids' holds lists, as a table of tokens does" in refusal(path)
    pq.write_table(pa.table({"cell": ["a"], "what": ["b"]}), path)
    assert "no column of numbers" in refusal(path)
    frame = BY_CELL.astype("Int64")
    frame.iloc[2, 3] = pd.NA
    frame.to_parquet(path)
    assert f"row {CELLS[2]}, column '{SYMBOLS[3]}': the value is missing" in refusal(path)
    whole = path.read_bytes()
    for at in (5, len(whole) // 2, len(whole) - 30, len(whole) - 5):
        middle = bytes(byte ^ 0x5A for byte in whole[at : at + 20])
        path.write_bytes(whole[:at] + middle + whole[at + 20 :])
        with suppress(InputError):  # some bytes carry no meaning
            read(path)
    path.write_bytes(whole[:100])
    assert "cannot be read as Parquet" in refusal(path)


def changed(row: int, column: int, value: str, **options: Any) -> str:
    frame = BY_GENE.astype(object)
    frame.iloc[row, column] = value
    return frame.to_csv(**options)


PLACE = f"line 4 ({SYMBOLS[2]}), column '{CELLS[1]}'"
LONG = BY_GENE.rename_axis("gene").reset_index().melt("gene", var_name="cell", value_name="count")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (changed(2, 1, "many"), f"{PLACE}: 'many' is no number"),
        (changed(2, 1, ""), f"{PLACE}: '': the value is missing"),
        (changed(2, 1, "NA"), "'NA': the value is missing; write 0"),
        (changed(2, 1, "1,5", sep=";"), "'1,5' has a comma in it; write numbers with a"),
        (changed(2, 1, "1,234"), "'1,234' has a comma in it"),
        (changed(2, 1, "-1"), "values below zero"),
        (changed(2, 1, "0.5"), "fractional counts"),
        (changed(2, 1, "inf"), "missing or infinite"),
        (changed(2, 1, "x" * 200_000), "is no number"),
        (BY_GENE.to_csv() + "GAPDH,1,2,3,4,5,6,7\n", "line 16 has more fields, the lines above"),
        (BY_GENE.to_csv() + "GAPDH,1,2\n", "line 16 has 3 fields, the lines above it 7"),
        (BY_GENE.to_csv(header=False), "the first line holds numbers"),
        (BY_GENE.to_csv().splitlines()[0], "no line below the header"),
        ("", "the file is empty"),
        ("\n\n\n", "no line below the header"),
        ('a,b\n"c,1\n', "the first lines are not divided"),
        ('"a,b\nc,1\n', "neither lines nor columns bear"),
        ("just\nwords\nhere\n", "the first lines are not divided"),
        (LONG.to_csv(index=False), "a long table"),
        (LONG.assign(reads=9).to_csv(index=False), "a long table"),
        (BY_GENE.set_axis([f"g{i}" for i in range(14)]).to_csv(), "neither lines nor columns bear"),
        (BY_GENE.set_axis(SYMBOLS[:6], axis=1).to_csv(), "both lines and columns bear"),
        ("x" * (65 << 20), "a line is longer than 67 MB"),
        ("<!DOCTYPE html><p>404</p>", "a web page"),
    ],
)
def test_tables_that_are_none(text: str, what: str, tmp_path: Path) -> None:
    message = refusal(put(tmp_path, {"x.csv": text}) / "x.csv")
    assert what in message


def test_tables_cut_short_or_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped = gzip.compress(TABLES["csv"].encode(), mtime=0)
    for cut in (12, 100, len(zipped) - 4):
        put(tmp_path, {"x.csv.gz": zipped[:cut]})
        assert "cannot be read" in refusal(tmp_path / "x.csv.gz")
    monkeypatch.setattr(table_source, "IN_MEMORY", 10)
    path = put(tmp_path, {"x.csv": TABLES["csv"]}) / "x.csv"
    kept = table_source.genes_on_lines

    def rewritten(*arguments: Any) -> bool:
        path.write_text(BY_CELL.iloc[:4].to_csv())
        return kept(*arguments)

    monkeypatch.setattr(table_source, "genes_on_lines", rewritten)
    assert "changed while it was read" in refusal(path)


def test_antibodies_of_bd_are_no_genes(tmp_path: Path) -> None:
    frame = BY_CELL.rename(columns={SYMBOLS[3]: f"{SYMBOLS[2]}:SK3|{SYMBOLS[2]}|AHS0032|pAbO"})
    frame.to_csv(tmp_path / "x.csv", index_label="Cell_Index")
    said = same_cells(
        tmp_path / "x.csv",
        names=SYMBOLS[:3] + SYMBOLS[4:],
        dense=np.delete(DENSE, 3, axis=1),
    )
    assert "1 features left out" in said[-1]


def test_a_table_of_another_name_is_known_by_its_lines(tmp_path: Path) -> None:
    put(tmp_path, {"counts.dat": TABLES["tsv"], "notes.md": "# Notes\n\nof, many\nwords, here\n"})
    same_cells(tmp_path / "counts.dat")
    assert "not a file of cells that cellscribe knows" in refusal(tmp_path / "notes.md")
