"""Matrix folders of every pipeline give the same cells, or say which file is meant."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.text_cells import (
    BARCODES,
    CELLS,
    DENSE,
    FEATURES,
    IDS,
    SYMBOLS,
    mtx,
    put,
    read,
    refusal,
    same_cells,
    tenx,
)

PAIRS = list(zip(IDS, SYMBOLS, strict=True))
QUOTED = "".join(f'"{i}"\t"{s}"\n' for i, s in PAIRS)
BY_COMMA = "".join(f"{i},{s}\n" for i, s in PAIRS)
FROM_R = '"gene_id" "symbol"\n' + "".join(
    f'"{at}" "{i}" "{s}"\n' for at, (i, s) in enumerate(PAIRS, 1)
)
SIX = "".join(f"{i}\t{s}\tGene Expression\tchr1\t1\t9\n" for i, s in PAIRS)
PARSE_GENES = "gene_id,gene_name,genome\n" + "".join(f"{i},{s},hg38\n" for i, s in PAIRS)
PARSE_CELLS = "bc_wells,sample,gene_count\n" + "".join(f"{c},a,{n}\n" for n, c in enumerate(CELLS))
IDS_ONLY = "".join(f"{i}\n" for i in IDS)
SYMBOLS_ONLY = "".join(f"{s}\n" for s in SYMBOLS)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(tenx(), id="10x"),
        pytest.param(tenx(features_tsv=QUOTED), id="quoted"),
        pytest.param(tenx(features_tsv=BY_COMMA), id="commas"),
        pytest.param(tenx(features_tsv=FROM_R), id="R"),
        pytest.param(tenx(features_tsv=SIX), id="six columns"),
        pytest.param(tenx(features_tsv="ENSEMBL\tSYMBOL\n" + QUOTED), id="header"),
        pytest.param(tenx(features_tsv="\ufeff" + FEATURES), id="BOM"),
        pytest.param(tenx(features_tsv=FEATURES.replace("\n", "\r")), id="CR"),
        pytest.param(tenx(features_tsv=FEATURES.replace("\n", "\r\n") + "\r\n"), id="CRLF"),
        pytest.param(tenx() | {"features.tsv": FEATURES.encode("utf-16")}, id="UTF-16"),
        pytest.param(tenx(barcodes_tsv="barcode\n" + BARCODES), id="header of cells"),
        pytest.param(tenx(barcodes_tsv='"x"\n' + BARCODES), id="R's header of cells"),
        pytest.param(tenx(matrix_mtx=mtx(sep="\t")), id="tabs"),
        pytest.param(tenx(matrix_mtx=mtx(sep="  \t ", end=" \r\n")), id="any white space"),
        pytest.param(tenx(matrix_mtx=mtx(kind="coordinate float general")), id="float"),
        pytest.param(tenx(matrix_mtx=mtx(kind="COORDINATE Double General")), id="double"),
        pytest.param(tenx(matrix_mtx=mtx(value=lambda v: f"{v:.15e}")), id="exponents"),
        pytest.param(tenx(matrix_mtx=mtx(value=lambda v: f"+{v}.000000")), id="points"),
        pytest.param(tenx(matrix_mtx=mtx(DENSE)), id="cells first"),
    ],
)
def test_the_same_cells_in_every_spelling(files: dict[str, str | bytes], tmp_path: Path) -> None:
    assert same_cells(put(tmp_path / "x", files)) == []


@pytest.mark.parametrize(
    ("files", "named"),
    [
        pytest.param(
            {"GSM1_matrix.mtx": mtx(), "GSM1_genes.tsv": FEATURES, "GSM1_barcodes.tsv": BARCODES},
            "GSM1_matrix.mtx",
            id="GEO",
        ),
        pytest.param(
            {"GSM1_matrix.mtx": mtx(), "GSE9_gene_names.txt": QUOTED, "GSM1_cells.csv": BARCODES},
            "GSM1_matrix.mtx",
            id="other names",
        ),
        pytest.param(
            {
                "cells_x_genes.mtx": mtx(DENSE, kind="coordinate real general"),
                "cells_x_genes.genes.txt": IDS_ONLY,
                "cells_x_genes.genes.names.txt": SYMBOLS_ONLY,
                "cells_x_genes.barcodes.txt": BARCODES,
            },
            "cells_x_genes.mtx",
            id="kallisto|bustools",
        ),
        pytest.param(
            {
                "gene.mtx": mtx(DENSE),
                "gene.genes.txt": SYMBOLS_ONLY,
                "gene.barcodes.txt": BARCODES,
                "output.ec.txt": "0\n1\n",
            },
            "gene.mtx",
            id="bustools",
        ),
        pytest.param(
            {
                "quants_mat.mtx": mtx(DENSE),
                "quants_mat_rows.txt": BARCODES,
                "quants_mat_cols.txt": SYMBOLS_ONLY,
            },
            "quants_mat.mtx",
            id="alevin-fry",
        ),
        pytest.param(
            {
                "count_matrix.mtx": mtx(DENSE),
                "all_genes.csv": PARSE_GENES,
                "cell_metadata.csv": PARSE_CELLS,
            },
            "count_matrix.mtx",
            id="Parse",
        ),
        pytest.param(
            {
                "E-1.counts.mtx": mtx(),
                "E-1.counts.mtx_rows": "".join(f"{s}\t{s}\n" for s in SYMBOLS),
                "E-1.counts.mtx_cols": BARCODES,
            },
            "E-1.counts.mtx",
            id="Expression Atlas",
        ),
    ],
)
def test_folders_of_other_pipelines(
    files: dict[str, str | bytes], named: str, tmp_path: Path
) -> None:
    folder = put(tmp_path / "x", files)
    assert same_cells(folder) == []
    assert same_cells(folder / named) == []


def test_columns_of_a_header_are_kept(tmp_path: Path) -> None:
    from cellscribe.cells.counts import open_counts

    files = {"DGE.mtx": mtx(DENSE), "all_genes.csv": PARSE_GENES, "cell_metadata.csv": PARSE_CELLS}
    with open_counts(put(tmp_path / "x", files)) as counts:
        assert list(counts.obs["sample"]) == ["a"] * len(CELLS)
        assert list(counts.var["gene_ids"]) == IDS
        assert list(counts.var["genome"]) == ["hg38"] * len(IDS)


ZIPPED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("ending", ZIPPED)
def test_every_compression(ending: str, tmp_path: Path) -> None:
    files = {
        f"{name}{ending}": ZIPPED[ending](str(content).encode()) for name, content in tenx().items()
    }
    folder = put(tmp_path / "x", files)
    same_cells(folder)
    same_cells(folder / f"matrix.mtx{ending}")


def test_a_named_file_is_the_one_that_is_read(tmp_path: Path) -> None:
    other = "UniqueAndMult-Uniform.mtx"
    folder = put(tmp_path / "x", tenx() | {other: mtx(2 * DENSE.T)})
    same_cells(folder / other, dense=2 * DENSE)
    same_cells(folder / "matrix.mtx")
    # a name without .mtx is known by the first line
    same_cells(put(folder, {"counts.txt": mtx(3 * DENSE.T)}) / "counts.txt", dense=3 * DENSE)
    assert same_cells(folder) == [f"{folder}: reading matrix.mtx; name another to read it: {other}"]


def test_one_of_several_parts_may_be_named(tmp_path: Path) -> None:
    parts = ("mature", "nascent", "ambiguous", "total")
    files = {f"cells_x_genes.{part}.mtx": mtx(DENSE * at) for at, part in enumerate(parts, 1)}
    names = {"cells_x_genes.genes.txt": SYMBOLS_ONLY, "cells_x_genes.barcodes.txt": BARCODES}
    folder = put(tmp_path / "x", files | names)
    same_cells(folder / "cells_x_genes.total.mtx", dense=4 * DENSE)
    assert "each holds a part of the counts; name one of them" in refusal(folder)


def test_several_samples_in_a_folder_each_have_their_own_names(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"GSE_features.tsv": FEATURES}
    for at in (1, 2):
        files[f"S{at}_matrix.mtx"] = mtx(at * DENSE.T)
        files[f"S{at}_barcodes.tsv"] = BARCODES.replace("-1", f"-{at}")
    folder = put(tmp_path / "x", files)
    frame, _, _ = read(folder / "S2_matrix.mtx")
    np.testing.assert_array_equal(frame.to_numpy(), 2 * DENSE)
    assert list(frame.index) == [cell.replace("-1", "-2") for cell in CELLS]
    assert f"name one of them, as in {folder / 'S1_matrix.mtx'}" in refusal(folder)
    # another sample's cells are not taken where its own are missing
    (folder / "S2_barcodes.tsv").unlink()
    put(folder, {"S3_barcodes.tsv": BARCODES})
    assert "no S2_barcodes.tsv" in refusal(folder / "S2_matrix.mtx")


@pytest.mark.parametrize(
    ("taken", "others"),
    [
        ("outs/filtered_feature_bc_matrix", ["outs/raw_feature_bc_matrix"]),
        ("filtered_gene_bc_matrices/GRCh38", ["raw_gene_bc_matrices/GRCh38"]),
        ("Gene/filtered", ["Gene/raw", "Velocyto/filtered", "Velocyto/raw", "SJ/raw"]),
        ("DGE_filtered", ["DGE_unfiltered"]),
        ("counts_unfiltered", []),
        ("alevin", []),
    ],
)
def test_the_filtered_cells_of_a_run(taken: str, others: list[str], tmp_path: Path) -> None:
    put(tmp_path / taken, tenx())
    for other in others:
        put(tmp_path / other, tenx(matrix_mtx=mtx(3 * DENSE.T)))
    assert same_cells(tmp_path) == [f"{tmp_path}: reading {taken}/matrix.mtx"]


def test_folders_that_need_a_choice(tmp_path: Path) -> None:
    for name in ("Gene/filtered", "GeneFull/filtered", "Gene/raw"):
        put(tmp_path / "Solo.out" / name, tenx())
    message = refusal(tmp_path)
    assert (
        "several matrices below it (Solo.out/Gene/filtered, Solo.out/GeneFull/filtered)" in message
    )
    assert f"as in {tmp_path / 'Solo.out/Gene/filtered'}" in message
    parts = {f"{name}.mtx": mtx() for name in ("spliced", "unspliced", "ambiguous")}
    message = refusal(put(tmp_path / "velo", parts | {"features.tsv": FEATURES}))
    assert "each holds a part of the counts" in message


def test_folders_of_other_things(tmp_path: Path) -> None:
    put(tmp_path / "alevin", {"quants_mat.gz": b"\x1f\x8b", "quants_mat_rows.txt": BARCODES})
    assert "run alevin with --dumpMtx" in refusal(tmp_path / "alevin")
    put(tmp_path / "two", {"a.h5ad": b"", "b.csv": b""})
    assert "give one of the files in it: a.h5ad, b.csv" in refusal(tmp_path / "two")


def test_three_columns_for_each_gene(tmp_path: Path) -> None:
    files = {
        "quants_mat.mtx": mtx(np.tile(DENSE, (1, 3))),
        "quants_mat_rows.txt": BARCODES,
        "quants_mat_cols.txt": "".join(f"{i}{part}\n" for part in ("", "-U", "-A") for i in IDS),
    }
    assert "alevin-fry's USA mode" in refusal(put(tmp_path / "x", files))


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"features_tsv": ""}, "features.tsv is empty"),
        ({"features_tsv": " \n\n"}, "features.tsv is empty"),
        ({"features_tsv": FEATURES + FEATURES}, "28 genes are named in features.tsv, not 14"),
        ({"features_tsv": IDS_ONLY + "ENSG00000000001\n"}, "is its first line, .* a header"),
        ({"barcodes_tsv": CELLS[0] + "\n" + BARCODES}, "7 cells are named in barcodes.tsv, not 6"),
        ({"barcodes_tsv": "\n".join(CELLS[1:])}, "5 cells are named"),
        ({"features_tsv": "x" * (2 << 20)}, "a line is longer than 1 MB"),
        ({"features_tsv": "\n".join(["g\x1b[31m" * 20_000] * 3)}, "3 genes are named"),
    ],
)
def test_tables_of_names_that_do_not_fit(
    changed: dict[str, str], what: str, tmp_path: Path
) -> None:
    import re

    message = refusal(put(tmp_path / "x", tenx(**changed)))
    assert re.search(what, message), message
    assert "\x1b" not in message


def test_ragged_and_foreign_letters(tmp_path: Path) -> None:
    lines = FEATURES.splitlines()
    lines[2] = IDS[2]
    folder = put(
        tmp_path / "x", tenx(features_tsv="\n".join(lines).replace("\tGene Expression", ""))
    )
    frame, _, var = read(folder)
    np.testing.assert_array_equal(frame.to_numpy(), DENSE)
    assert list(var["gene_ids"]) == IDS
    put(folder, {"barcodes.tsv": BARCODES.replace(CELLS[0], "cellule_é").encode("latin-1")})
    assert read(folder)[0].index[0] == "cellule_é"


@pytest.mark.parametrize("name", ["matrix.mtx", "features.tsv", "barcodes.tsv"])
def test_what_is_no_file_does_not_hang(name: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "x", tenx())
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink(name, path)):
        (folder / name).unlink() if not (folder / name).is_dir() else (folder / name).rmdir()
        make(folder / name)
        assert f"no {name}" in refusal(folder) or "neither" in refusal(folder)


def test_pipes_devices_and_links_that_go_round(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.csv")
    assert "is a pipe, not a file" in refusal(tmp_path / "x.csv")
    assert "is a device, not a file" in refusal("/dev/zero")
    (tmp_path / "loop.mtx").symlink_to("loop.mtx")
    assert "Too many levels of symbolic links" in refusal(tmp_path / "loop.mtx")
    assert "null byte" in refusal("a\0b.mtx")
