"""Published fine-tuned classifiers: imported, and their labels those of the classes' own code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from families import every, published_geneformer, published_scbert
from scipy.sparse import csr_matrix
from support.command import Cli, refused

import cellscribe
from cellscribe.errors import InputError
from cellscribe.families.class_names import class_names
from cellscribe.families.registry import open_model
from cellscribe.model.heads import load_head

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]
NAMES = ["B cell", "T cell", "monocyte"]


def published(folder: Path, version: str, kind: str, names: list[str] | None = None) -> Path:
    """A classifier's folder as `transformers` saves it, its classes named in config.json or not."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    made = published_geneformer.write_published(folder, version, sizes={"positions": 64})
    told = {} if names is None else {"id2label": dict(enumerate(names))}
    config = transformers.BertConfig.from_pretrained(made, num_labels=3, **told)
    network = getattr(transformers, f"BertFor{kind}Classification").from_pretrained(
        made, config=config
    )
    with torch.no_grad():
        network.classifier.weight.normal_(generator=torch.Generator().manual_seed(0))
    network.save_pretrained(made)
    return made


def tokens_of(model: Any, cells: Any, row: int) -> torch.Tensor:
    own = cells.tokens[cells.offsets[row] : cells.offsets[row + 1]].tolist()
    return torch.tensor([[*model.specials.front, *own, *model.specials.back]])


def opened_cells(folder: Path, n: int = 6) -> tuple[Any, Any, Any]:
    adata, opened = every.cells_of(folder, n), open_model(folder)
    tokens = opened.header.map_genes(adata.var).token
    return adata, opened.cells, opened.cells.tokenize(csr_matrix(adata.X), tokens)


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_cells_get_the_logits_of_transformers(version: str, tmp_path: Path) -> None:
    source = published(tmp_path / "published", version, "Sequence", NAMES)
    folder = cellscribe.import_model(source, tmp_path / "m", log=lambda _: None)
    theirs = transformers.BertForSequenceClassification.from_pretrained(source).eval()
    adata, model, cells = opened_cells(folder)
    head = load_head(folder)
    assert head.labels == NAMES
    with torch.no_grad():
        vectors = model.embed(cells, np.arange(5)).numpy()
        expected = [theirs(tokens_of(model, cells, row)).logits[0].numpy() for row in range(5)]
    np.testing.assert_allclose(head.logits(vectors), expected, atol=2e-5)
    assert np.ptp(expected, axis=0).max() > 0.1
    called = cellscribe.annotate(adata, model=folder, copy=True)
    assert called.obs["cellscribe_label"].tolist()[:5] == [NAMES[i] for i in np.argmax(expected, 1)]
    assert called.obs["cellscribe_label"].iloc[5] == "unknown"  # without a count
    shares = torch.softmax(torch.tensor(np.array(expected)), 1).amax(1)
    found = called.obs["cellscribe_probability"].to_numpy()[:5]
    np.testing.assert_allclose(found, shares, atol=2e-2)  # in bf16 where there is a kernel


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_genes_get_the_logits_of_transformers(version: str, tmp_path: Path, run: Cli) -> None:
    source = published(tmp_path / "published", version, "Token")
    named = tmp_path / "classes.pkl"
    named.write_bytes(pickle.dumps(dict(enumerate(NAMES))))
    folder = cellscribe.import_model(source, tmp_path / "m", labels=named, log=lambda _: None)
    theirs = transformers.BertForTokenClassification.from_pretrained(source).eval()
    adata, model, cells = opened_cells(folder)
    head = load_head(folder, "genes")
    with torch.no_grad():
        tokens, vectors = model.gene_vectors(cells, np.arange(5))
        rows = [tokens_of(model, cells, row) for row in range(5)]
        front, back = len(model.specials.front), len(model.specials.back)
        expected = np.concatenate(
            [theirs(row).logits[0][front : row.shape[1] - back].numpy() for row in rows]
        )
    np.testing.assert_allclose(head.logits(vectors.numpy()), expected, atol=2e-5)
    # a gene's probabilities are those of its mean score over the cells that show it
    scores = pd.DataFrame(expected.astype(float), columns=NAMES).groupby(tokens.numpy()).mean()
    wanted = scores.apply(lambda row: np.exp(row) / np.exp(row).sum(), axis=1)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "genes.csv"
    ran = run("genes", tmp_path / "cells.h5ad", "--model", folder, "-o", out, "--precision=float32")
    assert ran.status == 0, ran.err
    table = pd.read_csv(out, index_col=0)
    assert list(table) == ["symbol", "n_cells", "label", "probability", "best"]
    ids = [open_model(folder).header.table.ids[token] for token in wanted.index]
    assert list(table.index) == ids
    assert table["label"].tolist() == wanted.idxmax(axis=1).tolist()
    np.testing.assert_allclose(table["probability"], wanted.max(axis=1), atol=1e-4)
    told = refused(run("annotate", tmp_path / "cells.h5ad", "--model", folder, "-o", "l.csv"))
    assert "m labels genes, not cells; use cellscribe genes" in told
    assert "labels of genes" in run("info", folder).out


def test_a_csv_of_genes_is_refused_of_a_model_that_labels_none(
    tiny_model: Path, cells: Path, tmp_path: Path, run: Cli
) -> None:
    told = refused(run("genes", cells, "--model", tiny_model, "-o", tmp_path / "genes.csv"))
    assert "a .csv takes labels of genes, and tiny gives none" in told


