"""Labels of a screen, as several sources write them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import Cells
from cellscribe.evaluation.scores import UnfitError
from cellscribe.evaluation.tasks.perturbation.conditions import (
    read_conditions,
    target_columns,
    targets_of,
)


def cells_of(obs: dict, var: pd.DataFrame | None = None, gene_key: str | None = None) -> Cells:
    frame = pd.DataFrame(obs)
    var = pd.DataFrame(index=["STAT1", "JAK2"]) if var is None else var
    return Cells(
        name="screen",
        counts=csr_matrix(np.ones((len(frame), len(var)), np.float32)),
        obs=frame,
        var=var,
        gene_key=gene_key,
        n_in_file=len(frame),
    )


@pytest.mark.parametrize(
    ("label", "targets"),
    [
        ("ctrl", ()),
        ("control", ()),
        ("ctrl+ctrl", ()),
        ("non-targeting", ()),
        ("Non-Targeting_12", ()),
        ("NT", ()),
        ("NTg4", ()),
        ("neg_ctrl_3", ()),
        ("STAT1+ctrl", ("STAT1",)),
        ("ctrl+STAT1", ("STAT1",)),
        ("STAT1", ("STAT1",)),
        ("STAT1+JAK2", ("JAK2", "STAT1")),
        ("JAK2+STAT1", ("JAK2", "STAT1")),
        ("KLF1_AHR", ("AHR", "KLF1")),
        ("KLF1_control", ("KLF1",)),
        ("SPI1_pDS255", ("SPI1",)),
        ("HLA-A", ("HLA-A",)),
        ("NT5E", ("NT5E",)),
        ("NTRK1", ("NTRK1",)),
        ("made_up_name", ("made_up_name",)),
        ("ENSG00000115415", ("ENSG00000115415",)),
        ("", None),
        ("nan", None),
        ("unassigned", None),
    ],
)
def test_labels_are_read(label: str, targets: tuple[str, ...] | None) -> None:
    assert targets_of(label) == targets


def screen(**more: list[str]) -> dict[str, list]:
    labels = ["ctrl"] * 30 + ["STAT1+ctrl"] * 20 + ["ctrl+JAK2"] * 20
    labels += ["JAK2+STAT1"] * 12 + ["STAT1+JAK2"] * 8 + ["MYC+ctrl"] * 19 + [None]
    return {"condition": labels, **more}


def test_two_orders_are_one_perturbation_and_rare_ones_are_left_out() -> None:
    found = read_conditions(cells_of(screen()), EvaluateOptions())
    assert found.column == "condition"
    assert found.targets == {"JAK2": ("JAK2",), "JAK2+STAT1": ("JAK2", "STAT1"), "STAT1": ("STAT1",)}  # fmt: skip  # noqa: E501
    assert found.is_control.sum() == 30
    names, sizes = np.unique(found.names.astype(str), return_counts=True)
    assert dict(zip(names, sizes, strict=True)) == {
        "": 20, "JAK2": 20, "JAK2+STAT1": 20, "STAT1": 20, "ctrl": 30,
    }  # fmt: skip
    assert np.array_equal(found.rows("STAT1"), np.arange(30, 50))


def test_a_column_that_is_no_screen_is_passed_over() -> None:
    health = ["healthy", "Crohn's disease", "control"] * 30
    genes = ["STAT1", "JAK2", "MYC"] * 20 + ["control"] * 30
    found = read_conditions(
        cells_of({"condition": health, "perturbation": genes}), EvaluateOptions()
    )
    assert found.column == "perturbation"
    with pytest.raises(UnfitError, match=r"no column of obs tells perturbations.*--condition"):
        read_conditions(cells_of({"condition": health}), EvaluateOptions())


def test_a_named_column_is_taken() -> None:
    made = ["drug a", "drug b", "drug c"] * 20 + ["control"] * 30
    found = read_conditions(cells_of({"treated": made}), EvaluateOptions(condition="treated"))
    assert set(found.targets) == {"drug a", "drug b", "drug c"}


def test_refusals_say_how_to_mend() -> None:
    with pytest.raises(UnfitError, match=r"no column 'guide' \(--condition\); it has condition"):
        read_conditions(cells_of(screen()), EvaluateOptions(condition="guide"))
    genes = {"gene": ["STAT1", "JAK2", "MYC"] * 30}
    with pytest.raises(InputError, match=r"has no controls \(ctrl, control, non-targeting, NT\)"):
        read_conditions(cells_of(genes), EvaluateOptions())
    few = {"gene": ["STAT1", "JAK2"] * 30 + ["NT"] * 30}
    with pytest.raises(UnfitError, match=r"2 perturbations .* 3 are needed; .*--max-cells"):
        read_conditions(cells_of(few), EvaluateOptions())
    rare = {"gene": ["STAT1", "JAK2", "MYC"] * 30 + ["NT"] * 3}
    with pytest.raises(InputError, match="has 3 controls"):
        read_conditions(cells_of(rare), EvaluateOptions())


def test_targets_are_found_by_name_symbol_older_name_and_id() -> None:
    var = pd.DataFrame(
        {"symbol": ["STAT1", "JAK2", "MARCHF8", "own gene", "STAT1"]},
        index=["ENSG00000115415", "ENSG00000096968", "ENSG00000165406", "x", "again"],
    )
    labels = ["STAT1", "ENSG00000096968", "MARCH8", "own gene", "MYC", "no such"]
    found = target_columns(cells_of({}, var), labels)
    assert found == {
        "STAT1": 0, "ENSG00000096968": 1, "MARCH8": 2, "own gene": 3, "MYC": None, "no such": None,
    }  # fmt: skip


def test_antibodies_are_no_targets() -> None:
    var = pd.DataFrame(
        {"feature_types": ["Antibody Capture", "Gene Expression", "Antibody Capture"]},
        index=["CD86", "ENSG00000114013", "CD274"],
    )
    assert target_columns(cells_of({}, var), ["CD86", "CD274"]) == {"CD86": 1, "CD274": None}
