"""Names of cells are found in the Cell Ontology, and labels are given at the level that is sure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cellscribe
from cellscribe.index.ontology import ancestors, common_parents, match_labels, terms
from cellscribe.index.query import NOBODY, Voter, kinds_of
from cellscribe.index.store import BUNDLED, Column
from cellscribe.index.votes import Labels

B, T, CD4, CD8, BETA = "CL:0000236", "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000169"


def test_names_ids_and_synonyms_are_found() -> None:
    words = ["B cell", "cl:0000169", "T-lymphocyte", "t CELL", "my favourite cell"]
    found = match_labels(words)
    assert found == {"B cell": B, "cl:0000169": BETA, "T-lymphocyte": T, "t CELL": T}


def test_every_parent_is_a_term_and_no_term_is_above_itself() -> None:
    for term in terms().values():
        assert all(parent in terms() for parent in term.parents)
        assert term.id not in {a for parent in term.parents for a in ancestors(parent)}


def test_parents_that_are_given_cover_some_labels_and_not_all() -> None:
    found = {terms()[term].name for term in common_parents([B, CD4, CD8, BETA])}
    assert {"lymphocyte", "T cell"} <= found
    assert "cell" not in found
    assert not {"insulin secreting cell", "type B pancreatic cell"} & found


LABELS = ["B cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "beta"]


@pytest.fixture
def voter() -> Voter:
    ontology = match_labels(LABELS[:3]) | {"beta": BETA}
    column: Column = {
        "labels": dict.fromkeys(LABELS, 10), "threshold": 0.75, "limit": 1.0,
        "known": [0.0, 0.0, 1.0], "spreads": dict.fromkeys(LABELS, 1.0), "near": 1.0,
        "most_far": 0.0, "most_ratio": 1.0, "disagreement": 0.0, "confused": [], "calibration": {},
        "ontology": ontology,
    }  # fmt: skip
    index: Any = None
    return Voter(index, Labels(name="type", kept=LABELS, codes=np.zeros(0, np.int64)), column)


@pytest.mark.parametrize(
    ("shares", "name", "probability"),
    [
        ([0.8, 0.1, 0.1, 0.0], "B cell", 0.8),
        ([0.0, 0.5, 0.5, 0.0], "mature alpha-beta T cell", 1.0),
        ([0.3, 0.3, 0.3, 0.1], "lymphocyte", 0.9),
        ([0.3, 0.2, 0.1, 0.4], None, 0.4),
    ],
)
def test_the_narrowest_kind_that_is_sure_is_given(
    voter: Voter, shares: list[float], name: str | None, probability: float
) -> None:
    called = voter.call_shares(np.array([shares]), np.ones(1), np.full(1, 0.9))
    given = int(called.given[0])
    table = voter.table(called)
    if name is None:
        assert given == NOBODY
        assert table["label"][0] == "unknown"
        assert table["ontology_id"][0] == ""
    else:
        assert table["label"][0] == name
        assert terms()[table["ontology_id"][0]].name == name
    assert called.probability[0] == pytest.approx(probability)
    far = voter.call_shares(np.array([shares]), np.full(1, 0.5), np.full(1, 1.1))
    assert far.given[0] == NOBODY
    assert far.probability[0] == pytest.approx(max(shares) / 2)


def test_ids_of_another_release_are_left_out() -> None:
    assert kinds_of(["a", "b"], {"a": "CL:9999999", "b": T}).ids == ["", T]


def test_a_label_covers_those_below_it() -> None:
    kinds = kinds_of(["T cell", "CD4 T"], {"T cell": T, "CD4 T": CD4})
    assert kinds.covers.tolist() == [[True, False], [True, True]]


def test_what_comes_with_mini_is_whole_small_and_named_by_the_ontology() -> None:
    folder = BUNDLED / "mini.index"
    found = cellscribe.index_info(folder, verify=True)
    assert found["bytes"] < 8e6
    column = found["columns"]["cell_type"]
    assert column["labels"].keys() == column["ontology"].keys()
    assert all(terms()[term].name == label for label, term in column["ontology"].items())
    model = cellscribe.load("mini")
    assert (found["model"]["name"], found["model"]["hash"]) == ("mini", model.hash)
