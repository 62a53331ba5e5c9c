"""Names that Geneformer's own tools read, and how a file's columns are read by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from families.published_geneformer import N_GENES, RETIRED, SPECIALS, small_dictionaries

from cellscribe.cells.gene_names.genes import map_genes, resolve
from cellscribe.cells.gene_names.synonyms import read_synonyms, synonyms_to_text
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.errors import InputError
from cellscribe.families.geneformer.gene_ids import mapping_of, synonyms_of

FIRST = len(SPECIALS["V2"])


def table(mapping: dict[str, str] | None) -> Vocabulary:
    made = small_dictionaries("V2")
    ids = tuple(made["token_dictionary"])
    return Vocabulary(
        ids=ids,
        symbols=("",) * len(ids),
        medians=np.array([np.nan] * FIRST + [1.0] * N_GENES),
        n_special=FIRST,
        synonyms=synonyms_of(mapping, ids),
    )


@pytest.fixture(scope="module")
def mapped() -> Vocabulary:
    return table(small_dictionaries("V2")["ensembl_mapping_dict"])


def tokens(names: list[str], vocabulary: Vocabulary) -> list[int]:
    """Tokens of these names in a file that has enough other genes."""
    others = list(vocabulary.ids[FIRST : FIRST + 20])
    var = pd.DataFrame({"gene": [*others, *names]}, index=[f"r{i}" for i in range(20 + len(names))])
    return map_genes(var, vocabulary, gene_key="gene").token[20:].tolist()


def test_retired_ids_and_names_are_read_as_published(mapped: Vocabulary) -> None:
    assert tokens([*RETIRED, "oldname"], mapped) == [
        *(FIRST + place for place in RETIRED.values()),
        FIRST + RETIRED["OLDNAME"],
    ]


def test_ids_are_read_in_any_case_and_without_their_version(mapped: Vocabulary) -> None:
    gene = mapped.ids[-1]
    assert tokens([gene.lower(), f"{gene}.7", "ENSG00000999001.2"], mapped) == [
        len(mapped) - 1,
        len(mapped) - 1,
        FIRST + 3,
    ]


def test_an_id_that_is_not_published_is_no_gene(mapped: Vocabulary) -> None:
    assert tokens(["ENSG00000999009", "ENSG00000999777"], mapped) == [-1, -1]


def test_an_unknown_id_is_not_mended_by_another_column(mapped: Vocabulary) -> None:
    ids = [*mapped.ids[FIRST:], "ENSG00000999777"]
    symbols = [f"name{i}" for i in range(N_GENES)] + ["OLDNAME"]
    var = pd.DataFrame({"id": ids, "symbol": symbols}, index=[f"r{i}" for i in range(len(ids))])
    assert map_genes(var, mapped).token.tolist() == [*range(FIRST, len(mapped)), -1]


def test_a_twin_stands_in_for_an_id_in_our_own_tables_alone() -> None:
    """Ensembl lists some genes under two ids; published tokenisers know the one they list."""
    from cellscribe.cells.gene_names.symbols import table as human

    symbol, genes = next((s, g) for s, g in human().genes.items() if len(g) == 2)
    ids = ("<pad>", "<mask>", genes[0], *small_ids())
    plain = Vocabulary(
        ids=ids,
        symbols=("",) * len(ids),
        medians=np.array([np.nan] * 2 + [1.0] * (len(ids) - 2)),
        n_special=2,
    )
    published = Vocabulary(
        ids=ids, symbols=plain.symbols, medians=plain.medians, n_special=2, synonyms={}
    )
    assert resolve([symbol]) == [genes[0]]
    var = pd.DataFrame(index=[genes[1], *small_ids()])
    assert map_genes(var, plain).token[0] == 2
    assert map_genes(var, published).token[0] == -1


def small_ids() -> list[str]:
    return [name for name in small_dictionaries("V1")["token_dictionary"] if name[0] != "<"][:20]


def test_a_canonical_id_that_the_mapping_lacks_or_renames_is_read_so() -> None:
    mapping = dict(small_dictionaries("V2")["ensembl_mapping_dict"])
    gone, moved, target = list(mapping)[:3]
    del mapping[gone]
    mapping[moved] = target
    vocabulary = table(mapping)
    assert tokens([gone, moved, target], vocabulary) == [
        -1,
        vocabulary.token_of[target],
        vocabulary.token_of[target],
    ]
    assert {k: v for k, v in mapping.items() if v in vocabulary.token_of} == mapping_of(vocabulary)


def test_without_a_mapping_each_id_stands_for_itself() -> None:
    vocabulary = table(None)
    assert vocabulary.synonyms == {}
    genes = vocabulary.ids[FIRST:]
    assert mapping_of(vocabulary) == dict(zip(genes, genes, strict=True))
    assert tokens([*RETIRED, genes[-1]], vocabulary) == [-1, -1, -1, len(vocabulary) - 1]


def test_the_names_travel_with_the_gene_table(mapped: Vocabulary, tmp_path: Path) -> None:
    mapped.write(tmp_path / "genes.tsv")
    again = Vocabulary.read(tmp_path / "genes.tsv")
    assert again.synonyms == mapped.synonyms
    assert again.hash == mapped.hash
    (tmp_path / "gene_ids.tsv").unlink()
    without = Vocabulary.read(tmp_path / "genes.tsv")
    assert without.synonyms is None
    assert len({without.hash, mapped.hash, table(None).hash}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must be name ensembl_id"),
        ("name\tid\n", "the first line must be name ensembl_id"),
        ("name\tensembl_id\nA\tENSG1\nA\tENSG1\n", "line 3"),
        ("name\tensembl_id\nA\tENSG2\n", "line 2"),
        ("name\tensembl_id\nA\n", "line 2"),
        ("name\tensembl_id\n\tENSG1\n", "line 2"),
    ],
)
def test_bad_lines_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "gene_ids.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_synonyms(path, ["ENSG1"])
    assert "\n" not in str(caught.value)


def test_text_and_back(tmp_path: Path) -> None:
    path = tmp_path / "gene_ids.tsv"
    path.write_text(synonyms_to_text({"B": 1, "A": 0, "C": -1}, ("ENSG1", "ENSG2")))
    assert path.read_text().splitlines() == ["name\tensembl_id", "A\tENSG1", "B\tENSG2", "C\t"]
    assert read_synonyms(path, ["ENSG1", "ENSG2"]) == {"A": 0, "B": 1, "C": -1}
