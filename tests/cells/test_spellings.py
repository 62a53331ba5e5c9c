"""Spellings of gene names: what a file puts around a name never makes another gene of it."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellscribe.cells.gene_names.genes import map_genes
from cellscribe.cells.gene_names.spellings import LONGEST, Kind, loose_key
from cellscribe.cells.gene_names.symbols import as_it_stands, recognise, resolve, table
from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.families.symbols import map_symbols, symbol_table

SYMBOLS = sorted(table().genes)
ID_OF = {symbol: genes[0] for symbol, genes in table().genes.items()}
DRESSES: dict[str, Callable[[str], str]] = {
    "10x": lambda s: f"GRCh38_{s}",
    "Seurat": lambda s: f"GRCh38-{s}",
    "old 10x": lambda s: f"hg19___{s}",
    "build": lambda s: f"refdata-gex-GRCh38-2020-A_{s}",
    "patch": lambda s: f"GRCh38.p13_{s}",
    "nuclei": lambda s: f"GRCh38_premrna_{s}",
    "species": lambda s: f"HUMAN_{s}",
    "R": loose_key,
    "CELLxGENE": lambda s: f"{s}_{ID_OF[s]}",
    "versioned id first": lambda s: f"{ID_OF[s]}.12:{s}",
    "id first": lambda s: f"{ID_OF[s]}_{s}",
    "bar": lambda s: f"{s}|{ID_OF[s]}",
    "Entrez": lambda s: f"{s}|7157",
    "RaceID": lambda s: f"{s}__chr17",
    "Y copy": lambda s: f"{s}-PAR-Y",
    "repeat": lambda s: f"{s}-11",
    "R's repeat": lambda s: f"{loose_key(s)}.11",
    "all": lambda s: f"hg38_{loose_key(s)}.11|{ID_OF[s]}",
}


def test_a_name_that_is_known_as_it_stands_is_never_read_further() -> None:
    ids = [f"{gene}.{i % 30}" for i, gene in enumerate(table().symbol_of)]
    for name in [*SYMBOLS, *table().others, *table().symbol_of, *ids]:
        assert recognise(name) == as_it_stands(name)
    for symbol in SYMBOLS:
        assert recognise(symbol) == (Kind.SYMBOL, table().genes[symbol])


@pytest.mark.parametrize("dress", DRESSES)
def test_no_dress_makes_another_gene(dress: str) -> None:
    lost = []
    for symbol in SYMBOLS[sum(map(ord, dress)) % 5 :: 5]:
        name = DRESSES[dress](symbol)
        if as_it_stands(name) is None:  # else it is a name of its own
            kind, genes = recognise(name)
            if kind == Kind.NOTHING:
                lost.append(symbol)
            else:
                assert ID_OF[symbol] in genes, name
    # after these three a number is a part of the name
    assert set(lost) <= {"IGHV1-69", "IGHV3-30", "IGHV3-33"}


def test_names_of_several_genes_are_nobodys() -> None:
    unread = [name for name in table().nobody if not recognise(name)[1]]
    assert len(unread) > 0.99 * len(table().nobody) > 500
    for name in set(table().nobody) - set(unread):
        assert loose_key(table().symbol_of[recognise(name)[1][0]].upper()) == loose_key(name)


@given(name=st.text(st.sampled_from("ACTB14-_.|: ensgGRChu38p"), max_size=LONGEST + 9))
@settings(max_examples=300)
def test_any_text_is_read(name: str) -> None:
    kind, genes = recognise(name)
    assert bool(genes) == (kind not in (Kind.NOTHING, Kind.OTHER_SPECIES))


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("gene:ENSG00000141510", "TP53"),
        ("ENSG00000002586-PAR-Y", "CD99"),
        ("T2T_TP53", "TP53"),
        ("hsa-TP53", "TP53"),
        ("GRCh38-2020-A_TP53", "TP53"),
        ("Homo_sapiens_TP53", "TP53"),
        ("tp53-1", "TP53"),
        ("TP53-1-1", "TP53"),
        ("MLL.PAR.Y", "KMT2A"),
        ("IGHV3-30-2", "IGHV3-30-2"),
        ("IGHV3.30.2", "IGHV3-30-2"),
        ("IGHV3-30-3", ""),  # a gene that the table lacks, no repeat of IGHV3-30
        ("IGHV3-30-3-1", ""),
        ("CD4:CD8A", ""),
        ("HLA-A/B", ""),
        ("ENSG00000141510|ENSG00000010610", ""),
        ("ENSG00000141510-U", ""),  # alevin-fry's unspliced counts
        ("ENSG00000141510_intron", ""),
        ("CD4|SK3|CD4|AHS0032|pAbO", ""),  # BD's antibodies
        ("CD4_TotalSeqB", ""),
        ("MLL-1", "KMT2A"),
        ("MLL-3", ""),  # may be meant for MLL3; nothing says that MLL is there too
        ("CBL-3", ""),  # an older name of several genes, no repeat of CBL
        ("IGHV3-38-3", ""),
        ("NKX6.1", "NKX6-1"),  # an approved symbol, though also an older name of several genes
        ("RP11-95H11.1", ""),  # a gene of that clone
        ("A1BG.503538", "A1BG"),
        ('"TP53"', "TP53"),
        ("gene-TP53", "TP53"),
        ("TP53|" + "x" * 200, ""),
    ],
)
def test_spellings(name: str, symbol: str) -> None:
    assert resolve([name]) == [ID_OF.get(symbol, "")]


def test_a_retired_id_leaves_the_word_to_the_symbol() -> None:
    retired = "ENSG00000999999"
    assert recognise(f"{retired}.1_TP53") == (Kind.ENSEMBL, (retired, ID_OF["TP53"]))
    genes = GeneTable(ids=(ID_OF["TP53"],), symbols=("TP53",))
    assert map_genes(pd.DataFrame(index=[f"TP53_{retired}"]), genes).token.tolist() == [0]
    older = GeneTable(ids=(ID_OF["TP53"], retired), symbols=("TP53", ""))
    assert map_genes(pd.DataFrame(index=[f"TP53_{retired}"]), older).token.tolist() == [1]


@pytest.mark.parametrize(
    "name",
    ["GRCm38.p6_Cd4", "MOUSE_Cd4", "mmu-Cd4", "mm10_premrna_Cd4", "Cd4|ENSMUSG00000023274.3"],
)
def test_another_species(name: str) -> None:
    assert recognise(name) == (Kind.OTHER_SPECIES, ())


def test_an_older_name_is_repeated_where_it_stands() -> None:
    assert resolve(["MLL", "MLL-3", "mll", "FOO", "FOO-1"]) == [ID_OF["KMT2A"]] * 3 + [""] * 2
    genes = GeneTable(ids=(ID_OF["KMT2A"], ID_OF["CD4"]), symbols=("KMT2A", "CD4"))
    assert map_genes(pd.DataFrame(index=["MLL", "MLL.3", "CD4"]), genes).token.tolist() == [0, 0, 1]
    assert map_genes(pd.DataFrame(index=["MLL.3", "CD4"]), genes).token.tolist() == [-1, 1]


def test_symbols_of_a_family_are_read_through_their_dress() -> None:
    published = symbol_table(["HLA-A", "CD4", "MLL", "RP11-34P13.7", "<pad>"])
    for dress in ("10x", "R", "CELLxGENE", "RaceID", "repeat"):
        names = [DRESSES[dress](symbol) for symbol in ("HLA-A", "CD4")]
        # the names of the table do not have the older one's gene
        found = map_symbols(pd.DataFrame(index=[*names, "KMT2A", "MLL"]), published)
        assert found.token.tolist() == [0, 1, -1, 2], dress
    var = pd.DataFrame(index=["RP11.34P13.7", "hg19_MLL", "HLA.A", "ENSG00000010610_CD4"])
    assert map_symbols(var, published).token.tolist() == [3, 2, 0, 1]
