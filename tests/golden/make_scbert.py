"""Record what scBERT's own network gives for our made-up checkpoints: ``tests/golden/scbert.json``.

Run by hand, once, beside a clone of the reference (GPL-3; no part of it is here):

    python tests/golden/make_scbert.py CLONE SHARED_DATA

with cellscribe, torch, einops and scanpy. ``local_attention`` is not needed: no head is local, so a
name is enough.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from families.published_scbert import SHAPES, Shape, published_genes, published_state  # noqa: E402

SMALL = ("pbmc3k_10x.h5ad", (0, 1, 2, 700, 1500, 2699))
FULL = (("pbmc3k_10x.h5ad", 0), ("pancreas_baron_human_came.h5ad", 5), ("malt_10x_streak.h5ad", 9))
HOW = (
    "github.com/TencentAILabHealthcare/scBERT at 262fd4b, torch {torch}, scanpy {scanpy}, one "
    "thread, float32, batch 1, eval. The checkpoint is families/published_scbert.py's; PerformerLM("
    "num_tokens=7, dim, depth, max_seq_len=genes+1, heads, local_attn_heads=0, "
    "g2v_position_emb=True) loads it strictly (../data/gene2vec_16906.npy is a table of zeros, "
    "overwritten by the checkpoint's). Counts are brought to the gene order (first column of a "
    "symbol), then scanpy normalize_total(1e4), log1p(base=2), at most 5, whole numbers; token 0 "
    "is appended. hidden: return_encodings=True; mean and max over all places but the last. "
    "importance: output_attentions=True, mean over heads and places, over its sum, with "
    "torch.float16 set to torch.float32 (in half precision these weights overflow)."
)


def reference(clone: Path, shape: Shape) -> Any:
    """The reference network with the checkpoint's tensors."""
    sys.modules["local_attention"] = types.ModuleType("local_attention")
    sys.modules["local_attention"].LocalAttention = object  # type: ignore[attr-defined]
    sys.path.insert(0, str(clone))
    from performer_pytorch.performer_pytorch import PerformerLM

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        (Path(folder) / "run").mkdir()
        zeros = np.zeros((shape.genes, shape.width))
        np.save(Path(folder) / "data" / "gene2vec_16906.npy", zeros)
        before = os.getcwd()
        os.chdir(Path(folder) / "run")
        network = PerformerLM(
            num_tokens=7,
            dim=shape.width,
            depth=shape.depth,
            max_seq_len=shape.genes + 1,
            heads=shape.heads,
            local_attn_heads=0,
            g2v_position_emb=True,
        )
        os.chdir(before)
    network.load_state_dict(published_state(shape))
    return network.eval()


def aligned(path: Path, row: int, genes: list[str]) -> np.ndarray:
    """Counts of a cell in the model's order of genes."""
    import anndata

    adata = anndata.read_h5ad(path)
    names = adata.var["gene_symbol"].astype(str).tolist()
    column = {name: i for i, name in reversed(list(enumerate(names)))}
    counts = np.asarray(adata.X[row].todense()).ravel()
    return np.array([counts[column[g]] if g in column else 0 for g in genes], np.float32)


def tokens_of(counts: np.ndarray) -> np.ndarray:
    """Tokens of one cell, the appended one among them."""
    import anndata
    import scanpy
    from scipy.sparse import csr_matrix

    cell = anndata.AnnData(csr_matrix(counts[None]))
    scanpy.pp.normalize_total(cell, target_sum=1e4)
    scanpy.pp.log1p(cell, base=2)
    values = np.append(np.minimum(cell.X.toarray()[0], 5), 0)
    return values.astype(np.int64)


def hidden(network: Any, tokens: np.ndarray) -> torch.Tensor:
    """Last hidden layer after the norm."""
    with torch.no_grad():
        encoded: torch.Tensor = network(torch.from_numpy(tokens)[None], return_encodings=True)
    return encoded[0]


def importance(network: Any, tokens: np.ndarray) -> list[float]:
    """Share of attention of every place."""
    with torch.no_grad():
        half, torch.float16 = torch.float16, torch.float32
        table = network(torch.from_numpy(tokens)[None], output_attentions=True)[1]
        torch.float16 = half
    column = table.mean((0, 1, 2))
    return floats(column / column.sum())


def floats(x: torch.Tensor) -> list[float]:
    """Numbers with as many digits as float32 has."""
    return [float(f"{value:.8g}") for value in x.flatten().tolist()]


def most_counted(path: Path, n: int) -> list[str]:
    """Symbols with the most counts in a file, in alphabetical order."""
    import anndata

    adata = anndata.read_h5ad(path)
    names = adata.var["gene_symbol"].astype(str)
    totals = np.asarray(adata.X.sum(axis=0)).ravel()
    once = (names != "").to_numpy() & ~names.duplicated(keep=False).to_numpy()
    order = [i for i in np.argsort(-totals, kind="stable") if once[i]]
    return sorted(names.iloc[order[:n]])


def main(clone: Path, data: Path) -> None:
    """Make both goldens."""
    torch.set_num_threads(1)
    from importlib.metadata import version

    shape = SHAPES["small"]
    network, genes = reference(clone, shape), most_counted(data / SMALL[0], shape.genes)
    small: dict[str, Any] = {"file": SMALL[0], "genes": genes, "cells": []}
    for row in SMALL[1]:
        counts = aligned(data / SMALL[0], row, genes)
        tokens = tokens_of(counts)
        vectors = hidden(network, tokens)
        cell = {
            "row": row,
            "counts": counts.astype(int).tolist(),
            "tokens": tokens.tolist(),
            "mean": floats(vectors[:-1].mean(0)),
            "max": floats(vectors[:-1].amax(0)),
            "importance": importance(network, tokens),
        }
        small["cells"].append(cell)
    small["hidden_of_first"] = [
        floats(vector) for vector in hidden(network, np.array(small["cells"][0]["tokens"]))
    ]
    shape = SHAPES["full"]
    network, genes = reference(clone, shape), published_genes(shape)
    full: dict[str, Any] = {"cells": []}
    for file, row in FULL:
        counts = aligned(data / file, row, genes)
        tokens = tokens_of(counts)
        vectors = hidden(network, tokens)
        expressed = np.flatnonzero(counts)
        full["cells"].append(
            {
                "file": file,
                "row": row,
                "total": int(counts.sum()),
                "expressed": len(expressed),
                "above_zero": np.flatnonzero(tokens).tolist(),
                "bins": "".join(map(str, tokens[tokens > 0])),
                "mean": floats(vectors[:-1].mean(0)),
                "max": floats(vectors[:-1].amax(0)),
                "every_500th": [floats(vector) for vector in vectors[::500, :10]],
            }
        )
        print(file, row, counts.sum(), len(expressed), flush=True)
    how = HOW.format(torch=torch.__version__.partition("+")[0], scanpy=version("scanpy"))
    text = json.dumps({"how": how, "small": small, "full": full}, separators=(",", ":"))
    (HERE / "scbert.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
