"""Fine-tuning of every family: what moves, what stays, and that every verb reads what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from families import every
from scipy.sparse import csr_matrix
from support.command import Cli, nothing_new, refused

import cellscribe
from cellscribe.config import FinetuneOptions
from cellscribe.errors import InputError
from cellscribe.families.registry import open_model, read_model
from cellscribe.families.scbert.config import CONV_WIDTH

pytestmark = pytest.mark.usefixtures("one_thread")
LAST = {
    "geneformer": ("bert.encoder.layer.1.",),  # its vectors are of the second to last layer
    "bionemo": ("bert.encoder.layer.1.", "bert.embeddings.LayerNorm."),
    "scgpt": ("transformer_encoder.layers.1.",),
    "scbert": ("performer.layers.1.", "norm."),
    "scfoundation": ("cell.encoder.transformer_encoder.1.", "cell.encoder.norm."),
}
"""Start of the names that ``--mode last --layers 1`` moves, of the small models."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model directory of each family."""
    made, folder = {}, tmp_path_factory.mktemp("families")
    for family in every.FAMILIES:
        source, genes = every.write(family, folder / family / "published")
        made[family] = cellscribe.import_model(
            source, folder / family / "m", genes=genes, log=lambda _: None
        )
    return made


def labelled(model: Path, n: int = 36) -> ad.AnnData:
    """Cells of two kinds and three donors; each kind has half of the genes four times."""
    adata, kind = every.cells_of(model, n), np.arange(n) % 2
    dense = adata.X.toarray()
    half = dense.shape[1] // 2
    dense[kind == 0, :half] *= 4
    dense[kind == 1, half:] *= 4
    adata.X = csr_matrix(dense)
    adata.obs["kind"] = [f"k{each}" for each in kind]
    adata.obs["donor"] = [f"d{each // 2 % 3}" for each in range(n)]
    return adata


def finetuned(model: Path, out: Path, mode: Any, **more: Any) -> Path:
    """A model of cells that always learns for two passes: held-out cells do not stop it."""
    options = FinetuneOptions(
        label="kind", group="donor", mode=mode, layers=1, epochs=1, min_cells=4, **more
    )
    cellscribe.finetune(model, labelled(model), out, options, log=lambda _: None)
    return out


def tensors(model: Path) -> dict[str, torch.Tensor]:
    """Of the file, by published names; scFoundation's by branch, however they are shared."""
    from safetensors.torch import load_file

    found = load_file(model / "model.safetensors")
    if read_model(model).family != "scfoundation":
        return found
    return {
        f"{owner}.{name.partition('.')[2]}": tensor
        for name, tensor in found.items()
        for owner in name.partition(".")[0].split("+")
    }


@pytest.mark.parametrize("family", every.FAMILIES)
def test_a_head_alone_leaves_the_weights_as_they_are(
    family: str, models: dict[str, Path], tmp_path: Path
) -> None:
    model = models[family]
    out = finetuned(model, tmp_path / "ft", "head")
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (model / weights).read_bytes()
    adata = labelled(model)
    one, two = (cellscribe.load(each, precision="float32").embed(adata) for each in (model, out))
    np.testing.assert_array_equal(one, two)
    called = cellscribe.annotate(adata, model=out, copy=True)
    assert set(called.obs["cellscribe_best"][:-1]) <= {"k0", "k1"}
    facts = cellscribe.info(out)
    assert facts["labels"] == ["k0", "k1"]
    assert facts["family"] == family


