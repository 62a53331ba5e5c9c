"""Census downloads that are refused: each in one line, with nothing left behind."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from support import soma_store as store
from support.soma_store import HUMAN, silent

from cellscribe.census.download import count_labels, download_census
from cellscribe.census.state import locked
from cellscribe.config import CensusOptions
from cellscribe.errors import InputError

pytest.importorskip("tiledbsoma", reason="needs the extra census")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"organism": "Danio rerio"}, ["danio_rerio", "homo_sapiens, mus_musculus"]),
        ({"obs": ("assay", "colour")}, ["'colour'", "--obs", "tissue_general"]),
        ({"where": "tissue_general = 'lung'"}, ["tissue_general = 'lung'", "donor_age"]),
        ({"where": "colour == 'red'"}, ["colour does not exist", "donor_age"]),
        ({"where": "donor_age == 'old'"}, ["Cannot cast `old`"]),
        ({"where": "tissue_general"}, ["Malformed query condition"]),
        ({"disease": ("Normal",)}, ["no cell", "'Normal'", "disease normal (", "cell ("]),
        ({"where": "donor_age > 200"}, ["no cell", "donor_age > 200"]),
        ({"uri": "/no/such/place"}, ["/no/such/place", "no SOMA collection", "--uri"]),
        ({"uri": "zzz://place"}, ["zzz://place", "--uri"]),
        ({"uri": __file__}, ["test_refusals.py", "no SOMA collection"]),
    ],
)
def test_refusals(ask: Any, out: Path, changes: dict[str, Any], words: list[str]) -> None:
    for work in (
        lambda asked: count_labels(asked, log=silent),
        lambda asked: download_census(out, asked, log=silent),
    ):
        with pytest.raises(InputError) as refusal:
            work(ask(**changes))
        for word in words:
            assert word in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert not out.exists()


def test_other_shapes_are_refused(soma_census: Path, out: Path, tmp_path: Path) -> None:
    human = soma_census / "census_data" / "homo_sapiens"
    with pytest.raises(InputError, match="is a SOMADataFrame"):
        count_labels(CensusOptions(uri=str(human / "obs")), log=silent)
    frame = HUMAN.obs[["soma_joinid", "assay"]]
    odd = store.Organism(frame, HUMAN.var, HUMAN.counts)
    path = store.write_census(tmp_path / "odd", {"homo_sapiens": odd})
    plain = {"disease": (), "exclude_suspension_type": (), "include_duplicates": True}
    with pytest.raises(InputError, match=r"'dataset_id'.*each dataset becomes a file"):
        count_labels(CensusOptions(uri=str(path), obs=("assay",), **plain), log=silent)
    frame = frame.assign(dataset_id="../up")
    odd = store.Organism(frame, HUMAN.var.drop(columns="feature_id"), HUMAN.counts)
    path = store.write_census(tmp_path / "odder", {"homo_sapiens": odd})
    with pytest.raises(InputError, match=r"'disease'.*--disease any"):
        count_labels(CensusOptions(uri=str(path), obs=("assay",)), log=silent)
    with pytest.raises(InputError, match=r"'\.\./up', which cannot name a file"):
        download_census(out, CensusOptions(uri=str(path), obs=("assay",), **plain), log=silent)
    frame = frame.assign(dataset_id="fine")
    odd = store.Organism(frame, HUMAN.var.drop(columns="feature_id"), HUMAN.counts)
    path = store.write_census(tmp_path / "oddest", {"homo_sapiens": odd})
    with pytest.raises(InputError, match="no column 'feature_id'"):
        download_census(out, CensusOptions(uri=str(path), obs=("assay",), **plain), log=silent)


def test_a_folder_with_something_else_is_refused(
    ask: Any, out: Path, soma_census: Path, tmp_path: Path
) -> None:
    def refused(**changes: Any) -> str:
        before = {p.name: p.read_bytes() for p in out.iterdir()}
        with pytest.raises(InputError) as refusal:
            download_census(out, ask(**changes), log=silent)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
        return str(refusal.value)

    out.mkdir()
    (out / "mine.h5ad").write_bytes(b"mine")
    assert "mine.h5ad is not of a Census download" in refused()
    (out / "mine.h5ad").unlink()
    download_census(out, ask(), log=silent)
    assert "another filter" in refused(disease=("any",))
    assert "another --obs" in refused(obs=("assay",))
    assert "another --organism (Homo sapiens, not Mus musculus)" in refused(organism="Mus musculus")
    shutil.copytree(soma_census, tmp_path / "moved")
    assert "another --uri" in refused(uri=str(tmp_path / "moved"))
    with locked(out):
        assert "is being written by another process" in refused()
    (out / "census.json").write_text('{"format": "cellscribe census", "ver')
    assert "census.json is damaged" in refused()
    with pytest.raises(InputError, match="is a file"):
        download_census(out / "census.json", ask(), log=silent)
    with pytest.raises(InputError, match="no such folder"):
        download_census(out / "deep" / "deeper", ask(), log=silent)
    with pytest.raises(InputError, match="retries is -1"):
        ask(retries=-1)
    with pytest.raises(InputError, match="dry run"):
        download_census(out, ask(dry_run=True), log=silent)


@pytest.mark.parametrize("package", ["tiledbsoma", "cellxgene_census"])
def test_missing_packages(
    ask: Any, out: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    asked = CensusOptions() if package == "cellxgene_census" else ask()
    with pytest.raises(InputError, match=r'pip install "cellscribe\[census\]"'):
        download_census(out, asked, log=silent)
    assert not out.exists()
