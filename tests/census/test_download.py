"""Census downloads: against the cells that a Census-shaped SOMA store was written from."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import soma_store as store
from support.soma_store import GOOD, HUMAN, MOUSE, SCFM, context, expect, silent

from cellscribe.census import dataset_file, soma, soma_cells
from cellscribe.census.download import count_labels, download_census, render_labels
from cellscribe.config import CensusOptions
from cellscribe.errors import InputError

soma_package = pytest.importorskip("tiledbsoma", reason="needs the extra census")


pytestmark = pytest.mark.usefixtures("small_blocks")


def test_files_equal_the_source(ask: Any, out: Path, reads: list[np.ndarray]) -> None:
    told: list[tuple[int, int]] = []
    done = download_census(out, ask(), progress=lambda *numbers: told.append(numbers), log=silent)
    expect(out, SCFM)
    assert done.cells == SCFM.sum()
    assert done.left_out == {}
    assert told[0] == (0, SCFM.sum())
    assert told[-1] == (SCFM.sum(), SCFM.sum())
    assert told == sorted(told)
    assert max(map(len, reads)) == dataset_file.BLOCK


def test_files_are_as_anndata_writes_them(ask: Any, out: Path, tmp_path: Path) -> None:
    download_census(out, ask(), log=silent)
    cells = ad.read_h5ad(out / "beta-2.h5ad")
    cells.write_h5ad(tmp_path / "again.h5ad")
    with h5py.File(out / "beta-2.h5ad") as ours, h5py.File(tmp_path / "again.h5ad") as theirs:
        assert dict(ours["X"].attrs)["encoding-type"] == theirs["X"].attrs["encoding-type"]
        assert list(ours["X"].attrs["shape"]) == list(theirs["X"].attrs["shape"])
        assert {key: ours["X"][key].dtype for key in ours["X"]} == {
            "data": np.dtype(np.float32),
            "indices": np.dtype(np.int32),
            "indptr": np.dtype(np.int64),
        }
        assert isinstance(ours["obs/development_stage"], h5py.Group), "labels are categories"


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        (
            {"disease": ("normal", "Crohn's disease")},
            GOOD & HUMAN.obs["disease"].isin(["normal", "Crohn's disease"]),
        ),
        (
            {"where": "tissue_general == 'lung' or donor_age > 60"},
            SCFM & ((HUMAN.obs["tissue_general"] == "lung") | (HUMAN.obs["donor_age"] > 60)),
        ),
        (
            {"exclude_suspension_type": ("none",)},
            HUMAN.obs["is_primary_data"] & (HUMAN.obs["disease"] == "normal"),
        ),
        (
            {"include_duplicates": True, "exclude_suspension_type": ("na", "nucleus")},
            (HUMAN.obs["suspension_type"] == "cell") & (HUMAN.obs["disease"] == "normal"),
        ),
        (
            {
                "include_duplicates": True,
                "exclude_suspension_type": (),
                "disease": ("any",),
                "where": "dataset_id in ['alpha-1', 'gamma-3']",
            },
            HUMAN.obs["dataset_id"].isin(["alpha-1", "gamma-3"]),
        ),
    ],
)
def test_filters(ask: Any, out: Path, changes: dict[str, Any], chosen: pd.Series) -> None:
    download_census(out, ask(**changes), log=silent)
    expect(out, chosen)


def test_dry_run_counts_labels_and_needs_no_counts(soma_census: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(soma_census, bare)
    shutil.rmtree(bare / "census_data" / "homo_sapiens" / "ms")
    columns = (*CensusOptions().obs, "is_primary_data", "donor_age")
    counted = count_labels(CensusOptions(uri=str(bare), obs=columns), log=silent)
    obs = HUMAN.obs[SCFM]
    assert counted.cells == len(obs)
    assert set(counted.labels) == {*columns} - {"donor_age"}
    for column in CensusOptions().obs:
        there = obs[column].astype(str).value_counts()
        assert counted.labels[column] == dict(there)
        assert list(counted.labels[column].values()) == sorted(there, reverse=True)
    assert counted.labels["is_primary_data"] == {"true": len(obs)}

    table = render_labels(counted, most=2)
    assert f"{len(obs):,} cells fit disease in ['normal'] and" in table
    rest = len(obs) - sum(sorted(obs["assay"].value_counts())[-2:])
    section = table.partition("assay: 3 labels\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[-2] for line in section][-1] == str(rest)
    assert section[-1].startswith("  and 1 more")
    for label in list(counted.labels["tissue_general"])[:2]:
        assert label in table


def test_all_cells_without_a_filter(ask: Any) -> None:
    loose = ask(disease=("any",), exclude_suspension_type=("none",), include_duplicates=True)
    counted = count_labels(loose, log=silent)
    assert counted.filter is None
    assert counted.cells == len(HUMAN.obs)


def test_mouse_is_apart(ask: Any, out: Path) -> None:
    download_census(out, ask(organism="Mus musculus"), log=silent)
    expect(out, SCFM[:300], MOUSE)


def test_single_experiment(soma_census: Path, out: Path) -> None:
    uri = soma_census / "census_data" / "mus_musculus"
    done = download_census(out, CensusOptions(uri=uri.as_uri()), log=silent)
    expect(out, SCFM[:300], MOUSE)
    kept = json.loads((out / "census.json").read_text())
    assert kept["organism"] is None
    assert (kept["uri"], kept["census_version"]) == (done.uri, None)


@pytest.mark.parametrize(
    ("dataset", "disease", "reason"),
    [
        (store.LOG, "logged", "log-normalised values, it seems, not raw counts"),
        (store.TORN, "torn", "cells do not have as many non-zeros as obs gives in 'nnz'"),
    ],
)
def test_bad_datasets(ask: Any, out: Path, dataset: str, disease: str, reason: str) -> None:
    both = ("normal", disease)
    with pytest.raises(InputError, match="--skip-bad") as refusal:
        download_census(out, ask(disease=both), log=silent)
    assert f"dataset {dataset}: " in str(refusal.value)
    assert reason in str(refusal.value)
    assert "--layer" not in str(refusal.value)
    expect(out, SCFM)  # the good ones came first and stay
    said: list[str] = []
    done = download_census(out, ask(disease=both, skip_bad=True), log=said.append)
    assert len(said) == 1
    assert list(done.left_out) == [dataset]
    assert reason in done.left_out[dataset]
    assert "skip-bad" not in done.left_out[dataset]
    assert done.cells == SCFM.sum()
    assert download_census(out, ask(disease=both, skip_bad=True), log=silent) == done


def test_what_was_written_is_compared(ask: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = dataset_file._stream

    def torn(path: Path, *rest: Any) -> Any:
        facts = stream(path, *rest)
        with h5py.File(path, "r+") as file:
            file["X/data"][0] += 1
        return facts

    monkeypatch.setattr(dataset_file, "_stream", torn)
    with pytest.raises(InputError, match=r"reads back as .* check the disk"):
        download_census(out, ask(), log=silent)
    assert [p.name for p in out.iterdir()] == ["census.json"]


def test_published_census_by_version(
    soma_census: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"flags": {"lts": True}}
    directory = {
        "stable": about | {"release_build": "2023-12-15"},
        "2023-12-15": about | {"release_build": "2023-12-15"},
        "2023-07-25": about | {"release_build": "2023-07-25"},
        "2024-01-01": {"release_build": "2024-01-01"},
    }
    opened: list[str] = []

    def open_soma(*, census_version: str, tiledb_config: dict[str, Any]) -> Any:
        opened.append(census_version)
        return soma_package.open(str(soma_census), context=context())

    package = SimpleNamespace(
        open_soma=open_soma, get_census_version_directory=lambda retracted: directory
    )
    monkeypatch.setitem(sys.modules, "cellxgene_census", package)
    done = download_census(out, CensusOptions(census_version="stable"), log=silent)
    assert (done.census_version, opened) == ("2023-12-15", ["stable"])
    expect(out, SCFM)
    assert download_census(out, CensusOptions(), log=silent) == done
    directory["stable"] = about | {"release_build": "2025-11-08"}
    with pytest.raises(InputError, match=r"--census-version \(2023-12-15, not 2025-11-08\)"):
        download_census(out, CensusOptions(census_version="stable"), log=silent)
    with pytest.raises(InputError, match=r"'2023'; there are stable, 2023-12-15, 2023-07-25$"):
        count_labels(CensusOptions(census_version="2023"), log=silent)


@given(st.sets(st.integers(0, 60), min_size=1), st.lists(st.integers(0, 60), max_size=8))
def test_places(ids: set[int], wanted: list[int]) -> None:
    ordered = sorted(ids)
    if set(wanted) <= ids:
        found = soma_cells.places(np.array(ordered), np.array(wanted, np.int64))
        assert list(found) == [ordered.index(i) for i in wanted]
    else:
        with pytest.raises(soma.SourceError):
            soma_cells.places(np.array(ordered), np.array(wanted, np.int64))
