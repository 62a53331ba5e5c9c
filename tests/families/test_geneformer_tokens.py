"""Geneformer's dictionaries and its ranking of genes, restated and done by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from families.published_geneformer import N_GENES, RETIRED, SPECIALS, small_dictionaries
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cellscribe.cells.gene_names.genes import map_genes
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.cells.rank import rank_cells
from cellscribe.families.geneformer.dictionaries import read_dictionaries
from cellscribe.families.geneformer.gene_ids import synonyms_of

VERSIONS = ("V1", "V2")
KNOWN_V1 = {
    "ENSG00000000003": (2, 2.001186019549122),
    "ENSG00000010610": (269, 2.5671046844366265),
    "ENSG00000075624": (1319, 41.877031521142754),
    "ENSG00000111640": (3906, 20.045450745942386),
    "ENSG00000141510": (8088, 1.896353946084924),
    "ENSG00000198851": (17276, 7.460485845520627),
    "ENSG00000254647": (20830, 634.3066836551134),
}


def test_the_first_dictionary_holds_what_is_known_of_it(shared_genes: Path) -> None:
    found = read_dictionaries(shared_genes, None, 25_426)
    table = found.vocabulary
    for gene, (token, median) in KNOWN_V1.items():
        assert table.token_of[gene] == token
        assert table.medians[token] == median
    assert table.n_genes == 25_424
    assert table.ids[-1] == "ENSGR0000265658"
    assert {"ENSG00000251562", "ENSG00000229807"}.isdisjoint(table.ids)
    assert table.symbols[269] == "CD4"
    assert not found.has_mapping


def test_the_second_dictionary_holds_what_is_known_of_it(shared_genes: Path) -> None:
    found = read_dictionaries(shared_genes, None, 20_275)
    assert found.vocabulary.ids[:5] == (*SPECIALS["V2"], "ENSG00000000003")
    assert found.vocabulary.n_genes == 20_271
    assert found.has_mapping
    assert (found.vocabulary.synonyms or {})["ENSG00000235249"] == 19_873
    assert len(found.vocabulary.synonyms or {}) == 71_482


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        (
            {
                "ENSG00000075624": 40,
                "ENSG00000111640": 20,
                "ENSG00000198851": 10,
                "ENSG00000010610": 3,
                "ENSG00000141510": 1,
                "ENSG00000251562": 126,
            },
            [17276, 269, 3906, 1319, 8088],
        ),
        (
            {"ENSG00000188290": 1, "ENSG00000187583": 2, "ENSG00000187634": 5},
            [16026, 16012, 16175],
        ),
    ],
)
def test_cells_small_enough_for_pencil_and_paper(
    counts: dict[str, int], wanted: list[int], shared_genes: Path
) -> None:
    table = read_dictionaries(shared_genes, None, 25_426).vocabulary
    columns = np.array([table.token_of.get(gene, -1) for gene in counts], np.int32)
    block = csr_matrix(np.array([list(counts.values())]))
    assert rank_cells(block, columns, table.medians, 2_048).tokens.tolist() == wanted


@settings(max_examples=60)
@given(data=st.data())
def test_tokens_are_those_of_a_slow_restatement(data: st.DataObject) -> None:
    """The published rule, written out gene by gene; equal values in order of token."""
    version = data.draw(st.sampled_from(VERSIONS))
    tokens, medians, table = restated_tables(version)
    mapping = small_dictionaries(version)["ensembl_mapping_dict"]
    known = [*list(medians)[:N_GENES], *RETIRED, "ENSG00000999009", "ENSG00000999008", "NONE"]
    names = data.draw(st.lists(st.sampled_from(known), min_size=12, max_size=40))
    names = [*list(medians)[:10], *names]
    low = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    names = [name.lower() if flag else name for name, flag in zip(names, low, strict=True)]
    counts = data.draw(
        st.lists(st.integers(0, 6), min_size=len(names), max_size=len(names)).filter(any)
    )
    total = sum(counts) + data.draw(st.integers(0, 50))
    summed: dict[str, int] = {}
    for name, count in zip(names, counts, strict=True):
        gene = mapping.get(name.upper())
        if gene in tokens and count:
            summed[gene] = summed.get(gene, 0) + count
    value = {gene: n / total * 10_000 / medians[gene] for gene, n in summed.items()}
    wanted = sorted(summed, key=lambda gene: (-round(value[gene], 6), tokens[gene]))

    var = pd.DataFrame({"ensembl_id": names}, index=[f"row {i}" for i in range(len(names))])
    genes = map_genes(var, table, gene_key="ensembl_id")
    found = rank_cells(csr_matrix([counts]), genes.token, table.medians, 2_048)
    assert found.tokens.tolist() == [tokens[gene] for gene in wanted]


@cache
def restated_tables(version: str) -> tuple[dict[str, int], dict[str, float], Vocabulary]:
    made = small_dictionaries(version)
    ids, n_special = tuple(made["token_dictionary"]), len(SPECIALS[version])
    medians = [made["gene_median_dictionary"][gene] for gene in ids[n_special:]]
    table = Vocabulary(
        ids=ids,
        symbols=("",) * len(ids),
        medians=np.array([np.nan] * n_special + medians),
        n_special=n_special,
        synonyms=synonyms_of(made["ensembl_mapping_dict"], ids),
    )
    tokens = {gene: int(token) for gene, token in made["token_dictionary"].items()}
    return tokens, made["gene_median_dictionary"], table
