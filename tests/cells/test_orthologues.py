"""Mouse genes: names, orthologues, and what of a mouse file reaches a model of human genes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from cellscribe.cells.gene_names.genes import human_genes, map_genes
from cellscribe.cells.gene_names.orthologues import mouse_reader, orthologues, read_table
from cellscribe.cells.gene_names.spellings import Kind
from cellscribe.cells.gene_names.symbols import is_current, table
from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.errors import InputError
from cellscribe.families.symbols import map_symbols, symbol_table

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# known from outside the bundled table (MGI and HGNC)
FACTS = {
    "Trp53": ("ENSMUSG00000059552", "TP53"),
    "Cd4": ("ENSMUSG00000023274", "CD4"),
    "Actb": ("ENSMUSG00000029580", "ACTB"),
    "mt-Co1": ("ENSMUSG00000064351", "MT-CO1"),
    "Il2ra": ("ENSMUSG00000026770", "IL2RA"),
    "Ms4a1": ("ENSMUSG00000024673", "MS4A1"),
}
ID_OF = {symbol: genes[0] for symbol, genes in table().genes.items()}
HUMAN = GeneTable(
    ids=tuple(ID_OF[human] for _, human in FACTS.values()),
    symbols=tuple(human for _, human in FACTS.values()),
)
MOUSE = GeneTable(ids=tuple(mouse for mouse, _ in FACTS.values()), symbols=tuple(FACTS))


def var(names: list[str], **columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def test_the_table_is_one_to_one() -> None:
    pairs = orthologues().human_of
    assert len(set(pairs.values())) == len(pairs) > 17_000
    assert all(map(is_current, pairs.values()))
    genes = human_genes()
    coding = set(genes.loc[genes["biotype"] == "protein_coding", "ensembl_id"])
    assert len(coding & set(pairs.values())) > 0.8 * len(coding)


def test_most_orthologues_have_the_name_of_their_gene() -> None:
    # symbols are given so that orthologues share one, where they are known as such
    same = [
        symbol.upper() == table().symbol_of[orthologues().human_of[gene]].upper()
        for symbol, gene in orthologues().genes.items()
        if table().symbol_of[orthologues().human_of[gene]]
    ]
    assert sum(same) > 0.9 * len(same)
    # and no human symbol is a mouse gene's but where both are written alike
    alike = [symbol for symbol in table().genes if symbol in orthologues().genes]
    assert len(alike) < 0.01 * len(orthologues().genes)


def test_names_of_the_table_stand_for_themselves() -> None:
    read = mouse_reader(orthologues()).read
    for symbol, gene in orthologues().genes.items():
        assert read(symbol) == (Kind.SYMBOL, (gene,))
    for gene in orthologues().human_of:
        assert read(f"{gene}.7") == (Kind.ENSEMBL, (gene,))
    for dress in ("mm10___{}", "GRCm38-{}", "MOUSE_{}", "{}__chr6", "{}-11"):
        for symbol, gene in list(orthologues().genes.items())[::7]:
            name = dress.format(symbol)
            assert read(name)[1] in ((gene,), ()), name
    unread = [s for s in orthologues().genes if read(f"mm10_{s}")[0] != Kind.SYMBOL]
    assert not unread


@pytest.mark.parametrize(
    "spell",
    [
        lambda symbol, gene: symbol,
        lambda symbol, gene: f"{gene}.4",
        lambda symbol, gene: f"mm10_{symbol}",
        lambda symbol, gene: f"{symbol}_{gene}",
        lambda symbol, gene: symbol.replace("-", "."),
    ],
)
def test_mouse_genes_reach_their_orthologues(spell: object) -> None:
    names = [spell(symbol, gene) for symbol, (gene, _) in FACTS.items()]  # type: ignore[operator]
    lost = ["Gapdh", "H2-K1", "Gm12345"]
    found = map_genes(var([*names, *lost]), HUMAN, species="mouse")
    assert found.token.tolist() == [*range(len(FACTS)), -1, -1, -1]
    assert (found.species, found.n_no_orthologue) == ("mouse", 3)
    assert "no one-to-one human orthologue and are left out: 3" in found.summary()
    published = symbol_table(HUMAN.symbols)
    assert map_symbols(var(names), published, species="mouse").token.tolist() == list(range(6))


def test_a_mixture_gives_its_mouse_genes() -> None:
    names = [f"mm10_{symbol}" for symbol in FACTS] + ["hg19_CD4", "hg19_TP53"]
    found = map_genes(var(names), HUMAN, species="mouse")
    assert found.token.tolist() == [*range(len(FACTS)), -1, -1]
    assert (found.n_other_species, found.n_no_orthologue) == (2, 0)
    human = map_genes(var(names), HUMAN)
    assert human.token.tolist() == [-1] * len(FACTS) + [1, 0]


def test_each_species_is_refused_where_the_other_is_meant() -> None:
    symbols, ids = list(FACTS), [gene for gene, _ in FACTS.values()]
    for names in (symbols, ids):
        with pytest.raises(
            InputError, match=r"m\.h5ad: the genes look like mouse.*--species mouse"
        ):
            map_genes(var(names), HUMAN, name="m.h5ad")
    for names in (list(HUMAN.symbols), list(HUMAN.ids)):
        with pytest.raises(InputError, match=r"the genes look human.*leave --species out"):
            map_genes(var(names), HUMAN, species="mouse")
        with pytest.raises(InputError, match=r"the genes look human.*a model of human genes"):
            map_genes(var(names), MOUSE)


def test_a_mouse_model_reads_mouse_files_as_they_are() -> None:
    assert (MOUSE.species, HUMAN.species) == ("mouse", "human")
    for names in (list(FACTS), [f"{gene}.2" for gene in MOUSE.ids], ["p53", *list(FACTS)[1:]]):
        for species in ("human", "mouse"):
            found = map_genes(var(names), MOUSE, species=species)  # type: ignore[arg-type]
            assert found.token.tolist() == list(range(len(FACTS)))
            assert found.n_no_orthologue == 0
    # symbols of its own that the table of orthologues lacks
    own = GeneTable(ids=(*MOUSE.ids, "ENSMUSG00000057666"), symbols=(*MOUSE.symbols, "Gapdh"))
    assert map_genes(var(["Gapdh", *FACTS]), own).token.tolist() == [6, *range(6)]


def maker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location(
        "orthologue_maker", SCRIPTS / "make_orthologues.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("make_symbols", None)
    return module


def test_making_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = maker(monkeypatch)
    mouse = [f"ENSMUSG{i:011d}" for i in range(1, 7)]
    human = [ID_OF[name] for name in ("TP53", "CD4", "ACTB", "GAPDH", "CD3E", "CD19")]
    pairs = list(zip(mouse[:3], human[:3], strict=True))
    assert made.one_to_one([*pairs, (mouse[3], human[2])]) == sorted(pairs[:2])
    kinds = ["ortholog_one2one", "ortholog_one2many", "ortholog_one2one"]
    rows = [
        {"Gene stable ID": m, "Human gene stable ID": h, "Human homology type": kind}
        for (m, h), kind in zip(pairs, kinds, strict=True)
    ]
    assert made.ensembl_pairs(rows) == [pairs[0], pairs[2]]
    mgi = [
        {"ID": str(i), "symbol": f"Sym{i}", "synonyms": names, "ensembl": gene}
        for i, (gene, names) in enumerate(
            zip(mouse, ["Old1|Both|7", "Both", "Now4", "", "", ""], strict=True), start=1
        )
    ]
    column = "Mouse genome database ID(supplied by MGI)"
    hgnc = [
        {"Status": "Approved", "Ensembl gene ID": human[3], column: "MGI:4, MGI:5"},
        {"Status": "Approved", "Ensembl gene ID": human[4], column: "MGI:6"},
        {"Status": "Approved", "Ensembl gene ID": human[5], column: "MGI:6"},
    ]
    coding = {mouse[3], *human}  # the fifth mouse gene is a pseudogene, the sixth has two partners
    found = made.hgnc_pairs(hgnc, mgi, coding)
    assert found == [(mouse[3], human[3])]
    joined = made.join(pairs, [*found, (mouse[0], human[5])])
    assert joined == [*pairs, *found]
    genes = [[gene, f"Now{i}"] for i, gene in enumerate(mouse, start=1)]
    text = made.build(joined, genes, {mouse[1]: "Was2"}, mgi, "a test")
    read = read_table(text)
    assert read.human_of == dict(joined)
    assert read.genes == {f"Now{i}": mouse[i - 1] for i in (1, 2, 3, 4)}
    # Both is two genes', 7 a number, Now4 another gene's symbol
    assert set(read.others) == {"Old1", "Was2", "Sym1", "Sym2", "Sym3", "Sym4"}
    given = tmp_path / "pairs.csv"
    given.write_text(
        f"mouse,human\n{mouse[0]}.3,{human[0]}\n{mouse[1]},{human[0]}\n{mouse[2]},{human[2]}\n"
    )
    assert made.read_pairs(given) == [pairs[2]]