@pytest.mark.parametrize("family", every.FAMILIES)
def test_the_last_layers_move_and_nothing_else(
    family: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_always(monkeypatch)
    model = models[family]
    out = finetuned(model, tmp_path / "ft", "last", learning_rate=1e-2)
    before, after = tensors(model), tensors(out)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    wanted = {name for name in before if name.startswith(LAST[family])}
    assert moved <= wanted
    # an even shift of all keys changes no attention, and random features are drawn once
    assert all("key.bias" in name or "projection" in name for name in wanted - moved)
    vectors = cellscribe.load(out, precision="float32").embed(labelled(model))
    assert np.isfinite(vectors).all()
    assert vectors.shape[1] == open_model(model).cells.width


def learn_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every pass pass for a better one, so that something is learnt in one."""
    from cellscribe.annotation import tuning

    losses = iter(range(100, 0, -1))
    monkeypatch.setattr(tuning, "_held_out", lambda *_: float(next(losses)))


@pytest.mark.parametrize("family", ["geneformer", "scgpt", "scbert"])
@pytest.mark.parametrize("mode", ["lora", "all"])
def test_other_modes_keep_every_name_and_move_the_first_layer(
    family: str, mode: str, models: dict[str, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    if mode == "lora":
        pytest.importorskip("peft")
    learn_always(monkeypatch)
    model = models[family]
    out = finetuned(model, tmp_path / "ft", mode, learning_rate=1e-2)
    before, after = tensors(model), tensors(out)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    first = {name for name in before if ".0." in name and "weight" in name and "norm" not in name}
    assert moved & first
    is_gene_table = {"scbert": "places.weight"}.get(family, "")
    assert is_gene_table not in moved  # gene2vec, fixed as published
    unused = {"geneformer": "bert.encoder.layer.2."}.get(family, "-")
    assert not any(name.startswith((unused, "cls.")) for name in moved)


def test_a_way_to_pool_is_kept_in_the_new_model(models: dict[str, Path], tmp_path: Path) -> None:
    model = models["scgpt"]
    out = finetuned(model, tmp_path / "ft", "head", pool="mean")
    adata = labelled(model)
    kept = cellscribe.load(out, precision="float32")
    np.testing.assert_array_equal(
        kept.embed(adata), cellscribe.load(model, pool="mean", precision="float32").embed(adata)
    )
    assert "mean of the last hidden layer" in kept.pooling
    assert kept.identity["model_config"] != open_model(model).identity["model_config"]
    other = cellscribe.load(out, pool="cls", precision="float32").embed(adata)
    expected = cellscribe.load(model, precision="float32").embed(adata)
    np.testing.assert_array_equal(other, expected)


def test_scbert_learns_its_published_convolution(models: dict[str, Path], tmp_path: Path) -> None:
    model = models["scbert"]
    out = finetuned(model, tmp_path / "ft", "last", pool="conv")
    opened = open_model(out)
    assert opened.cells.width == CONV_WIDTH
    assert opened.header.settings["conv_width"] == CONV_WIDTH
    assert opened.cells.network.convolution.fc1.in_features == 97
    again = finetuned(out, tmp_path / "again", "head")
    assert open_model(again).cells.width == CONV_WIDTH
    assert cellscribe.annotate(labelled(model), model=again, copy=True).n_obs == 36
    with pytest.raises(InputError, match="no such layers, so they are to be trained"):
        finetuned(model, tmp_path / "no", "head", pool="conv")
    with pytest.raises(InputError, match="this scBERT has no convolution over genes"):
        cellscribe.load(model, pool="conv")


@pytest.mark.parametrize(
    ("family", "words", "told"),
    [
        ("geneformer", ["--mode", "last", "--layers", "3"], "the model has 2 that its vectors go"),
        ("scgpt", ["--mode", "last", "--layers", "9"], "the model has 2"),
        ("scbert", ["--mode", "last", "--genes-per-cell", "9"], "this model reads all genes"),
        ("scfoundation", ["--mode", "all", "--genes-per-cell", "9"], "reads all genes"),
        ("scgpt", ["--pool", "conv"], "scGPT has no --pool conv"),
        ("scgpt", ["--hidden-layer", "-2"], "scGPT has no --hidden-layer"),
    ],
)
def test_what_does_not_fit_a_family_is_refused(
    family: str, words: list[str], told: str, models: dict[str, Path], tmp_path: Path, run: Cli
) -> None:
    labelled(models[family]).write_h5ad(tmp_path / "in.h5ad")
    out = ("-o", tmp_path / "ft", "--label", "kind", "--group", "donor", "--min-cells", "4")
    ran = run("finetune", models[family], tmp_path / "in.h5ad", *out, *words)
    assert told in refused(ran)
    nothing_new(tmp_path, "in.h5ad")


def test_labels_that_are_no_classes(tiny_model: Path, tmp_path: Path) -> None:
    from support.typed_cells import typed_cells

    adata = typed_cells(1_200)
    adata.obs["barcode"] = [f"c{i}" for i in range(1_200)]
    one = adata.obs["cell_type"].to_numpy(dtype=object).copy()
    one[one == "type 0"] = np.nan
    one[5] = "rare"
    adata.obs["one"] = one
    with pytest.raises(InputError, match="1,200 different values in 1,200 cells, which looks like"):
        cellscribe.finetune(tiny_model, adata, tmp_path / "ft", label="barcode")
    said: list[str] = []
    done = cellscribe.finetune(
        tiny_model, adata[:90], tmp_path / "ft", label="one", group="donor", log=said.append
    )
    assert done.labelled.labels == ["type 1", "type 2"]
    assert "30 cells are left out (no label)." in said
    assert "1 cells are left out (rare: fewer than 10 cells)." in said
