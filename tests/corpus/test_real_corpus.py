"""Builds of the real files: other formats, duplicates among them, mouse and human mixed."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.command import Cli
from support.tokenize import tokenize_file

from cellscribe.config import BuildOptions, SplitOptions, from_mapping, read_toml
from cellscribe.corpus.build.build import build_corpus
from cellscribe.corpus.store import Corpus, open_corpus

ALL_IN_TRAIN = SplitOptions(holdout=0, covered=())
RECIPE = Path(__file__).parents[2] / "recipes/small.toml"


def build(paths: list[Path], out: Path, **options: object) -> Corpus:
    chosen = BuildOptions(**options)  # type: ignore[arg-type]
    return build_corpus(paths, out, chosen, ALL_IN_TRAIN, log=lambda line: None)


def test_the_same_cells_in_another_format_are_duplicates(shared_data: Path, tmp_path: Path) -> None:
    h5ad = shared_data / "pbmc1k_v3_10x.h5ad"
    tar = shared_data / "pbmc_1k_v3_300cells_filtered_feature_bc_matrix.tar.gz"
    corpus = build([h5ad, tar], tmp_path / "out")
    assert [source["dropped"] for source in corpus.manifest["sources"]] == [
        {},
        {"duplicate of an earlier cell": 300},
    ]


def test_mouse_cells_of_a_mixture_have_too_few_genes(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "hgmm_200cells_filtered_feature_bc_matrix.h5"
    corpus = build([source], tmp_path / "out", min_genes=500)
    human = next(corpus.cells("train", ["n_genes", "n_counts"]))
    dropped = corpus.manifest["dropped"]["too few genes"]
    assert len(human) + dropped == corpus.manifest["sources"][0]["cells"]
    # half of the cells are mouse cells, which show few human genes
    assert 50 < dropped < 150


def test_tokens_are_those_of_tokenize(shared_data: Path, tmp_path: Path) -> None:
    names = ["pbmc_facs_zheng2017", "celllines_scmixology_sc_dropseq", "hek293t_hgmm1k_human"]
    paths = [shared_data / f"{name}.h5ad" for name in names]
    corpus = build(paths, tmp_path / "out", labels=("assay",))
    table = next(corpus.cells("train", ["source", "cell_id", "input_ids"])).to_pandas()
    for path in paths:
        out = tmp_path / f"{path.stem}.parquet"
        tokenize_file(
            path, out, vocabulary=corpus.vocabulary, context=corpus.context, cls_token=False
        )
        direct = pq.read_table(out).to_pandas()
        stored = table[table["source"] == path.name].set_index("cell_id")["input_ids"]
        assert len(stored) == len(direct)
        for name, tokens in zip(direct["cell_id"], direct["input_ids"], strict=True):
            np.testing.assert_array_equal(stored[name], tokens)


def test_the_recipe_names_options_that_exist() -> None:
    told = read_toml(RECIPE)["corpus"]["build"]
    split = {k: v for k, v in told.items() if k in SplitOptions.__dataclass_fields__}
    rest = {k: v for k, v in told.items() if k not in split}
    options = from_mapping(BuildOptions, rest, str(RECIPE))
    assert options.columns == {"tissue_general": "tissue", "dataset_id": "source_dataset"}
    assert from_mapping(SplitOptions, split, str(RECIPE)).unseen == "pbmc_facs_zheng2017"


@pytest.mark.slow
def test_the_recipe_builds_a_corpus_of_all_files(
    shared_data: Path, tmp_path: Path, run: Cli
) -> None:
    paths = sorted(path for path in shared_data.glob("*.h5ad") if "papalexi" not in path.name)
    out = tmp_path / "out"
    ran = run("corpus", "build", *paths, "-o", out, "--config", RECIPE)
    assert ran.status == 0, ran
    corpus = open_corpus(out, deep=True)
    # the duplicates that the folder's own note counts
    assert corpus.manifest["dropped"] == {"in_came_baron is True": 472}
    cells = sum(ad.read_h5ad(path, backed="r").n_obs for path in paths)
    assert sum(told["cells"] for told in corpus.splits.values()) == cells - 472
    sides = {name: told["side"] for name, told in corpus.manifest["datasets"].items()}
    assert [name for name, side in sides.items() if side != "train"] == [
        "pbmc3k_10x",
        "pbmc_facs_zheng2017",
    ]
