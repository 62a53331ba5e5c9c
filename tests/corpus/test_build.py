"""A corpus from files: every cell once, tokens and counts those of its source, medians NumPy's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix
from support.sources import Made, made, some_sources
from support.tokenize import tokenize_file

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import BuildOptions, SplitOptions
from cellscribe.corpus.build import scatter
from cellscribe.corpus.build.build import build_corpus
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.errors import InputError

OPTIONS = BuildOptions(context=48, shard_cells=64)
SPLIT = SplitOptions(holdout=0.1)


def quiet(line: str) -> None:
    """Say nothing."""


def build(sources: list[Made], out: Path, **changes: Any) -> Corpus:
    options = BuildOptions(**{"context": 48, "shard_cells": 64, **changes})
    return build_corpus([s.path for s in sources], out, options, SPLIT, log=quiet)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    return some_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def corpus(sources: list[Made], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build(sources, tmp_path_factory.mktemp("corpus") / "out")


def tokens_of(corpus: Corpus) -> pd.DataFrame:
    """All token files, with the split they stand in."""
    parts = [
        pq.read_table(path, partitioning=None).to_pandas().assign(split=split)
        for split in corpus.splits
        for path in corpus.token_files(split)
    ]
    return pd.concat(parts, ignore_index=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_cell_comes_once_with_its_labels(sources: list[Made], corpus: Corpus) -> None:
    cells = tokens_of(corpus).set_index("cell_id")
    obs = pd.concat([source.obs.assign(file=source.path.name) for source in sources])
    assert sorted(cells.index) == sorted(obs.index)
    obs = obs.loc[cells.index]
    # file d has no dataset_id: its name serves
    assert (cells["dataset_id"] == obs["dataset_id"].fillna("d")).all()
    assert (cells["assay"] == obs["assay"]).all()
    assert (cells["tissue_general"] == obs["tissue_general"]).all()
    assert (cells["sex"] == "unknown").all()
    assert (cells["source"] == obs["file"]).all()
    assert (cells["n_counts"] == obs["total"]).all()
    numbers = {name: place for place, name in enumerate(i for s in sources for i in s.obs.index)}
    assert cells["cell"].to_dict() == numbers


def test_a_glob_and_a_folder_stand_for_their_files(sources: list[Made], corpus: Corpus) -> None:
    folder, said = sources[0].path.parent, []
    for word in (f"{folder}/*.h5ad", folder):
        # other sources, or in another order, would be refused
        build_corpus([word], corpus.path, OPTIONS, SPLIT, log=said.append)
    assert [line for line in said if "holds this corpus already" in line] == said[-1:] * 2
    with pytest.raises(InputError, match="a corpus of other sources"):
        build_corpus([f"{folder}/[a-e].h5ad"], corpus.path, OPTIONS, SPLIT, log=quiet)


def test_a_list_names_a_layer_and_a_gene_key_for_each_source(
    sources: list[Made], corpus: Corpus, tmp_path: Path
) -> None:
    lines = ["path,name,layer,gene_key"]
    for source in sources:
        adata = ad.read_h5ad(source.path)
        if source.path.stem == "a":
            adata.layers["counts"] = adata.X.copy()
            adata.X = adata.X.log1p()
            adata.var["mine"] = adata.var_names
            adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
        adata.write_h5ad(tmp_path / source.path.name)
        more = "counts,mine" if source.path.stem == "a" else ","
        lines.append(f"{source.path.name},{source.path.stem}_named,{more}")
    table = tmp_path / "list.csv"
    table.write_text("\n".join(lines))
    listed = build_corpus([table], tmp_path / "out", OPTIONS, SPLIT, log=quiet)
    ours, expected = (tokens_of(each).drop(columns="source") for each in (listed, corpus))
    pd.testing.assert_frame_equal(
        ours.drop(columns="dataset_id"), expected.drop(columns="dataset_id")
    )
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]
    assert [source["name"] for source in told] == [f"{s.path.stem}_named" for s in sources]
    assert (told[0]["layer"], told[0]["gene_key"]) == ("counts", "mine")
    assert "layer" not in told[1]


def test_tokens_are_those_of_tokenize(sources: list[Made], corpus: Corpus, tmp_path: Path) -> None:
    cells = tokens_of(corpus).set_index("cell_id")["input_ids"]
    assert cells.map(len).max() == 48
    for source in sources:
        out = tmp_path / f"{source.path.stem}.parquet"
        tokenize_file(source.path, out, vocabulary=corpus.vocabulary, context=48, cls_token=False)
        for name, expected in (
            pq.read_table(out).to_pandas().set_index("cell_id")["input_ids"].items()
        ):
            np.testing.assert_array_equal(cells[name], expected)


def test_counts_are_those_of_the_sources(sources: list[Made], corpus: Corpus) -> None:
    seen = []
    for split in corpus.splits:
        tokens = iter(corpus.cells(split, ["cell_id", "n_counts", "n_genes", "cell_hash"]))
        for shard in corpus.shards(split):
            adata = ad.read_zarr(corpus.path / shard["counts"]["name"])
            assert adata.X.dtype == np.float32
            assert shard["counts"]["non_zeros"] == adata.X.nnz
            frame = adata.to_df().set_index(pd.Index(adata.obs["cell_id"].astype(str)))
            # the same cells in the same order as in the tokens, and what is told of them
            beside = next(tokens).to_pandas()
            for column in beside:
                assert (adata.obs[column].to_numpy() == beside[column].to_numpy()).all(), column
            for source in sources:
                rows = [i for i, name in enumerate(source.obs.index) if name in frame.index]
                here = frame.loc[source.obs.index[rows]]
                np.testing.assert_array_equal(here[source.ids], source.dense[rows])
                others = here.columns.difference(source.ids)
                assert not here[others].to_numpy().any()
            assert (adata.X.getnnz(1) == adata.obs["n_genes"]).all()
            seen += list(frame.index)
        assert next(tokens, None) is None
    assert len(seen) == len(set(seen)) == sum(len(source.dense) for source in sources)


def test_splits_go_by_dataset_and_cover_all_labels(corpus: Corpus) -> None:
    cells = tokens_of(corpus)
    sides = {name: told["side"] for name, told in corpus.manifest["datasets"].items()}
    assert set(sides.values()) == {"train", "holdout", "test_unseen"}
    of_split = {"val": "holdout", "test": "holdout"}
    assert (
        cells["dataset_id"].map(sides) == cells["split"].map(lambda s: of_split.get(s, s))
    ).all()
    train = cells[cells["split"] == "train"]
    for label in ("assay", "tissue_general"):
        assert set(train[label]) == set(cells[label])
    sizes = cells["dataset_id"].value_counts()
    assert {k: v["cells"] for k, v in corpus.manifest["datasets"].items()} == sizes.to_dict()
    assert {k: v["cells"] for k, v in corpus.splits.items()} == cells[
        "split"
    ].value_counts().to_dict()


def test_a_source_without_datasets_is_told(sources: list[Made], tmp_path: Path) -> None:
    said: list[str] = []
    paths = [source.path for source in sources]
    built = build_corpus(paths, tmp_path / "out", OPTIONS, SPLIT, log=said.append)
    line = "no obs column dataset_id: the file name is the dataset_id"
    assert f"d.h5ad: {line}" in said
    assert [s["name"] for s in built.manifest["sources"] if line in s["notes"]] == ["d.h5ad"]


def test_cells_are_shuffled_over_all_sources(corpus: Corpus) -> None:
    for split in ("train",):
        numbers = np.concatenate([t["cell"].to_numpy() for t in corpus.cells(split, ["cell"])])
        ranks = np.argsort(np.argsort(numbers))
        n = len(ranks)
        # correlation of places in the store and among the sources: five standard deviations
        assert abs(np.corrcoef(ranks, np.arange(n))[0, 1]) < 5 / np.sqrt(n)


def expected_genes(sources: list[Made], corpus: Corpus) -> tuple[pd.Series, pd.Series]:
    """Training cells and median of every gene, from dense tables."""
    train = tokens_of(corpus).query("split == 'train'")["cell_id"]
    parts = []
    for source in sources:
        frame = pd.DataFrame(source.dense, index=source.obs.index, columns=source.ids)
        share = 1e4 * frame.div(source.obs["total"], axis=0)
        parts.append(share[share.index.isin(train)])
    every = pd.concat(parts)
    every = every.where(every > 0)
    return every.notna().sum(), every.median()


def test_genes_and_medians_are_those_of_the_training_cells(
    sources: list[Made], corpus: Corpus
) -> None:
    n_cells, medians = expected_genes(sources, corpus)
    vocabulary = corpus.vocabulary
    assert list(vocabulary.ids[5:]) == sorted(n_cells[n_cells > 0].index)
    np.testing.assert_allclose(vocabulary.medians[5:], medians[list(vocabulary.ids[5:])], rtol=1e-6)
    assert corpus.manifest["vocabulary"]["medians"]["method"] == "exact"


def test_a_smaller_vocabulary_has_the_genes_of_most_cells(
    sources: list[Made], corpus: Corpus, tmp_path: Path
) -> None:
    small = build(sources, tmp_path / "small", genes=50)
    n_cells, medians = expected_genes(sources, corpus)
    best = sorted(sorted(n_cells.index, key=lambda name: (-n_cells[name], name))[:50])
    assert list(small.vocabulary.ids[5:]) == best
    np.testing.assert_allclose(small.vocabulary.medians[5:], medians[best], rtol=1e-6)


def test_a_published_vocabulary_is_kept(
    sources: list[Made], corpus: Corpus, tmp_path: Path
) -> None:
    ids = list(corpus.vocabulary.ids[5:105])
    given = Vocabulary.build(ids, [""] * 100, np.linspace(1, 9, 100))
    given.write(tmp_path / "genes.tsv")
    kept = build(sources, tmp_path / "kept", vocabulary=tmp_path / "genes.tsv")
    assert kept.vocabulary.hash == given.hash
    assert kept.manifest["vocabulary"]["medians"]["method"] == "kept as given"
    assert str(tmp_path) not in (kept.path / "manifest.json").read_text()


def test_a_second_run_changes_nothing(
    sources: list[Made], corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    def state() -> dict[str, tuple[int, int]]:
        files = (p for p in corpus.path.rglob("*") if p.is_file())
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in files}

    before, said = state(), []
    again = build_corpus([s.path for s in sources], corpus.path, OPTIONS, SPLIT, log=said.append)
    assert state() == before
    assert again.manifest == corpus.manifest
    assert said == [f"{corpus.path} holds this corpus already; nothing is changed"]


def test_threads_and_runs_do_not_change_a_byte(
    sources: list[Made], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scatter, "SPILL_CELLS", 40)
    monkeypatch.setattr(scatter, "BLOCK", 16)
    monkeypatch.setattr(scatter, "usable_cores", lambda: 1)
    monkeypatch.setattr("cellscribe.corpus.build.write_shards.usable_cores", lambda: 1)
    other = build(sources, tmp_path / "other")
    assert contents(other.path) == contents(corpus.path)


def test_another_seed_shuffles_otherwise(sources: list[Made], tmp_path: Path) -> None:
    paths = [source.path for source in sources]
    orders = []
    for seed in (0, 1):
        split = SplitOptions(holdout=0, seed=seed)
        built = build_corpus(paths, tmp_path / str(seed), OPTIONS, split, log=quiet)
        orders.append(tokens_of(built)["cell"].tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_what_is_dropped_is_counted_by_reason(sources: list[Made], tmp_path: Path) -> None:
    adata = ad.read_h5ad(sources[0].path)
    adata.obs["disease"] = ["ill"] * 7 + ["normal"] * 83
    dense = adata.X.toarray()
    dense[10:14] = 0  # too few genes
    dense[20:23] = dense[40:43]  # the later ones are the duplicates
    adata.X = csr_matrix(dense)
    adata.write_h5ad(tmp_path / "a.h5ad")
    paths = [tmp_path / "a.h5ad", *(source.path for source in sources[1:])]
    options = BuildOptions(context=48, shard_cells=64, exclude=("disease=ill",))
    built = build_corpus(paths, tmp_path / "out", options, SPLIT, log=quiet)
    went = {"disease is ill": 7, "too few genes": 4, "duplicate of an earlier cell": 3}
    told = built.manifest["sources"][0]
    assert told["dropped"] == went == built.manifest["dropped"]
    assert told["kept"] == 90 - 14
    names = set(tokens_of(built)["cell_id"])
    gone = {f"a-{i}" for i in (*range(7), *range(10, 14), *range(40, 43))}
    assert names == {name for s in sources for name in s.obs.index} - gone
    kept = build_corpus(
        paths,
        tmp_path / "kept",
        BuildOptions(context=48, min_genes=0, keep_duplicates=True),
        SPLIT,
        log=quiet,
    )
    assert kept.manifest["dropped"] == {}


def test_the_manifest_fits_the_shards(sources: list[Made], corpus: Corpus) -> None:
    assert open_corpus(corpus.path, deep=True).manifest == corpus.manifest
    told = json.loads((corpus.path / "manifest.json").read_text())
    assert [s["name"] for s in told["sources"]] == [s.path.name for s in sources]
    cells = tokens_of(corpus)
    for split, entry in told["splits"].items():
        here = cells[cells["split"] == split]
        assert entry["tokens"] == here["length"].sum() == here["input_ids"].map(len).sum()
    assert sorted(p.name for p in corpus.path.iterdir()) == [
        "counts",
        "genes.tsv",
        "manifest.json",
        "tokens",
    ]


def test_other_readers_open_it(corpus: Corpus, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = {split: [str(p) for p in corpus.token_files(split)] for split in corpus.splits}
    opened = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    assert {k: v.num_rows for k, v in opened.items()} == {
        k: v["cells"] for k, v in corpus.splits.items()
    }
    assert set(opened["train"].unique("assay")) == {"10x", "Smart-seq2"}


def test_labels_that_only_dropped_cells_had_are_refused(
    sources: list[Made], tmp_path: Path
) -> None:
    lone = made(tmp_path, "g", 30, seed=9, dataset_id="G", assay="Drop-seq", tissue_general="blood")
    adata = ad.read_h5ad(lone.path)
    adata.X = adata.X.multiply(np.arange(199 + 2) < 3).tocsr()
    adata.write_h5ad(lone.path)
    twin = made(tmp_path, "h", 8, seed=10, dataset_id="H", assay="Drop-seq", tissue_general="blood")
    split = SplitOptions(holdout=0.1, held_out=("H",))
    with pytest.raises(
        InputError, match=r"assay 'Drop-seq' is left in held-out cells only.*--train"
    ):
        build_corpus(
            [*(s.path for s in sources), lone.path, twin.path],
            tmp_path / "out",
            OPTIONS,
            split,
            log=quiet,
        )
