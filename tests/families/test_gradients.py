"""One step of a fine-tuning: loss and gradients are those of the published code.

The BERTs are held against `transformers`; of the other families the numbers of their own code are
in ``tests/golden/gradients.json`` (`make_gradients.py` makes them anew).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import every, gradients, published_scbert, published_scfoundation, published_scgpt
from scipy.sparse import csr_matrix

import cellscribe
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import ModelOptions
from cellscribe.families.base import CellModel
from cellscribe.families.registry import RankedHeader, open_model
from cellscribe.families.scbert.network import tensor_names
from cellscribe.families.scfoundation.names import tensor_names as names_of_scfoundation
from cellscribe.families.scgpt.network import published_name
from cellscribe.families.weights import unstacked
from cellscribe.model.checkpoint import to_hugging_face

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN = json.loads((Path(__file__).parents[1] / "golden/gradients.json").read_text())
SCBERT = json.loads((Path(__file__).parents[1] / "golden/scbert.json").read_text())["small"]


def step(model: CellModel, cells: CellTokens) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss, and gradients by the network's own names."""
    network: torch.nn.Module = model.network
    network.requires_grad_(True)
    network.zero_grad()
    loss = gradients.loss_of(model.forward(cells, np.flatnonzero(model.places(cells))))
    loss.backward()
    return loss, {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def check(family: str, pool: str, loss: torch.Tensor, named: Mapping[str, torch.Tensor]) -> None:
    golden = GOLDEN[family][pool]
    # tensors that are passed over have no gradient on either side, or are left out on ours
    ours = {name: named[name] for name in golden["gradients"]}
    found = gradients.far(gradients.summary(loss, ours), golden)
    worst = max(found, key=found.__getitem__)
    assert found[worst] < 2e-4, (worst, found[worst])
    assert len(golden["gradients"]) > 20


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_of_scgpt(pool: str, tmp_path: Path) -> None:
    published_scgpt.write_published(tmp_path / "published")
    folder = cellscribe.import_model(tmp_path / "published", tmp_path / "m", log=lambda _: None)
    model = open_model(folder, ModelOptions(pool=pool)).cells
    columns = np.arange(len(published_scgpt.MADE_NAMES), dtype=np.int32)
    loss, found = step(model, model.tokenize(published_scgpt.made_cells(), columns))
    check("scgpt", pool, loss, {published_name(name): x for name, x in found.items()})


@pytest.mark.parametrize("pool", ["all", "max"])
def test_of_scfoundation(pool: str, tmp_path: Path) -> None:
    names = published_scfoundation.MADE_NAMES
    published_scfoundation.write_published(tmp_path / "published", names=names)
    folder = cellscribe.import_model(tmp_path / "published", tmp_path / "m", log=lambda _: None)
    opened = open_model(folder, ModelOptions(pool=pool))
    cells = opened.cells.tokenize(
        published_scfoundation.made_cells()[:4], np.arange(len(names), dtype=np.int32)
    )
    loss, found = step(opened.cells, cells)
    config: Any = opened.cells.network.config
    check("scfoundation", pool, loss, unstacked(found, names_of_scfoundation(config, "cell")))


@pytest.mark.parametrize("pool", ["mean", "conv"])
def test_of_scbert(pool: str, tmp_path: Path) -> None:
    """Also of the convolution over genes that its fine-tuning adds."""
    source, _ = published_scbert.write_published(
        tmp_path / "published", genes=SCBERT["genes"], classes=3 if pool == "conv" else 0
    )
    folder = cellscribe.import_model(
        source, tmp_path / "m", genes=source.parent / "genes.txt", log=lambda _: None
    )
    model = open_model(folder).cells
    counts = csr_matrix(np.array([cell["counts"] for cell in SCBERT["cells"]], np.int32))
    loss, found = step(model, model.tokenize(counts, np.arange(96, dtype=np.int32)))
    layers = {name: x for name, x in found.items() if not name.startswith("convolution.")}
    # fixed, so that the published network gives it no gradient
    layers.pop("places.weight")
    names = {ours: parts for ours, parts in tensor_names(2).items() if ours in layers}
    named = unstacked(layers, names)
    for ours, theirs in (("conv", "conv1"), ("fc1", "fc1"), ("fc2", "fc2")):
        for kind in ("weight", "bias"):
            if pool == "conv":
                named[f"to_out.{theirs}.{kind}"] = found[f"convolution.{ours}.{kind}"]
    if pool == "conv":
        weight = named["to_out.conv1.weight"]
        named["to_out.conv1.weight"] = weight.reshape(1, 1, *weight.shape)
    check("scbert", pool, loss, named)


# --- the BERTs, against transformers --------------------------------------------------------------


def reference(folder: Path, header: RankedHeader) -> Any:
    """The model's encoder as `transformers` builds it, with norms where it has them."""
    transformers = pytest.importorskip("transformers")
    if header.config.norm == "post":
        return transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    config = transformers.MegatronBertConfig(
        **{
            name: getattr(header.config, name)
            for name in (
                "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                "intermediate_size", "max_position_embeddings", "hidden_act", "layer_norm_eps",
                "pad_token_id",
            )
        },
        type_vocab_size=1,
    )  # fmt: skip
    network = transformers.MegatronBertModel(config, add_pooling_layer=False).eval()
    state = {}
    for name, tensor in open_model(folder).cells.stored().items():
        if name.startswith("bert."):
            state[megatron_name(name.removeprefix("bert."))] = tensor
    state["embeddings.token_type_embeddings.weight"] = torch.zeros(1, header.config.hidden_size)
    network.load_state_dict(state)
    return network


def megatron_name(name: str) -> str:
    """Name of a tensor in `transformers`' pre-norm BERT; norms stand before what they serve."""
    name = name.replace("attention.output.LayerNorm.", "attention.ln.")
    name = name.replace("output.LayerNorm.", "ln.")
    return name.replace("embeddings.LayerNorm.", "encoder.ln.")


def padded(model: Any, cells: CellTokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens with the special ones around each cell, and the mask, ``[B, L]``."""
    rows = [
        [*model.specials.front, *cells.tokens[a:b].tolist(), *model.specials.back]
        for a, b in zip(cells.offsets, cells.offsets[1:], strict=False)
        if b > a
    ]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return tokens, mask


def pooled(model: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Vectors by plain slices."""
    vectors, front, back = [], len(model.specials.front), len(model.specials.back)
    for row, length in zip(hidden, mask.sum(1).tolist(), strict=True):
        genes = row[front : length - back]
        if model.rule.pool == "cls":
            vectors.append(row[0])
        elif model.rule.pool == "genes_but_last" and len(genes) > 1:
            vectors.append(genes[:-1].mean(0))
        else:
            vectors.append(genes.mean(0))
    return torch.stack(vectors)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["sc-fm", "geneformer V1", "geneformer V2", "bionemo"])
def test_of_berts_is_that_of_transformers(family: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = tiny_model
    if family != "sc-fm":
        name, _, version = family.partition(" ")
        source, genes = every.write(name, tmp_path / "published", *([version] if version else []))
        folder = cellscribe.import_model(source, tmp_path / "m", genes=genes, log=lambda _: None)
    opened = open_model(folder)
    model: Any = opened.cells
    header = opened.header
    assert isinstance(header, RankedHeader)
    adata = every.cells_of(folder, 6)
    cells = model.tokenize(csr_matrix(adata.X), header.map_genes(adata.var).token)
    loss, found = step(model, cells)
    network = reference(folder, header)
    tokens, mask = padded(model, cells)
    states = network(tokens, attention_mask=mask, output_hidden_states=True)
    n_layers, layer = header.config.num_hidden_layers, model.rule.hidden_layer
    hidden = states.hidden_states[n_layers + 1 + layer]
    if layer == -1:
        hidden = states.last_hidden_state
    theirs = gradients.loss_of(pooled(model, hidden, mask))
    theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    wanted = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    if header.config.norm == "pre":
        wanted.pop("embeddings.token_type_embeddings.weight")
    named = to_hugging_face({f"encoder.{name}": x for name, x in found.items()})
    ours = {name.removeprefix("bert."): x for name, x in named.items()}
    if header.config.norm == "pre":
        ours = {megatron_name(name): x for name, x in ours.items()}
    told = {name: x for name, x in ours.items() if name in wanted}
    assert told.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = max(float(gradient.abs().max()), 1e-6)
        assert float((told[name] - gradient).abs().max()) < 2e-4 * scale + 1e-6, name
