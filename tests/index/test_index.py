"""An index gives cells their neighbours and labels, grows, and stays whole whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors
from support.tiny import WIDTH, save_model
from support.typed_cells import saved, typed_cells

import cellscribe
from cellscribe.config import AddOptions, IndexOptions, QueryOptions
from cellscribe.errors import InputError
from cellscribe.index.store import HEADER, open_index
from cellscribe.lease import lease

pytestmark = pytest.mark.usefixtures("one_thread")
FLAT: dict[str, Any] = {"device": "cpu", "precision": "float32", "threads": 1}


def quiet(_: str) -> None:
    pass


def options(**more: Any) -> IndexOptions:
    words = {
        "label": ("cell_type",),
        "group": "donor",
        "n_neighbors": 5,
        "accuracy": 0.7,
        "dtype": "float32",
    }
    return IndexOptions(**(words | FLAT | more))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    return [saved(folder / f"s{seed}.h5ad", typed_cells(90, seed=seed)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def built(tiny_model: Path, sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "atlas.index"
    cellscribe.build_index(sources, out, options(obs=("donor",)), model=tiny_model, log=quiet)
    return out


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "atlas.index"))


def search(source: Any, index: Path, **more: Any) -> pd.DataFrame:
    return cellscribe.search(source, index, QueryOptions(**(FLAT | more)), log=quiet)


def rows(column: pd.Series) -> Any:
    """A column of lists as an array."""
    return np.array(column.tolist())


def test_neighbours_are_those_of_scikit_learn(
    built: Path, sources: list[Path], tiny_model: Path
) -> None:
    query = typed_cells(40, seed=3)
    found = search(query, built)
    model = cellscribe.load(tiny_model, **FLAT)
    vectors = np.concatenate([model.embed(source) for source in sources])
    space = open_index(built).header["space"]
    near = NearestNeighbors(n_neighbors=5, metric="cosine")
    if space["kind"] == "cosine":
        mean, scale = 0.0, 1.0
    else:
        mean = vectors.mean(0)
        scale = vectors.std(0) if space["kind"] == "standardised" else 1.0
    near.fit((vectors.astype(np.float64) - mean) / scale)
    distance, place = near.kneighbors((model.embed(query).astype(np.float64) - mean) / scale)
    np.testing.assert_allclose(rows(found["neighbor_distance"]), distance, atol=2e-6)
    names = np.array([f"cell{i}" for i in range(90)] * 2, object)
    assert (rows(found["neighbor_id"]) == names[place]).mean() > 0.98
    assert set(np.ravel(rows(found["neighbor_source"]))) == {"s1", "s2"}
    donors = np.concatenate([typed_cells(90, seed=s).obs["donor"] for s in (1, 2)])
    assert (rows(found["neighbor_donor"]) == donors[place]).mean() > 0.98


def test_labels_come_back_with_probabilities(built: Path) -> None:
    query = typed_cells(60, seed=4)
    found = search(query, built)
    truth = query.obs["cell_type"].astype(str)
    called = found["cell_type"] != "unknown"
    assert called.mean() > 0.5
    assert (found["cell_type"].astype(str) == truth)[called].mean() >= 0.6
    votes = 1 / np.maximum(rows(found["neighbor_distance"]), 1e-6)
    same = rows(found["neighbor_cell_type"]) == found["cell_type_best"].to_numpy(str)[:, None]
    share = (votes * same).sum(1) / votes.sum(1)
    column = open_index(built).header["columns"]["cell_type"]
    far = np.array(found["cell_type_distance"] * column["limit"], np.float64)
    odds = np.exp(column["known"][0] + column["known"][1] * np.log(far))
    known = np.minimum(1, odds / (1 + odds) / column["known"][2])
    np.testing.assert_allclose(found["cell_type_probability"], share * known, rtol=1e-4)
    assert (found["cell_type_second"] != found["cell_type_best"]).all()


def test_one_that_grew_is_one_that_was_built(
    built: Path, sources: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    grown = tmp_path / "grown.index"
    cellscribe.build_index(sources[:1], grown, options(obs=("donor",)), model=tiny_model, log=quiet)
    first = open_index(grown).header["parts"]
    cellscribe.add_to_index(grown, sources, AddOptions(**FLAT), log=quiet)
    here, there = open_index(grown), open_index(built)
    assert here.header["parts"][:1] == first
    assert here.header["columns"] == there.header["columns"]
    assert [p["vectors"]["sha256"] for p in here.header["parts"]] == [
        p["vectors"]["sha256"] for p in there.header["parts"]
    ]
    named = {stored.name for stored in grown.iterdir()}
    assert len(named) == 5, "a header and two files of each source"


def test_approximate_finds_what_exact_does(
    built: Path, sources: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("faiss")
    out = tmp_path / "approximate.index"
    cellscribe.build_index(sources, out, options(search="approximate"), model=tiny_model, log=quiet)
    query = typed_cells(30, seed=5)
    exact, found = search(query, built), search(query, out)
    same = [
        len(set(zip(a, b, strict=True)) & set(zip(c, d, strict=True))) / 5
        for a, b, c, d in zip(
            exact["neighbor_id"], exact["neighbor_source"],
            found["neighbor_id"], found["neighbor_source"], strict=True,
        )
    ]  # fmt: skip
    assert np.mean(same) > 0.95
    # one more source goes into the lists that are there
    third = saved(tmp_path / "s3.h5ad", typed_cells(60, seed=6))
    cellscribe.add_to_index(out, third, AddOptions(**FLAT), log=quiet)
    own = search(third, out)
    assert (rows(own["neighbor_distance"])[:, 0] < 1e-5).all()


def test_finished_vectors_give_the_same_index(
    built: Path, sources: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "vectors"
    words = cellscribe.EmbedOptions(model=str(tiny_model), **FLAT)
    cellscribe.embed_files(sources, run, words, log=quiet)
    cellscribe.build_index(
        run, tmp_path / "a.index", options(obs=("donor",)), model=tiny_model, log=quiet
    )
    parts = [open_index(p).header["parts"] for p in (built, tmp_path / "a.index")]
    hashes = [[part["vectors"]["sha256"] for part in each] for each in parts]
    assert hashes[0] == hashes[1]

    embedded = [ad.read_h5ad(source) for source in sources]
    for adata in embedded:
        cellscribe.embed(adata, model=tiny_model, log=quiet, **FLAT)
    cellscribe.build_index(
        [saved(tmp_path / f"{i}.h5ad", a) for i, a in enumerate(embedded)],
        tmp_path / "b.index", options(use_rep="X_cellscribe"), model=tiny_model, log=quiet,
    )  # fmt: skip
    assert open_index(tmp_path / "b.index").header["parts"][1]["vectors"]["sha256"] == hashes[0][1]


def test_the_same_cells_are_left_out_on_request(
    sources: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    once = ad.read_h5ad(sources[0])
    twice = ad.concat([once, once[:30]], merge="same", index_unique="-")
    path = saved(tmp_path / "twice.h5ad", twice)
    out = tmp_path / "i.index"
    said: list[str] = []
    done = cellscribe.build_index(
        path, out, options(deduplicate=True), model=tiny_model, log=said.append
    )
    assert done["cells"] == 90
    assert any("30 cells are left out (the same" in line for line in said)
    again = saved(tmp_path / "again.h5ad", twice[20:60].copy())
    with pytest.raises(InputError, match="none of its cells is kept"):
        cellscribe.add_to_index(out, again, AddOptions(deduplicate=True, **FLAT), log=quiet)
    assert cellscribe.index_info(out, verify=True)["cells"] == 90


def test_labels_that_contradict_each_other_are_told(tiny_model: Path, tmp_path: Path) -> None:
    cells = typed_cells(120)
    rng = np.random.default_rng(0)
    swapped = rng.random(120) < 0.4
    cells.obs["cell_type"] = np.where(swapped, "type 1", cells.obs["cell_type"])
    said: list[str] = []
    done = cellscribe.build_index(
        cells, tmp_path / "i.index", options(), model=tiny_model, log=said.append
    )
    column = done["columns"]["cell_type"]
    assert 0.2 < column["disagreement"] < 0.6
    assert any("of a cell's neighbours have another label, most often type" in s for s in said)


# What is refused


def changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = next(folder.glob(name))
        path.write_bytes(change(path.read_bytes()))

    return damage


def other_format(folder: Path) -> None:
    header = json.loads((folder / HEADER).read_text())
    (folder / HEADER).write_text(json.dumps(header | {"version": 3}))


def climbing(folder: Path) -> None:
    header = json.loads((folder / HEADER).read_text())
    header["parts"][0]["vectors"]["file"] = "../secret.npy"
    (folder / HEADER).write_text(json.dumps(header))


def without_settings(folder: Path) -> None:
    header = json.loads((folder / HEADER).read_text())
    (folder / HEADER).write_text(json.dumps(header | {"settings": {}}))


DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "short vectors": (changed("vectors-*", lambda b: b[:-1]), "bytes where"),
    "short table": (changed("cells-*", lambda b: b[: len(b) // 2]), "bytes where"),
    "gone": (lambda folder: next(folder.glob("vectors-*")).unlink(), "no such file"),
    "header cut short": (changed(HEADER, lambda b: b[:100]), "damaged JSON"),
    "no header": (lambda folder: (folder / HEADER).unlink(), "no index"),
    "no settings": (without_settings, "settings.n_neighbors is missing"),
    "later version": (other_format, "a later version"),
    "out of the folder": (climbing, "no file of an index"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_told_when_it_is_opened(copy: Path, name: str) -> None:
    damage, told = DAMAGED[name]
    damage(copy)
    with pytest.raises(InputError, match=told):
        cellscribe.index_info(copy)


def test_an_altered_byte_is_found_by_its_hash(copy: Path, sources: list[Path]) -> None:
    changed("vectors-*", lambda b: b[:-1] + bytes([b[-1] ^ 1]))(copy)
    cellscribe.index_info(copy)
    with pytest.raises(InputError, match="another SHA-256"):
        cellscribe.index_info(copy, verify=True)
    with pytest.raises(InputError, match="another SHA-256"):
        cellscribe.add_to_index(copy, sources[0], AddOptions(**FLAT), log=quiet)


def test_another_model_is_refused(copy: Path, tmp_path: Path, sources: list[Path]) -> None:
    other = save_model(tmp_path / "other", seed=7)
    with pytest.raises(InputError, match="another model than the index"):
        cellscribe.search(typed_cells(9), copy, model=other, log=quiet)
    adata = ad.read_h5ad(sources[0])
    cellscribe.embed(adata, model=other, log=quiet, **FLAT)
    with pytest.raises(InputError, match="another model than the index"):
        search(adata, copy, use_rep="X_cellscribe")
    adata.obsm["mine"] = np.ones((90, WIDTH), np.float32)
    with pytest.raises(InputError, match="nothing says which model"):
        search(adata, copy, use_rep="mine")


def labels(values: Any) -> ad.AnnData:
    cells = typed_cells(90)
    cells.obs["cell_type"] = values
    return cells


BAD: dict[str, tuple[Callable[[], ad.AnnData], dict[str, Any], str]] = {
    "no such column": (typed_cells, {"label": ("cel_type",)}, "near it: cell_type"),
    "no such obs": (typed_cells, {"obs": ("donr",)}, r"'donr' \(obs=...\); near it: donor"),
    "no label at all": (lambda: labels(np.nan), {}, "cell_type has none"),
    "one label": (lambda: labels("B"), {}, "has only 'B'"),
    "one cell a label": (lambda: labels([f"t{i}" for i in range(90)]), {}, "lower min_cells"),
    "no label named": (typed_cells, {"label": ()}, "label="),
    "one group": (typed_cells, {"group": "batch"}, "all cells are of one batch"),
    "a column of ours": (typed_cells, {"obs": ("cell_id",)}, "a column of the index itself"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_labels_leave_nothing_behind(name: str, tiny_model: Path, tmp_path: Path) -> None:
    make, more, told = BAD[name]
    cells = make()
    cells.obs["batch"], cells.obs["cell_id"] = "b1", "x"
    out = tmp_path / "bad.index"
    with pytest.raises(InputError, match=told):
        cellscribe.build_index(cells, out, options(**more), model=tiny_model, log=quiet)
    assert not list(tmp_path.iterdir())


def test_names_in_the_place_of_labels(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellscribe.index.votes.MOST_LABELS", 50)
    cells = labels([f"t{i}" for i in range(90)])
    with pytest.raises(InputError, match="90 values, as names of cells have"):
        cellscribe.build_index(cells, tmp_path / "i", options(), model=tiny_model, log=quiet)


def test_a_file_and_a_foreign_folder_are_no_index(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "file").write_text("no")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    for name, told in (("file", "is a file"), ("folder", "no index"), ("nothing", "not there")):
        with pytest.raises(InputError, match=told):
            search(typed_cells(9), tmp_path / name)
    for name in ("file", "folder"):
        with pytest.raises(InputError, match="name another"):
            words = options(overwrite=True)
            cellscribe.build_index(
                typed_cells(), tmp_path / name, words, model=tiny_model, log=quiet
            )
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "mine"


# A kill, and company


class KilledError(BaseException):
    pass


@pytest.fixture(params=["before the table", "before the header"])
def killed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop an addition as a kill would: nothing is cleaned up after it."""

    def stop(*_: Any, **__: Any) -> Any:
        raise KilledError

    if request.param == "before the table":
        monkeypatch.setattr(pd.DataFrame, "to_parquet", stop)
    else:
        monkeypatch.setattr("cellscribe.index.build.commit", stop)
    yield
    monkeypatch.undo()


