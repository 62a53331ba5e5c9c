"""What is a gene among the features of a file, in the words of many tools."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from support.formats import write_zarr

from cellscribe.cells.counts import open_counts
from cellscribe.cells.gene_names.features import judge_features, not_genes
from cellscribe.cells.gene_names.genes import map_genes
from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.errors import InputError

GENES = {
    "TP53": "ENSG00000141510",
    "CD4": "ENSG00000010610",
    "GAPDH": "ENSG00000111640",
    "ACTB": "ENSG00000075624",
}
TABLE = GeneTable(ids=tuple(GENES.values()), symbols=tuple(GENES))
FOR_GENES = [
    *("Gene Expression", "gene expression", "Gene", "GEX", "gex", "RNA", "rna", "mRNA", "genes"),
    *("transcriptome", "Gene_Expression", "RNA expression", "gene-expression", "Transcripts"),
    *("protein_coding", "lncRNA", "IG_V_gene", "processed_pseudogene", "Mt_rRNA", "TEC", "miRNA"),
]
FOR_OTHERS = [
    *("Antibody Capture", "ADT", "adt", "HTO", "prot", "protein", "Proteins", "CITE", "AbSeq"),
    *("CRISPR Guide Capture", "sgRNA", "gRNA", "Peaks", "ATAC", "chromatin accessibility"),
    *("Multiplexing Capture", "Custom", "CMO", "hashtag", "spike-in", "Antigen Capture"),
    *("surface protein", "antibody_capture", "Hashing", "gene activity"),
]


def table(names: list[str], key: str = "feature_types", **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({key: columns.pop("words"), **columns}, index=pd.Index(names, dtype=object))


@settings(max_examples=120)
@given(
    gene=st.sampled_from(FOR_GENES),
    other=st.sampled_from(FOR_OTHERS),
    key=st.sampled_from(
        ["feature_types", "featureType", "Feature Type", "modality", "feature_biotype", "Type"]
    ),
    order=st.permutations(range(6)),
    categorical=st.booleans(),
)
def test_an_antibody_is_never_summed_into_its_gene(
    gene: str, other: str, key: str, order: list[int], categorical: bool
) -> None:
    names = [*GENES, "CD4-1", "ACTB"]
    var = table(names, key, words=[gene] * 4 + [other] * 2).iloc[order]
    if categorical:
        var[key] = var[key].astype("category")
    wanted = np.array([0, 1, 2, 3, -1, -1])[order]
    found = map_genes(var, TABLE)
    assert found.token.tolist() == wanted.tolist()
    assert found.n_other_features == 2 and found.n_duplicates == 0
    assert not_genes(var).tolist() == (wanted < 0).tolist()


@pytest.mark.parametrize("missing", [None, np.nan, "", "nan", "<NA>", pd.NA])
def test_missing_is_not_no(missing: Any) -> None:
    words = ["Gene Expression", missing, missing, "Gene Expression"]
    assert not not_genes(table(list(GENES), words=words)).any()
    assert not not_genes(table(list(GENES), words=[missing] * 4)).any()
    with_antibodies = table([*GENES, "HLA-A"], words=[*words, "ADT"])
    assert not_genes(with_antibodies).tolist() == [False] * 4 + [True]


def test_a_feature_without_a_word_whose_gene_is_there_may_be_an_antibody() -> None:
    names = ["TP53", "CD4", "GAPDH", "CD4-1", "ENSG00000141510"]
    var = table(names, words=["Gene Expression"] * 2 + [np.nan] * 3)
    found = judge_features(var)
    assert found.left_out.tolist() == [False, False, False, True, True]
    assert "2 features without a word" in found.note
    assert "2 features without a word" in map_genes(var, TABLE).summary()


def test_unknown_words_are_judged_by_the_names() -> None:
    names = [*GENES, "Hashtag1", "Hashtag2", "CD4_TotalSeqB"]
    found = judge_features(table(names, words=["A"] * 4 + ["B"] * 3))
    assert found.left_out.tolist() == [False] * 4 + [True] * 3
    assert found.kinds == ("B",)
    assert "'A' in 'feature_types' taken as genes" in found.note
    assert "'B' in 'feature_types' left out" in found.note
    # chromosomes in the third column of features.tsv
    assert not not_genes(table(list(GENES), words=["chr17", "chr12", "chr12", "chr7"])).any()
    # one word for all says nothing
    one = judge_features(table([*GENES, "a", "b", "c", "d", "e"], words=["x"] * 9))
    assert not one.left_out.any() and not one.note


def test_unknown_words_of_genes_that_are_there_already_are_asked_for() -> None:
    words = ["Gene Expression"] * 4 + ["panel"] * 2
    with pytest.raises(InputError, match=r"f\.h5ad: the var column 'feature_types' says 'panel'"):
        judge_features(table([*GENES, "CD4-1", "TP53-1"], words=words), "f.h5ad")
    with pytest.raises(InputError, match=r"'second'.*genes that are there already"):
        words = ["first"] * 4 + ["second"] * 2
        map_genes(table([*GENES, "CD4-1", "TP53-1"], words=words), TABLE)


def test_unknown_words_next_to_features_without_one() -> None:
    names = [*GENES, "CD4-1", "TP53-1"]
    for missing in (np.nan, ""):
        with pytest.raises(InputError, match=r"'x'.* of 2 features whose names are genes that are"):
            judge_features(table(names, words=[missing] * 4 + ["x"] * 2))
    with pytest.raises(InputError, match="'1'"):
        judge_features(table(names, words=["0"] * 4 + ["1"] * 2))
    assert not not_genes(table([*GENES, "CD8A"], words=[np.nan] * 4 + ["x"])).any()
    tags = table([*GENES, "tag1", "tag2"], words=[np.nan] * 4 + ["x"] * 2)
    assert not_genes(tags).tolist() == [False] * 4 + [True] * 2


def test_no_gene_at_all() -> None:
    with pytest.raises(InputError, match=r"no features of type 'Gene Expression', only 'ADT'"):
        map_genes(table(list(GENES), words=["ADT"] * 4), TABLE)


def test_a_column_that_says_something_else_is_not_read() -> None:
    assert not not_genes(table(list(GENES), "type", words=["marker", "control"] * 2)).any()
    assert not not_genes(table(list(GENES), "assay", words=["ATAC"] * 4)).any()
    assert not not_genes(table(list(GENES), "chromosome", words=["Custom"] * 4)).any()


def test_two_columns() -> None:
    var = table([*GENES, "CD4-1"], words=["Gene Expression", *[np.nan] * 4])
    var["modality"] = ["rna"] * 4 + ["prot"]
    assert not_genes(var).tolist() == [False] * 4 + [True]


WORDS = ["GEX"] * 4 + ["ADT"] * 2
COUNTS = np.arange(1, 13).reshape(2, 6)


def as_h5ad(folder: Path) -> Any:
    cells(WORDS).write_h5ad(folder / "c.h5ad")
    return folder / "c.h5ad"


def as_zarr(folder: Path) -> Any:
    write_zarr(cells(WORDS), folder / "c.zarr")
    return folder / "c.zarr"


def as_folder(folder: Path) -> Any:
    lines = [f"{name}\t{name}\t{w}" for name, w in zip(cells(WORDS).var_names, WORDS, strict=True)]
    (folder / "features.tsv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / "barcodes.tsv").write_text("A\nB\n")
    entries = [f"{g + 1} {c + 1} {COUNTS[c, g]}" for c in range(2) for g in range(6)]
    head = "%%MatrixMarket matrix coordinate integer general"
    (folder / "matrix.mtx").write_text("\n".join([head, "6 2 12", *entries]) + "\n")
    return folder


def as_10x(folder: Path) -> Any:
    with h5py.File(folder / "c.h5", "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = [b"A", b"B"]
        group["shape"] = [6, 2]
        group["data"], group["indices"] = COUNTS.ravel(), np.tile(np.arange(6), 2)
        group["indptr"] = [0, 6, 12]
        names = [name.encode() for name in cells(WORDS).var_names]
        group["features/id"], group["features/name"] = names, names
        group["features/feature_type"] = [word.encode() for word in WORDS]
    return folder / "c.h5"


def cells(words: list[str]) -> ad.AnnData:
    var = table([*GENES, "CD4-1", "ACTB-1"], words=words)
    return ad.AnnData(sp.csr_matrix(COUNTS), var=var, obs=pd.DataFrame(index=["A", "B"]))


@pytest.mark.parametrize("write", [as_h5ad, as_zarr, as_folder, as_10x, lambda _: cells(WORDS)])
def test_one_rule_for_all_formats(write: Any, tmp_path: Path) -> None:
    said: list[str] = []
    with open_counts(write(tmp_path), log=said.append) as counts:
        assert counts.var.index.tolist() == list(GENES)
        assert next(counts.blocks()).toarray().tolist() == COUNTS[:, :4].tolist()
        assert map_genes(counts.var, TABLE).token.tolist() == [0, 1, 2, 3]
    assert ["2 features left out that are not genes (ADT)" in line for line in said] == [True]