def test_a_classifier_is_trained_further(tmp_path: Path) -> None:
    """Its pooler with it; what is saved is read as any model."""
    source = published(tmp_path / "published", "V2", "Sequence", NAMES)
    folder = cellscribe.import_model(source, tmp_path / "m", log=lambda _: None)
    adata = every.cells_of(folder, 40)
    adata.obs["kind"] = ["a", "b"] * 20
    options = cellscribe.FinetuneOptions(
        label="kind", mode="last", layers=1, epochs=1, min_cells=2, learning_rate=1e-2
    )
    cellscribe.finetune(folder, adata, tmp_path / "ft", options, log=lambda _: None)
    assert load_head(tmp_path / "ft").labels == ["a", "b"]
    before, after = (
        open_model(each).cells.network.state_dict() for each in (folder, tmp_path / "ft")
    )
    assert before.keys() == after.keys()
    assert "pooler" in open_model(tmp_path / "ft").cells.pooling


def test_scbert_is_the_published_classifier(tmp_path: Path) -> None:
    """Against its layers spelt out; the numbers of its own code: `test_gradients`."""
    source, genes = published_scbert.write_published(tmp_path / "published", classes=3)
    named = tmp_path / "classes.json"
    named.write_text(json.dumps(NAMES))
    folder = cellscribe.import_model(
        source, tmp_path / "m", genes=genes, labels=named, log=lambda _: None
    )
    state = torch.load(source, weights_only=False)["model_state_dict"]
    _, model, cells = opened_cells(folder, 4)
    head = load_head(folder)
    with torch.no_grad():
        found = head.logits(model.embed(cells, np.arange(3)).numpy())
        for row in range(3):
            x = model.network(model.bins(cells, row))[None, None]
            x = torch.conv2d(x, state["to_out.conv1.weight"], state["to_out.conv1.bias"])
            x = x.relu().flatten(1)
            for layer in ("fc1", "fc2"):
                weight, bias = (state[f"to_out.{layer}.{kind}"] for kind in ("weight", "bias"))
                x = torch.nn.functional.linear(x, weight, bias).relu()
            x = torch.nn.functional.linear(x, state["to_out.fc3.weight"], state["to_out.fc3.bias"])
            np.testing.assert_allclose(found[row], x[0].numpy(), atol=1e-4)
    assert np.ptp(found, axis=0).max() > 1e-3


# --- names of classes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stated",
    [
        NAMES,
        dict(enumerate(NAMES)),
        {str(number): name for number, name in enumerate(NAMES)},
        {name: number for number, name in enumerate(NAMES)},
        {name: np.int64(number) for number, name in enumerate(NAMES)},
        np.array(NAMES),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".pkl"])
def test_names_are_read_in_every_published_form(stated: Any, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"names{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(stated))
    else:
        path.write_text(json.dumps(stated, default=lambda x: x.tolist()))
    assert class_names(3, ["x", "y", "z"], path, "config.json") == (NAMES, [])


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        (["a", "b"], "names 2 classes, the weights have 3"),
        (["a", "b", "b"], "two have the same"),
        (["a", "b", ""], "has no name"),
        (["a", "b", ["c"]], "is no name of a class"),
        ({"0": "a", "1": "b", "3": "c"}, "not numbered from 0 on"),
        ({"a": "x", "b": "y", "c": "z"}, "not numbered from 0 on"),
        ("a,b,c", "holds a str"),
    ],
)
def test_names_that_do_not_fit_are_refused(stated: Any, told: str, tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps(stated))
    with pytest.raises(InputError, match=told) as caught:
        class_names(3, None, path, "config.json")
    assert "--labels FILE" in str(caught.value)


def test_classes_without_names_are_numbered_and_said(tmp_path: Path) -> None:
    source = published(tmp_path / "published", "V1", "Sequence")
    said: list[str] = []
    folder = cellscribe.import_model(source, tmp_path / "m", log=said.append)
    assert load_head(folder).labels == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert any("do not name the classes" in line for line in said)


def test_what_an_import_of_a_classifier_refuses(tmp_path: Path, run: Cli) -> None:
    plain = published_geneformer.write_published(tmp_path / "plain", "V1", sizes={"positions": 64})
    names = tmp_path / "names.json"
    names.write_text(json.dumps(NAMES))
    words = ("-o", tmp_path / "m", "--labels", names)
    assert "is no classifier; leave it out" in refused(run("import", plain, *words))
    source = published(tmp_path / "published", "V1", "Sequence")
    config = json.loads((source / "config.json").read_text())
    config["architectures"] = ["BertForTokenClassification"]
    (source / "config.json").write_text(json.dumps(config))
    assert "but the weights are those of cells" in refused(run("import", source, *words))
    evil = tmp_path / "names.pkl"
    evil.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    config["architectures"] = ["BertForSequenceClassification"]
    (source / "config.json").write_text(json.dumps(config))
    told = refused(run("import", source, "-o", tmp_path / "m", "--labels", "no.pkl"))
    assert "no.pkl: no such file" in told
    told = refused(run("import", source, "-o", tmp_path / "m", "--labels", evil))
    assert "reading it would import os.system" in told
    assert not (tmp_path / "m").exists()