def test_a_killed_addition_loses_nothing(
    copy: Path, killed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    third = saved(tmp_path / "s3.h5ad", typed_cells(60, seed=6))
    with pytest.raises(KilledError):
        cellscribe.add_to_index(copy, third, AddOptions(**FLAT), log=quiet)
    assert before.items() <= {p.name: p.read_bytes() for p in copy.iterdir()}.items()
    assert cellscribe.index_info(copy, verify=True)["cells"] == 180
    monkeypatch.undo()
    assert cellscribe.add_to_index(copy, third, AddOptions(**FLAT), log=quiet)["cells"] == 240
    assert len(list(copy.iterdir())) == 7, "what the killed one left is gone"


def test_the_second_of_two_is_told(copy: Path, tmp_path: Path) -> None:
    third = saved(tmp_path / "s3.h5ad", typed_cells(60, seed=6))
    with lease(copy), pytest.raises(InputError, match="being written by another process"):
        cellscribe.add_to_index(copy, third, AddOptions(**FLAT), log=quiet)
    assert f"{os.getpid()}" not in "".join(p.name for p in copy.iterdir())


def test_other_cells_of_the_same_name(copy: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "s1.h5ad", typed_cells(60, seed=9))
    with pytest.raises(InputError, match="has other cells named s1"):
        cellscribe.add_to_index(copy, other, AddOptions(**FLAT), log=quiet)


# annotate


def test_annotate_gives_what_a_query_does(built: Path, tmp_path: Path) -> None:
    query = saved(tmp_path / "q.h5ad", typed_cells(40, seed=3))
    found = search(query, built)
    labels = cellscribe.annotate(query, index=built, log=quiet, **FLAT)
    assert isinstance(labels, pd.DataFrame)
    assert list(labels) == ["label", "probability", "best", "second", "distance"]
    for name in labels:
        there = found["cell_type" if name == "label" else f"cell_type_{name}"]
        assert labels[name].astype(str).tolist() == there.astype(str).tolist()
    words = cellscribe.AnnotateOptions(index=str(built), **FLAT)
    cellscribe.annotate_file(query, tmp_path / "labels.h5ad", words, log=quiet)
    obs = ad.read_h5ad(tmp_path / "labels.h5ad").obs
    assert obs["cellscribe_second"].astype(str).tolist() == labels["second"].tolist()


def test_cells_from_elsewhere_are_told_before_their_labels(built: Path) -> None:
    cells = typed_cells(60, seed=5)
    rng = np.random.default_rng(0)
    foreign = cells.copy()
    # genes of no type, and few of them
    counts = np.zeros(cells.shape, np.float32)
    counts[:, 195:] = 1 + rng.poisson(3, (60, 5))
    foreign.X = csr_matrix(counts)
    for source in (cells, foreign):
        said: list[str] = []
        cellscribe.annotate(source, index=built, log=said.append, **FLAT)
        shift = source.uns["cellscribe"]["annotation"]["shift"]
        assert any(shift["sentence"] in line for line in said)
        warned = any(line.startswith("Warning: The cells") for line in said)
        assert warned == (source is foreign), shift


def planted(model: Path, kinds: list[str], seed: int, offset: float = 0.0) -> ad.AnnData:
    """Cells of kinds that lie apart, as vectors that say that they are the model's."""
    rng = np.random.default_rng(seed)
    cells = typed_cells(120, seed=seed)
    cellscribe.embed(cells, model=model, log=quiet, **FLAT)
    kind = np.arange(120) % len(kinds)
    place = np.array(["abcde".index(each) for each in kinds])[kind]
    vectors = 8 * np.eye(5, WIDTH)[place] + rng.normal(size=(120, WIDTH)) + offset
    cells.obsm["X_cellscribe"] = vectors.astype(np.float32)
    cells.obs["cell_type"] = np.array(kinds)[kind]
    cells.obs["donor"] = "d" + pd.Series(np.arange(120) // 30, index=cells.obs.index).astype(str)
    return cells


def test_a_shifted_file_is_aligned_and_a_type_never_taught_is_unknown(
    tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "i.index"
    cells = planted(tiny_model, list("abcd"), 1)
    words = options(use_rep="X_cellscribe", n_neighbors=5, accuracy=0.9)
    cellscribe.build_index(cells, out, words, model=tiny_model, log=quiet)
    rep = {"use_rep": "X_cellscribe"}
    moved = planted(tiny_model, list("abcd"), 2, offset=2.0)
    right = {}
    for align in ("auto", "none"):
        found = search(moved, out, align=align, **rep)
        right[align] = (found["cell_type"].astype(str) == moved.obs["cell_type"]).mean()
    assert right["auto"] > 0.9 > right["none"]
    new = planted(tiny_model, list("abe"), 3)
    found = search(new, out, **rep)
    strange = (new.obs["cell_type"] == "e").to_numpy()
    assert (found["cell_type"][strange] == "unknown").mean() > 0.9
    assert (found["cell_type"].astype(str) == new.obs["cell_type"])[~strange].mean() > 0.9
    # a move alone would bring cells of one kind onto any other
    one = planted(tiny_model, ["e"], 4)
    one.obsm["X_cellscribe"][:, 0] += 4
    alone = search(one, out, **rep)
    assert (alone["cell_type"] == "unknown").mean() > 0.9


def test_what_an_index_settled_is_not_settled_again() -> None:
    for words in ({"accuracy": 0.5}, {"n_neighbors": 3}, {"pool": "cls"}, {"group": "donor"}):
        with pytest.raises(InputError, match="is settled when an index is built"):
            cellscribe.AnnotateOptions(index="x", **words)
    with pytest.raises(InputError, match="leave --index or --reference out"):
        cellscribe.AnnotateOptions(index="x", reference="y", label="z")


def test_without_anything_the_bundled_index_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    cells = cellscribe.sample()[:120].copy()
    cellscribe.annotate(cells, log=said.append, **FLAT)
    assert any("blood and pancreas: B cell; CD14-positive monocyte" in line for line in said)
    found = cells.obs
    names = ("label", "probability", "best", "second", "distance", "ontology_id")
    assert list(found.columns[-6:]) == [f"cellscribe_{name}" for name in names]
    called = found["cellscribe_label"] != "unknown"
    assert found["cellscribe_distance"].median() < 1
    assert cells.uns["cellscribe"]["annotation"]["shift"]["verdict"] != "outside"
    assert called.mean() > 0.5
    assert found["cellscribe_ontology_id"][called].str.startswith("CL:").all()
    with pytest.raises(InputError, match="is settled when an index is built"):
        cellscribe.annotate(cells, accuracy=0.5, log=quiet)


def test_without_faiss_a_large_one_is_searched_exactly_and_said(
    sources: list[Path], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellscribe.index.build.EXACT_CELLS", 50)
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said: list[str] = []
    done = cellscribe.build_index(
        sources[0], tmp_path / "i.index", options(), model=tiny_model, log=said.append
    )
    assert done["search"] == "exact"
    assert any(line.startswith("faiss is not installed") for line in said)
    with pytest.raises(InputError, match=r"pip install .cellscribe\[index\]"):
        words = options(search="approximate")
        cellscribe.build_index(sources[0], tmp_path / "j.index", words, model=tiny_model)


def test_vectors_of_a_source_in_parts_have_its_labels(
    built: Path, sources: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "vectors"
    words = cellscribe.EmbedOptions(model=str(tiny_model), **FLAT)
    parts = cellscribe.ShardOptions(rows_per_shard=40)
    cellscribe.embed_files(sources, run, words, sharing=parts, log=quiet)
    done = cellscribe.build_index(run, tmp_path / "i.index", options(), model=tiny_model, log=quiet)
    assert len(done["sources"]) > 2
    labels = done["columns"]["cell_type"]["labels"]
    assert labels == open_index(built).header["columns"]["cell_type"]["labels"]
