"""Symbols of a file matched to the letter, as the families that have symbols do it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellscribe.cells.gene_names.genes import human_genes
from cellscribe.errors import InputError
from cellscribe.families.symbols import map_symbols, symbol_table

# CCN2 was CTGF; a table of an older release has the older name, and knows no other
TABLE = symbol_table(["GAPDH", "CD4", "CTGF", "MALAT1", "NOT-A-GENE", "<pad>", "<cls>"])


def test_names_keep_their_places_and_get_ensembl_ids() -> None:
    assert TABLE.symbols[2] == "CTGF" and len(TABLE) == 7
    known = human_genes().set_index("symbol")["ensembl_id"]
    assert TABLE.ids[:2] == (known["GAPDH"], known["CD4"])
    assert TABLE.ids[4:] == ("NOT-A-GENE", "<pad>", "<cls>")


def test_a_gene_that_two_rows_would_share_is_neither_rows() -> None:
    frame = human_genes()
    twice = frame.loc[(frame["symbol"] != "") & frame["symbol"].duplicated(), "symbol"].iloc[0]
    table = symbol_table([twice, "CD4"])
    assert table.ids[0] == twice


@given(
    st.lists(
        st.sampled_from(["GAPDH", "gapdh", "CD4", "CD4 ", "CCN2", "CTGF", "<pad>", "", "OTHER"]),
        min_size=1,
        max_size=12,
    )
)
def test_only_the_very_name_counts(names: list[str]) -> None:
    wanted = {"GAPDH": 0, "CD4": 1, "CTGF": 2}
    expected = [wanted.get(name.strip(), -1) for name in names]
    # the first column makes the file one that is read by symbols
    found = map_symbols(pd.DataFrame({"symbol": ["MALAT1", *names]}), TABLE, gene_key="symbol")
    assert found.token.tolist() == [3, *expected]
    assert (found.n_known, found.n_genes) == (1 + sum(e >= 0 for e in expected), len(names) + 1)
    assert found.n_tokens == len({3, *expected} - {-1})
    assert found.n_duplicates == found.n_known - found.n_tokens


def test_the_column_with_most_of_them_is_taken() -> None:
    var = pd.DataFrame(
        {"id": ["x", "y", "CD4"], "feature_name": ["GAPDH", "CD4", "CTGF"]}, index=["1", "2", "3"]
    )
    found = map_symbols(var, TABLE)
    assert (found.key, found.token.tolist()) == ("feature_name", [0, 1, 2])
    assert map_symbols(var, TABLE, gene_key="id").token.tolist() == [-1, -1, 1]


def test_ensembl_ids_serve_where_there_are_no_symbols() -> None:
    known = human_genes().set_index("symbol")["ensembl_id"]
    var = pd.DataFrame(index=[known["CD4"], known["GAPDH"], known["ACTB"]])
    found = map_symbols(var, TABLE)
    assert found.token.tolist() == [1, 0, -1]
    assert found.n_ensembl == 2


def test_antibodies_are_no_genes() -> None:
    var = pd.DataFrame(
        {"feature_types": ["Gene Expression", "Antibody Capture"]}, index=["GAPDH", "CD4"]
    )
    found = map_symbols(var, TABLE)
    assert found.token.tolist() == [0, -1]
    assert found.n_other_features == 1


def test_a_file_of_other_genes_is_refused() -> None:
    with pytest.raises(InputError, match="genes look like mouse"):
        map_symbols(pd.DataFrame(index=["Gapdh", "Cd4", "Actb"]), TABLE)
    with pytest.raises(InputError, match="no genes"):
        map_symbols(pd.DataFrame(index=np.array([], dtype=object)), TABLE)
