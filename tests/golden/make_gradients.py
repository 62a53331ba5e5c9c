"""Write ``gradients.json``: loss and gradients of one step by the published code of three families.

    for name in TencentAILabHealthcare/scBERT bowang-lab/scGPT biomap-research/scFoundation; do
        git clone https://github.com/$name; done
    git -C scBERT checkout 262fd4b && git -C scGPT checkout cebd6fa
    git -C scFoundation checkout d09626a
    PYTHONPATH=src:tests python tests/golden/make_gradients.py scBERT scGPT scFoundation

Needs torch, einops and scanpy; seconds. The networks are the published ones with the weights of
``families/published_*.py`` (small), every parameter with a gradient that has one there, in float32
and evaluation mode; the cells are those of the other goldens, tokenised by us. The loss is that of
``families/gradients.py``. scBERT's convolution is the class `Identity` of its ``finetune.py``, with
the width 200 that stands in it replaced by the small network's; its last layer is that head.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import make_scbert  # noqa: E402
import make_scgpt  # noqa: E402
from families import gradients, published_scbert, published_scfoundation, published_scgpt  # noqa: E402

from cellscribe.config import ImportOptions, ModelOptions  # noqa: E402
from cellscribe.families.registry import NETWORKS  # noqa: E402
from cellscribe.families.source import Source  # noqa: E402


def step(network: nn.Module, vectors_BD: torch.Tensor) -> dict[str, Any]:
    """Take the loss back through a network, and sum up."""
    loss = gradients.loss_of(vectors_BD)
    network.zero_grad()
    loss.backward()
    # a tensor that the vectors do not use has no gradient, or one of zeros
    used = {n: p.grad for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    return gradients.summary(loss, used)


def scgpt(checkout: Path) -> dict[str, Any]:
    """<cls> and mean, scaled to unit length."""
    parts = make_scgpt.import_reference(checkout)
    names, counts = published_scgpt.MADE_NAMES, published_scgpt.made_cells()
    with tempfile.TemporaryDirectory() as scratch:
        folder = published_scgpt.write_published(Path(scratch))
        read = NETWORKS["scgpt"].read_published(Source(folder), ImportOptions())
        cells = NETWORKS["scgpt"].load(read.settings, read.tensors, read.table, ModelOptions())
        ours = cells.tokenize(counts, np.arange(len(names), dtype=np.int32))
        model, vocab = make_scgpt.load_reference(parts, folder)
    batch, _ = make_scgpt.collate(parts, vocab, counts, names, ours)
    padding = batch["gene"].eq(vocab["<pad>"])
    out = {}
    for pool in ("cls", "mean"):
        hidden = model._encode(batch["gene"], batch["expr"], src_key_padding_mask=padding)
        vectors = hidden[:, 0]
        if pool == "mean":
            vectors = torch.stack(
                [hidden[cell, ~padding[cell]][1:].mean(0) for cell in range(len(hidden))]
            )
        out[pool] = step(model, F.normalize(vectors))
    return out


def scbert(checkout: Path) -> dict[str, Any]:
    """Mean over genes, and the convolution over all places; each cell is a batch of its own."""
    shape = published_scbert.SHAPES["small"]
    network = make_scbert.reference(checkout, shape)
    golden = json.loads((HERE / "scbert.json").read_text())["small"]
    tokens = [torch.tensor(cell["tokens"])[None] for cell in golden["cells"]]
    out = {}
    hidden = [network(row, return_encodings=True)[0] for row in tokens]
    out["mean"] = step(network, torch.stack([each[:-1].mean(0) for each in hidden]))
    classifier = _identity(checkout, shape)
    network.to_out = classifier
    classifier.fc3 = nn.Identity()
    vectors = torch.cat([network(row) for row in tokens])
    out["conv"] = step(network, vectors)
    return out


def _identity(checkout: Path, shape: published_scbert.Shape) -> Any:
    """The published classifier with the weights of `convolution` below."""
    text = (checkout / "finetune.py").read_text()
    (found,) = (
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and node.name == "Identity"
    )
    source = ast.get_source_segment(text, found)
    assert source is not None
    space: dict[str, Any] = {"torch": torch, "nn": nn, "SEQ_LEN": shape.genes + 1}
    exec(source.replace("(1, 200)", f"(1, {shape.width})"), space)
    classifier = space["Identity"](h_dim=128, out_dim=gradients.CLASSES)
    state = classifier.state_dict()
    for name, tensor in published_scbert.convolution(shape).items():
        state[name] = tensor
    classifier.load_state_dict(state)
    return classifier


def scfoundation(checkout: Path) -> dict[str, Any]:
    """Both pools of the branch for cells, as ``get_embedding.py`` makes them."""
    sys.path.insert(0, str(checkout / "model"))
    load = importlib.import_module("load")
    counts = published_scfoundation.made_cells()[:4]
    names = published_scfoundation.MADE_NAMES
    with tempfile.TemporaryDirectory() as scratch:
        folder = published_scfoundation.write_published(Path(scratch), names=names)
        read = NETWORKS["scfoundation"].read_published(Source(folder), ImportOptions())
        family = NETWORKS["scfoundation"]
        cells = family.load(read.settings, read.tensors, read.table, ModelOptions())
        with patch("torch.nn.Module.cuda", lambda module: module):
            model, config = load.load_model_frommmf(str(folder / "models.ckpt"), "cell")
    ours = cells.tokenize(counts, np.arange(len(names), dtype=np.int32))
    assert ours.values is not None
    values = torch.zeros(len(counts.toarray()), len(names) + 2)
    for cell in range(len(values)):
        own = slice(ours.offsets[cell], ours.offsets[cell + 1])
        values[cell, ours.tokens[own].astype(np.int64)] = torch.from_numpy(ours.values[own])
    places = torch.arange(values.shape[1]).repeat(len(values), 1)
    model.eval()
    out = {}
    for pool in ("all", "max"):
        pad = config["pad_token_id"]
        # one cell at a time, as the published program reads them: no place is padding
        vectors = []
        for row, place in zip(values, places, strict=True):
            shown, padding = load.gatherData(row[None], row[None] > 0, pad)
            where, _ = load.gatherData(place[None], row[None] > 0, pad)
            x = model.token_emb(shown[..., None].float(), output_weight=0) + model.pos_emb(where)
            hidden = model.encoder(x, padding)[0]
            if pool == "max":
                vectors.append(hidden.max(0).values)
            else:
                genes = hidden[:-2]
                parts = [hidden[-1], hidden[-2], genes.max(0).values, genes.mean(0)]
                vectors.append(torch.cat(parts))
        out[pool] = step(model, torch.stack(vectors))
    return out


def main(folders: list[Path]) -> None:
    """Write ``gradients.json``."""
    torch.set_num_threads(1)
    unused: Any = types.ModuleType("local_attention")
    unused.LocalAttention = object
    sys.modules["local_attention"] = unused
    made = {
        "about": {"made by": "tests/golden/make_gradients.py", "torch": torch.__version__},
        "scbert": scbert(folders[0]),
        "scgpt": scgpt(folders[1]),
        "scfoundation": scfoundation(folders[2]),
    }
    text = json.dumps(made, indent=1).replace("\n     ", " ").replace("\n    ]", "]")
    (HERE / "gradients.json").write_text(text + "\n")


if __name__ == "__main__":
    main([Path(folder).resolve() for folder in sys.argv[1:4]])
