"""The two commands from a Census to a training store, as a user types them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.command import Cli, refused
from support.soma_store import HUMAN

from cellscribe.corpus.store import open_corpus

pytest.importorskip("tiledbsoma")


def wanted() -> list[int]:
    """Rows of the human organism that sc-FM's filters keep."""
    obs = HUMAN.obs
    keep = (obs["suspension_type"] != "na") & obs["is_primary_data"] & (obs["disease"] == "normal")
    return list(obs["soma_joinid"][keep])


def test_from_the_census_to_a_corpus(soma_census: Path, tmp_path: Path, run: Cli) -> None:
    census, out = tmp_path / "census", tmp_path / "corpus"
    ran = run("corpus", "census", "--uri", soma_census, "-o", census)
    assert (ran.status, ran.out) == (0, f"{census}\n")
    assert f"{len(wanted()):,} cells" in ran.err
    ran = run("corpus", "build", census, "-o", out, "--holdout", 0.2, "--keep-duplicates")
    assert (ran.status, ran.out) == (0, f"{out}\n"), ran
    corpus = open_corpus(out, deep=True)
    ids, assays = [], Counter[str]()
    for split in corpus.splits:
        for table in corpus.cells(split, ["cell_id", "assay"]):
            ids += table["cell_id"].to_pylist()
            assays.update(table["assay"].to_pylist())
    assert sorted(map(int, ids)) == sorted(wanted())
    obs = HUMAN.obs.set_index("soma_joinid").loc[wanted()]
    assert assays == Counter(obs["assay"].astype(str))
    assert not any("no obs column" in n for s in corpus.manifest["sources"] for n in s["notes"])


def test_a_dry_run_prints_labels_and_writes_nothing(
    soma_census: Path, tmp_path: Path, run: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("corpus", "census", "--uri", soma_census, "--dry-run")
    assert ran.status == 0
    assert f"{len(wanted()):,} cells" in ran.out
    assert not list(tmp_path.iterdir())


def test_bad_words_are_refused(tmp_path: Path, run: Cli) -> None:
    assert "name a folder for the download with -o" in refused(run("corpus", "census"))
    line = refused(run("corpus", "census", "--uri", tmp_path / "none", "-o", tmp_path / "out"))
    assert "SOMA" in line
