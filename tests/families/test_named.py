"""Models by the names of their repositories, kept once they are imported."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from families import every
from families.test_hub import Hub, hub  # noqa: F401
from support.command import Cli, refused
from support.formats import annotated
from support.tiny import real_genes, some_counts

import cellscribe
from cellscribe.errors import InputError
from cellscribe.families.named import hub_name, local_model


def some_cells() -> ad.AnnData:
    return annotated(sp.csr_matrix(some_counts(40)), real_genes)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CELLSCRIBE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_repository_is_imported_once(hub: Hub, tmp_path: Path, cache: Path) -> None:  # noqa: F811
    said: list[str] = []
    found = local_model("lab/scgpt@v1", log=said.append)
    assert hub.asked[0] == ("lab/scgpt", "v1")
    assert found.parent == cache
    assert [line for line in said if line.startswith("Kept in ")]
    said.clear()
    assert local_model("lab/scgpt@v1", log=said.append) == found
    assert said == []
    assert os.listdir(cache) == [found.name]
    # it is what import makes
    cellscribe.import_model(hub.folder, tmp_path / "imported", log=said.append)
    assert cellscribe.info(found)["hash"] == cellscribe.info(tmp_path / "imported")["hash"]


def test_a_failed_import_leaves_nothing(hub: Hub, cache: Path) -> None:  # noqa: F811
    (hub.folder / "best_model.pt").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"best_model\.pt"):
        local_model("lab/scgpt")
    assert os.listdir(cache) == []


def test_a_model_of_ours_is_taken_as_it_is(
    hub: Hub,  # noqa: F811
    tiny_model: Path,
    cache: Path,
) -> None:
    shutil.copytree(tiny_model, hub.folder.parent / "repository" / "inner")
    hub.folder = hub.folder.parent / "repository"
    model = cellscribe.Embedder.from_pretrained(
        "lab/ours", revision="v2", subfolder="inner", device="cpu", precision="float32"
    )
    assert hub.asked[0] == ("lab/ours", "v2")
    assert model.header.directory == hub.folder / "inner"
    assert not cache.exists()


def test_what_is_here_is_not_asked_of_the_hub(
    hub: Hub,  # noqa: F811
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tiny_model, tmp_path / "runs" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert local_model("runs/tiny") == "runs/tiny"
    assert hub.asked == []
    with pytest.raises(InputError, match="leave out revision"):
        hub_name("runs/tiny", "v1", None)
    assert local_model("tiny") == "tiny"


def test_a_saved_model_is_the_same_model(tiny_model: Path, tmp_path: Path) -> None:
    settings = {"device": "cpu", "precision": "float32", "threads": 1}
    model = cellscribe.load(tiny_model, **settings)
    saved = model.save_pretrained(tmp_path / "saved")
    again = cellscribe.Embedder.from_pretrained(saved, **settings)
    cells = some_cells()
    np.testing.assert_array_equal(model.embed(cells), again.embed(cells))
    assert again.identity == model.identity
    with pytest.raises(InputError, match="exists"):
        model.save_pretrained(saved)


@pytest.mark.parametrize("family", every.FAMILIES)
def test_a_published_name_is_told_how_to_import_it(family: str, run: Cli) -> None:
    assert "cellscribe import SOURCE" in refused(run("info", f"my-{family}"))


def test_every_verb_takes_a_repository(hub: Hub, run: Cli, tmp_path: Path) -> None:  # noqa: F811
    cells = some_cells()
    cells.var_names = [f"GENE{i}" for i in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    model = ["--model", "lab/scgpt@main", "--device", "cpu", "--threads", "1"]
    for words in (
        ["embed", tmp_path / "cells.h5ad", "-o", tmp_path / "a.npy", *model],
        ["embed", tmp_path / "cells.h5ad", "-o", tmp_path / "many", *model, "--workers", "2"],
        ["info", "lab/scgpt"],
    ):
        ran = run(*words)
        assert ran.status == 0, ran.err
