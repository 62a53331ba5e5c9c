"""Write ``checkpoint.json``: what scGPT's own code makes of checkpoints of formula weights.

    git clone https://github.com/bowang-lab/scGPT && git -C scGPT checkout cebd6fa
    PYTHONPATH=src:tests python tests/golden/make_scgpt.py scGPT

Needs torch, scanpy, the real cells and the published gene list of ``../shared``. Only the modules
that `embed_data` goes through are imported, past the package's own ``__init__`` (which asks for
much that is not used). Cells go through its collator in one padded batch, then its network, on the
CPU with torch's transformer layers. Its two random draws, bins of tied counts and the genes of long
cells, are replaced by ours; the bins that it might have drawn itself are recorded beside them.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata
import numpy as np
import torch
from families.published_scgpt import (
    MADE_NAMES,
    Size,
    made_cells,
    whole_human_names,
    write_published,
)
from scipy.sparse import csr_matrix

from cellscribe.config import ImportOptions, ModelOptions
from cellscribe.families.scgpt import checkpoint
from cellscribe.families.source import Source

SHARED = Path(__file__).resolve().parents[3] / "shared"
REAL = [
    ("pbmc3k_10x.h5ad", 0),
    ("pbmc3k_10x.h5ad", 15),
    ("pbmc3k_10x.h5ad", 18),
    ("pancreas_baron_human_came.h5ad", 0),
    ("pancreas_baron_human_came.h5ad", 6),
    ("pancreas_baron_human_came.h5ad", 9),
]
ABOUT = {
    "made by": "tests/golden/make_scgpt.py",
    "reference": "https://github.com/bowang-lab/scGPT at cebd6fae655b9c585a4807daa3ac31bb764f06b4",
    "torch": torch.__version__,
    "numpy": np.__version__,
    "steps": [
        "write the checkpoint of tests/families/published_scgpt.py (small, or full)",
        "give each cell's counts above zero, <cls> before them with value -2, to scGPT's "
        "DataCollator(max_length=1200, do_binning, sampling, keep_first_n_tokens=1)",
        "ties and subsets: our draws instead of the global generator's; `ranges` gives by count "
        "the lowest and the highest bin that scGPT may draw",
        "TransformerModel._encode(use_fast_transformer=False), evaluation mode, float32",
        "cls: place 0; mean: mean of the genes' places; both over their Euclidean norm",
    ],
}


def import_reference(checkout: Path) -> types.SimpleNamespace:
    """The modules of scGPT that `embed_data` uses."""
    for name in ("scgpt", "scgpt.model", "scgpt.utils", "scgpt.tokenizer"):
        package: Any = types.ModuleType(name)
        package.__path__ = [str(checkout.joinpath(*name.split(".")))]
        package.logger = logging.getLogger("scGPT")
        sys.modules[name] = package
    shell: Any = types.ModuleType("IPython")
    shell.get_ipython = lambda: None
    sys.modules.setdefault("IPython", shell)
    names = ("model.model", "data_collator", "preprocess", "utils.util", "tokenizer.gene_tokenizer")
    modules = [importlib.import_module(f"scgpt.{name}") for name in names]
    return types.SimpleNamespace(
        **{name.rpartition(".")[2]: module for name, module in zip(names, modules, strict=True)}
    )


def load_reference(parts: types.SimpleNamespace, folder: Path) -> tuple[Any, Any]:
    """Network and vocabulary, as `embed_data` makes them."""
    tokens = json.loads((folder / "vocab.json").read_text())
    # Its own from_file makes the same of it, in minutes: it builds a table anew for every token.
    vocab = parts.gene_tokenizer.GeneVocab([], default_token=None)
    for name in sorted(tokens, key=tokens.__getitem__):
        vocab.append_token(name)
    args = json.loads((folder / "args.json").read_text())
    model = parts.model.TransformerModel(
        ntoken=len(vocab),
        d_model=args["embsize"],
        nhead=args["nheads"],
        d_hid=args["d_hid"],
        nlayers=args["nlayers"],
        nlayers_cls=args["n_layers_cls"],
        n_cls=1,
        vocab=vocab,
        dropout=args["dropout"],
        pad_token=args["pad_token"],
        pad_value=args["pad_value"],
        do_mvc=True,
        use_fast_transformer=False,
    )
    parts.util.load_pretrained(model, torch.load(folder / "best_model.pt"), verbose=False)
    return model.eval(), vocab


def collate(
    parts: types.SimpleNamespace, vocab: Any, counts: csr_matrix, names: Sequence[str], ours: Any
) -> tuple[dict[str, torch.Tensor], list[dict[str, list[int]]]]:
    """scGPT's batch of these cells with our draws, and the range of bins of each count."""
    token_of = vocab.get_stoi()
    ids = np.array([token_of.get(name, -1) for name in names])
    dense = counts[:, ids >= 0].toarray()
    ids = ids[ids >= 0]
    examples, draws = [], []
    for cell, row in enumerate(dense):
        (places,) = np.nonzero(row)
        examples.append(
            {
                "genes": torch.from_numpy(np.insert(ids[places], 0, vocab["<cls>"])).long(),
                "expressions": torch.from_numpy(np.insert(row[places], 0, -2)).float(),
            }
        )
        span = slice(ours.offsets[cell], ours.offsets[cell + 1])
        draws.append((ids[places], dict(zip(ours.tokens[span], ours.values[span], strict=True))))
    ranges: list[dict[str, list[int]]] = []
    digitize = parts.preprocess._digitize

    def with_draws(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
        def at(u: np.ndarray | float) -> np.ndarray:
            with patch("numpy.random.rand", lambda n: np.broadcast_to(u, n)):
                return digitize(x, edges)

        high, low = at(0.0), at(1 - 1e-9)
        ranges.append(
            {
                str(int(count)): [int(low[x == count][0]), int(high[x == count][0])]
                for count in np.unique(x)
            }
        )
        genes, bins = draws[len(ranges) - 1]
        wanted = np.array([bins.get(gene, top) for gene, top in zip(genes, high, strict=True)])
        return at((high - wanted + 0.5) / (high - low + 1))

    def permutation(n: int, device: Any) -> torch.Tensor:
        genes, bins = draws[len(ranges) - 1]
        return torch.tensor(
            sorted(range(n), key=lambda place: genes[place] not in bins), device=device
        )

    collator = parts.data_collator.DataCollator(
        pad_token_id=vocab["<pad>"],
        pad_value=-2,
        do_mlm=False,
        do_binning=True,
        max_length=1200,
        sampling=True,
        keep_first_n_tokens=1,
    )
    with (
        patch.object(parts.preprocess, "_digitize", with_draws),
        patch("torch.randperm", permutation),
    ):
        return collator(examples), ranges


def record(
    parts: types.SimpleNamespace,
    size: Size,
    counts: csr_matrix,
    names: Sequence[str],
    vocabulary: Sequence[str],
) -> list[dict[str, Any]]:
    """What is kept of each cell."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_published(Path(scratch) / "model", size, names=vocabulary)
        read = checkpoint.read_published(Source(folder), ImportOptions())
        cells = checkpoint.load(read.settings, read.tensors, read.table, ModelOptions())
        token_of = {name: token for token, name in enumerate(vocabulary)}
        tokens = np.array([token_of.get(name, -1) for name in names], np.int32)
        ours = cells.tokenize(counts, tokens)
        model, vocab = load_reference(parts, folder)
        batch, ranges = collate(parts, vocab, counts, names, ours)
        padding = batch["gene"].eq(vocab["<pad>"])
        with torch.inference_mode():
            hidden = model._encode(batch["gene"], batch["expr"], src_key_padding_mask=padding)
    out = []
    for cell, bounds in enumerate(ranges):
        span = slice(ours.offsets[cell], ours.offsets[cell + 1])
        places = hidden[cell, ~padding[cell]].numpy()
        out.append(
            {
                "tokens": ours.tokens[span].tolist(),
                "bins": ours.values[span].astype(int).tolist(),
                "ranges": bounds,
                "cls": unit(places[0]),
                "mean": unit(places[1:].mean(axis=0)),
            }
        )
    return out


def unit(vector: np.ndarray) -> list[float]:
    """Scale to unit length; seven digits of each number."""
    return [float(f"{x:.7g}") for x in vector / np.linalg.norm(vector)]


def main(checkout: Path) -> None:
    """Write ``checkpoint.json``."""
    parts = import_reference(checkout)
    made = record(parts, "small", made_cells(), MADE_NAMES, MADE_NAMES)
    vocabulary = whole_human_names(SHARED / "genes")
    real, full = [], []
    for file in dict.fromkeys(file for file, _ in REAL):
        rows = [row for name, row in REAL if name == file]
        data = anndata.read_h5ad(SHARED / "data" / file)[rows]
        names = data.var["gene_symbol"].astype(str).tolist()
        counts = csr_matrix(data.X)
        small = record(parts, "small", counts, names, vocabulary)
        whole = record(parts, "full", counts[:2], names, vocabulary)
        real += [{"file": file, "row": row, **cell} for row, cell in zip(rows, small, strict=True)]
        full += [
            {"file": file, "row": row, "cls": cell["cls"]}
            for row, cell in zip(rows[:2], whole, strict=True)
        ]
    tables = (
        f'"{key}": [\n' + ",\n".join(json.dumps(cell) for cell in cells) + "\n]"
        for key, cells in (("made", made), ("real", real), ("full", full))
    )
    about = f'"about": {json.dumps(ABOUT, indent=1)}'
    text = "{\n" + ",\n".join((about, *tables)) + "\n}\n"
    Path(__file__).with_name("scgpt.json").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
